"""Pickles: nothing in them runs, whatever container they come in."""

from __future__ import annotations

import argparse
import importlib
import os
import pickle
import sys
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.checkpoint import load, read
from bnfold.errors import CheckpointError
from tests.checkpoint.files import Net, assert_holds, error_of, saved, trained
from tests.damaged import torch_bytes


class Touches:
    """Unpickling it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


PLACES: dict[str, Callable[[object], object]] = {
    "alone": lambda bad: bad,
    "value": lambda bad: trained() | {"fc.bias": bad},
    "key": lambda bad: {**trained(), (bad,): 1},
    "beside": lambda bad: {"state_dict": trained(), "hyper_parameters": bad},
    "deep": lambda bad: {"state_dict": trained(), "a": [({"b": [bad]},)]},
    "ordered": lambda bad: OrderedDict(trained(), z=bad),
}


@pytest.mark.parametrize("forced", ["", "1"], ids=["", "loader forced to trust"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_pickle_is_named_and_not_run(
    tmp_path: Path, place: str, legacy: bool, forced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)  # an environment must not open the door
    canary = tmp_path / "canary"
    path = saved(tmp_path / "a.pt", PLACES[place](Touches(canary)), legacy=legacy)
    error = error_of(lambda: load(path, Net), "L002")
    assert "posix.mkdir" in f"{error.what} {error.where}"
    assert "do not load the file" in error.fix
    assert not canary.exists()
    with (
        pytest.raises(CheckpointError)
        if place in ("alone", "value", "key", "ordered")
        else warnings.catch_warnings()
    ):
        load(path, Net, trust_pickle=True)
    assert canary.is_dir()  # the file is what it claims to be


@pytest.mark.parametrize(
    ("protocol", "code"), [(0, "L008"), (1, "L002"), (2, "L002"), (4, "L032"), (5, "L032")]
)
def test_a_hostile_plain_pickle(tmp_path: Path, protocol: int, code: str) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Touches(canary), protocol))
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path / "a.pt")
    assert caught.value.code in (f"BNF-{code}", "BNF-L008")
    assert not canary.exists()


def test_all_the_names_are_listed_and_the_dangerous_one_first(tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(lr=0.1), "x": Touches(tmp_path / "canary"), "state_dict": trained()}
    error = error_of(lambda: read(saved(tmp_path / "a.pt", content)), "L002")
    assert error.what.endswith("posix.mkdir")
    assert '"argparse.Namespace"' in error.where
    assert not (tmp_path / "canary").exists()


def test_a_harmless_class_can_be_trusted(tmp_path: Path) -> None:
    content = {"state_dict": trained(), "hyper_parameters": argparse.Namespace(lr=0.1)}
    path = saved(tmp_path / "a.ckpt", content)
    assert "--trust-pickle" in error_of(lambda: load(path, Net), "L002").fix
    assert_holds(load(path, Net, trust_pickle=True), trained())


def test_a_trusted_module_gives_its_state_dict(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    path = saved(tmp_path / "a.pt", {"model": module, "epoch": 3})
    error_of(lambda: read(path), "L029")
    found = read(path, trust_pickle=True)
    assert list(found.state_dicts) == ["model"]
    assert found.pick()["0.weight"].equal(module[0].weight)
    whole = read(saved(tmp_path / "b.pt", module), trust_pickle=True)
    assert whole.pick()["1.running_var"].equal(torch.ones(3))


class _Call:
    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self._call = (function, args)

    def __reduce__(self) -> tuple[object, ...]:
        return self._call


def test_a_trusted_pickle_that_exits_is_an_error_not_an_exit(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", trained() | {"fc.bias": _Call(sys.exit, 0)})
    error_of(lambda: read(path, trust_pickle=True), "L030")


@pytest.mark.parametrize("protocol", [0, 1, 4, 5])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_protocols_that_the_safe_loader_lacks(tmp_path: Path, protocol: int, legacy: bool) -> None:
    path = saved(tmp_path / "a.pt", trained(), protocol=protocol, legacy=legacy)
    shown = "protocol 0 or 1" if protocol < 2 else f"protocol {protocol}"
    assert shown in error_of(lambda: read(path), "L028").what
    if protocol == 0:  # torch itself cannot read what it wrote
        assert shown in error_of(lambda: read(path, trust_pickle=True), "L028").what
    else:
        assert_holds(load(path, Net, trust_pickle=True), trained())


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_protocols_that_it_reads(tmp_path: Path, protocol: int, legacy: bool) -> None:
    path = saved(tmp_path / "a.pt", trained(), protocol=protocol, legacy=legacy)
    assert_holds(load(path, Net), trained())


def test_a_damaged_pickle_is_not_taken_for_another_protocol(tmp_path: Path) -> None:
    """A flipped byte can turn an operation into one of protocol 4; the pickle's own header tells."""
    content = torch_bytes(trained(), legacy=True)
    codes = set()
    for place in range(20, len(content), 17):
        (tmp_path / "a.pt").write_bytes(content[:place] + b"\x94" + content[place + 1 :])
        try:
            read(tmp_path / "a.pt")
        except CheckpointError as error:
            codes.add(error.code)
    assert "BNF-L027" in codes
    assert "BNF-L028" not in codes


def test_what_training_scripts_put_beside_the_weights(tmp_path: Path) -> None:
    content = {
        "state_dict": trained(),
        "epoch": 3,
        "best": 0.5,
        "name": "net",
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "history": [1.0, 2.0],
        "flags": {"a": True, "b": None},
        "rng_state": torch.zeros(8, dtype=torch.uint8),
    }
    assert_holds(load(saved(tmp_path / "a.pt", content), Net), trained())


def test_numpy_scalars_beside_the_weights_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"state_dict": trained(), "loss": np.float64(0.5)})
    assert "numpy" in error_of(lambda: read(path), "L002").what


def test_a_factory_in_a_default_dict(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"state_dict": trained(), "seen": defaultdict(list)})
    assert "defaultdict" in error_of(lambda: read(path), "L002").what


def test_tensors_of_another_device_come_to_the_cpu(tmp_path: Path) -> None:
    """Saved on a GPU, read where there is none: the tag in the pickle says cuda:0."""
    content = torch_bytes(trained(), legacy=True)
    tagged = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert tagged != content
    (tmp_path / "a.pt").write_bytes(tagged)
    assert_holds(load(tmp_path / "a.pt", Net), trained())


def test_a_trusted_pickle_finds_the_classes_where_the_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not what has the same name in the current folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "beside.py").write_text("raise RuntimeError('not this one')\n", "utf-8")
    (folder / "beside.py").write_text("import torch\n\nclass Net(torch.nn.Linear):\n    pass\n", "utf-8")
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("beside").Net(2, 3)
    path = saved(tmp_path / "whole.pt", module)
    monkeypatch.undo()
    sys.modules.pop("beside")
    monkeypatch.chdir(tmp_path)
    found = load(path, f"{folder / 'beside.py'}:Net", model_args=[2, 3], trust_pickle=True)
    assert torch.equal(found.weight, module.weight)
