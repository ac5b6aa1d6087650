from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bnfold.checkpoint import read, saving
from bnfold.errors import CheckpointError

NAN_BITS = torch.tensor([0x7FC00001, 0x7F800000, 0x00000001], dtype=torch.int32).view(torch.float32)


def tensors() -> dict[str, torch.Tensor]:
    return {
        "bn.running_mean": NAN_BITS.clone(),
        "bn.num_batches_tracked": torch.tensor(7),
        "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
        "empty": torch.empty(0, 3),
    }


def save(path: Path) -> None:
    if path.suffix == ".pt":
        torch.save(tensors(), path)
    else:
        save_file(tensors(), path, metadata={"b": "2", "a": "1", "ö": "ü"})


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_every_bit_comes_back(tmp_path: Path, name: str) -> None:
    source, target = tmp_path / name, tmp_path / f"new.{name}"
    save(source)
    checkpoint = read(source)
    entries = checkpoint.pick()
    record = saving.record_of(entries, {"method": "one pass"})
    changed = {key: torch.zeros_like(value) for key, value in entries.items()}
    data = saving.to_bytes(checkpoint, changed, record, {"": {"version": 1}})
    assert data == saving.to_bytes(checkpoint, changed, record, {"": {"version": 1}})
    target.write_bytes(data)
    assert saving.read_record(source) is None
    found = saving.read_record(target)
    assert found is not None
    assert (found["how"], found["previous"]) == ({"method": "one pass"}, None)
    for key, value in saving.restored(found).items():
        original = tensors()[key]
        assert (value.dtype, value.shape) == (original.dtype, original.shape)
        assert value.reshape(-1).view(torch.uint8).tolist() == original.reshape(-1).view(torch.uint8).tolist()
    again = read(target).pick()
    assert all(not tensor.any() for tensor in again.values())
    if name.endswith("pt"):
        assert saving.versions_in(target)[""] == {"version": 1}
    else:
        assert list(load_file(target)) == list(load_file(source))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        original = source.read_bytes()
        before = json.loads(original[8 : 8 + int.from_bytes(original[:8], "little")])["__metadata__"]
        assert list(header["__metadata__"].items())[:3] == list(before.items())
        assert int.from_bytes(data[:8], "little") % 8 == 0


def test_views_of_a_large_storage_are_written_alone(tmp_path: Path) -> None:
    large = torch.zeros(100_000)
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    data = saving.to_bytes(read(tmp_path / "a.pt"), {"a": large[:3], "b": large[:3]}, None)
    assert len(data) < 5_000


def test_a_damaged_record(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors")
    checkpoint = read(tmp_path / "a.safetensors")
    no_dtype = {"dtype": "Tensor", "shape": [], "data": ""}
    for wrong in ({"schema": 9, "old": {}}, {"schema": 1, "old": {"x": no_dtype}}):
        (tmp_path / "b.safetensors").write_bytes(saving.to_bytes(checkpoint, checkpoint.pick(), wrong))
        with pytest.raises(CheckpointError) as caught:
            saving.read_record(tmp_path / "b.safetensors")
        assert caught.value.code == "BNF-L041"
