"""Garbage collection while graphs are traced and converted."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_OBJECTS = 50_000  # made between two collections: by default 700, and one traced operator makes thousands


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Collect garbage rarely, and only among the objects made inside.

    The libraries that convert hold a million objects which live to the end; a collection that walks all of
    them, again and again, is a tenth of a conversion's time. For a caller who has frozen objects, or collects
    none, nothing changes.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
