"""Garbage collection is put off during conversions, and everything is as before after them."""

from __future__ import annotations

import gc

import pytest

from bnfold.garbage import rarely_collected


@rarely_collected()
def fails(before: tuple[int, int, int]) -> None:
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] > before[0]
    raise ZeroDivisionError


def test_restored_after_an_error() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError):
        fails(before)
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == before


def test_a_caller_s_frozen_objects_stay_frozen() -> None:
    gc.freeze()
    try:
        count, before = gc.get_freeze_count(), gc.get_threshold()
        with rarely_collected(), rarely_collected():
            assert gc.get_threshold() == before
        # unfrozen there would be none left; a few may die meanwhile, of other threads
        assert count - 1000 < gc.get_freeze_count() <= count
    finally:
        gc.unfreeze()


def test_a_caller_who_collects_none() -> None:
    gc.disable()
    try:
        with rarely_collected():
            assert gc.get_freeze_count() == 0
        assert not gc.isenabled()
    finally:
        gc.enable()
