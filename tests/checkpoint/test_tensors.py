"""safetensors files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from bnfold.checkpoint import read
from bnfold.checkpoint.tensors import read_tensors
from tests.checkpoint.files import error_of, trained

GOOD = save(trained(), {"format": "pt", "epoch": "3"})
LENGTH = int.from_bytes(GOOD[:8], "little")
DATA = len(GOOD) - 8 - LENGTH


def written(folder: Path, content: bytes) -> Path:
    (folder / "a.safetensors").write_bytes(content)
    return folder / "a.safetensors"


def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
    state = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in kinds}
    state |= {"empty": torch.empty(0, 3), "scalar": torch.tensor(1.5)}
    found = read_tensors(written(tmp_path, save(state)))
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        assert found[key].equal(value), key


def test_not_a_number_comes_back_with_its_bits(tmp_path: Path) -> None:
    bits = torch.tensor([0x7FC00001, 0x7F800000 - 2**32 + 2**31, 1], dtype=torch.int64).to(torch.int32)
    found = read_tensors(written(tmp_path, save({"w": bits.view(torch.float32)})))["w"]
    assert found.view(torch.int32).tolist() == bits.tolist()


def test_the_metadata_is_no_tensor(tmp_path: Path) -> None:
    checkpoint = read(written(tmp_path, GOOD))
    assert (checkpoint.format, list(checkpoint.state_dicts)) == ("safetensors", ["state_dict"])
    assert set(checkpoint.pick()) == set(trained())


@pytest.mark.parametrize("missing", [1, 4, DATA])
def test_cut_in_the_data(tmp_path: Path, missing: int) -> None:
    error = error_of(lambda: read(written(tmp_path, GOOD[: len(GOOD) - missing])), "L020")
    assert error.what == f"a.safetensors is truncated: {missing:,} bytes are missing".replace(
        "1 bytes are", "1 byte is"
    )
    assert error.where == f"header announces {DATA} bytes of tensor data, the file has {DATA - missing}"


@pytest.mark.parametrize("length", [7, 8, 9, 60, 8 + LENGTH - 1])
def test_cut_in_the_header(tmp_path: Path, length: int) -> None:
    error = error_of(lambda: read(written(tmp_path, GOOD[:length])), "L020")
    assert "truncated inside its header" in error.what
    assert f"{max(length - 8, 0)} bytes follow" in error.where


def test_longer_than_announced(tmp_path: Path) -> None:
    error = error_of(lambda: read(written(tmp_path, GOOD + b"\0")), "L020")
    assert error.what == "a.safetensors is longer than it should be"


@pytest.mark.parametrize("length", [LENGTH - 10, LENGTH + 1, 0, 2**63, 2**64 - 1])
def test_a_wrong_header_length(tmp_path: Path, length: int) -> None:
    content = struct.pack("<Q", length) + GOOD[8:]
    error_of(lambda: read(written(tmp_path, content)), "L020" if length > len(GOOD) else "L021")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dtype": "F31"}, "F31"),
        ({"shape": [2, 2]}, "invalid shape"),
        ({"shape": [-1]}, "-1"),
        ({"data_offsets": "all"}, '"conv.weight" has no pair of data_offsets'),
        ({"data_offsets": [8]}, '"conv.weight" has no pair of data_offsets'),
        (None, '"conv.weight" has no pair of data_offsets'),
    ],
)
def test_a_damaged_entry(tmp_path: Path, change: dict[str, object] | None, told: str) -> None:
    header = json.loads(GOOD[8 : 8 + LENGTH])
    header["conv.weight"] = None if change is None else header["conv.weight"] | change
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + GOOD[8 + LENGTH :]
    assert told in error_of(lambda: read(written(tmp_path, content)), "L021").where


def test_a_flipped_payload_byte_is_seen_by_the_digest_alone(tmp_path: Path) -> None:
    import hashlib

    flipped = GOOD[:-9] + bytes([GOOD[-9] ^ 1]) + GOOD[-8:]
    path = written(tmp_path, flipped)
    assert read(path).sha256 == hashlib.sha256(flipped).hexdigest()
    error_of(lambda: read(path, sha256=hashlib.sha256(GOOD).hexdigest()), "L009")
