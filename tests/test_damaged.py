"""The damaged inputs themselves: that they are what they say, and that loading refuses them as it should."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bnfold.checkpoint import load
from bnfold.errors import CheckpointError
from tests import damaged

COUNT = 240


def network() -> nn.Module:
    """Small, with a 4-d and a 2-d weight, two BatchNorms and a flattened axis."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6)
    )


def make(folder: Path, count: int = COUNT, seed: int = 0) -> list[damaged.Damaged]:
    good = folder / "good.safetensors"
    save_file(network().state_dict(), good)
    model = f"{Path(__file__)}:network"
    return damaged.make_all(folder / "inputs", good, model, folder / "canary", seed=seed, count=count)


def test_every_input_gives_what_it_says(tmp_path: Path) -> None:
    """No other exception, no message without what, where and fix, and none of the hostile ones runs."""
    torch.set_num_threads(1)
    items = make(tmp_path)
    wrong: list[str] = []
    codes: set[str] = set()
    start = time.process_time()
    for item in items:
        try:
            load(item.path, network())
        except CheckpointError as error:
            codes.add(error.code)
            told = bool(error.where and error.fix) and len(str(error).splitlines()) == 3
            if item.outcome != "error" or not told:
                wrong.append(f"{item.name}: {error}")
            if item.name.startswith("hostile") and error.code not in HOSTILE.get(item.name, ("BNF-L002",)):
                wrong.append(f"{item.name}: {error}")
        else:
            if item.outcome != "finding":
                wrong.append(f"{item.name}: loaded")
        if (tmp_path / "canary").exists():
            pytest.fail(f"{item.name} ran foreign code")
    assert wrong == []
    assert len(items) == COUNT
    assert len(codes) >= 20, sorted(codes)
    assert time.process_time() - start < 30  # a bomb that is unpacked, a header that is believed


# what the loader cannot parse at all, it cannot name
HOSTILE = {
    "hostile_protocol_4.pt": ("BNF-L028",),
    "hostile_plain_pickle_0.pt": ("BNF-L008",),
    "hostile_plain_pickle_4.pt": ("BNF-L032",),
    "hostile_module.pt": ("BNF-L029",),
}


def test_the_hostile_ones_would_run_if_they_were_trusted(tmp_path: Path) -> None:
    """Otherwise a canary that stays away says nothing."""
    items = {item.name: item for item in make(tmp_path)}
    canary = tmp_path / "canary"
    for name in ("system", "eval", "exec", "mkdir", "copy", "touch", "torch_save", "legacy", "deep"):
        found = [item for key, item in items.items() if key.startswith(f"hostile_{name}.")]
        with suppress(CheckpointError):  # what it returns need not be a state dict
            load(found[0].path, network(), trust_pickle=True)
        assert canary.exists(), name
        canary.rmdir() if canary.is_dir() else canary.unlink()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    def content(folder: str, seed: int) -> dict[str, bytes]:
        (tmp_path / folder).mkdir()
        return {item.name: item.path.read_bytes() for item in make(tmp_path / folder, 200, seed)}

    first = content("a", 0)
    second = content("b", 0)
    # a hostile pickle holds the canary's path, the old format addresses of storages
    differ = {name for name in first if first[name] != second.get(name)}
    assert {name for name in differ if not name.startswith(("hostile", "cut_legacy"))} == set()
    assert any(first[name] != other for name, other in content("c", 1).items() if name.startswith("flip"))


def test_every_member_is_flipped(tmp_path: Path) -> None:
    flipped = {item.name.partition("_archive_")[2] for item in make(tmp_path) if item.name.startswith("flip")}
    assert {"data.pkl.pt", "version.pt", "byteorder.pt", "data_0.pt", "data_9.pt"} <= flipped
