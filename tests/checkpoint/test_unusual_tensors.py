"""Tensors that are no dense arrays of numbers: refused by name where they are used, and shown otherwise."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bnfold.checkpoint import load, read
from bnfold.checkpoint.fit import unusual
from tests.checkpoint.files import Net, assert_holds, error_of, saved, trained


def jagged() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        return torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (jagged, "nested"),
        (lambda: torch.ones(2).to_sparse(), "sparse"),
        (lambda: torch.ones(2, device="meta"), "meta device"),
    ],
)
def test_named_and_refused(tmp_path: Path, make: object, what: str) -> None:
    value = make()  # type: ignore[operator]
    assert what in unusual(value)
    path = saved(tmp_path / "a.pt", trained() | {"bn.running_mean": value})
    assert what in error_of(lambda: load(path, Net), "L038").what


def test_an_ordinary_tensor_is_not() -> None:
    assert unusual(torch.ones(2, 3).t()) == ""


def test_expanded_tensors_are_used_where_they_fit(tmp_path: Path) -> None:
    state = trained() | {"bn.running_mean": torch.ones(1).expand(2)}
    assert_holds(load(saved(tmp_path / "a.pt", state), Net), state)
    huge = trained() | {"bn.running_mean": torch.ones(1).expand(10**12)}
    error_of(lambda: load(saved(tmp_path / "b.pt", huge), Net), "L012")


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "good.safetensors")
    for suffix in (".safetensors", ".pt"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/w\xff" + suffix.encode()))
        if suffix == ".pt":
            saved(path, trained())
        else:
            path.write_bytes((tmp_path / "good.safetensors").read_bytes())
        assert_holds(load(path, Net), trained())
        assert read(path).path == path


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.pt").symlink_to("store/abc")
    assert "store/abc" in error_of(lambda: read(tmp_path / "a.pt"), "L001").where
