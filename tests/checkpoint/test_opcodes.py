"""Pickles that would exhaust the machine are refused before anything is built; good ones are not."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from bnfold.checkpoint import load, opcodes, read
from tests.checkpoint.files import Net, assert_holds, error_of, saved, trained
from tests.damaged import torch_bytes


def archive(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
    return path


def depth(count: int) -> bytes:
    return b"\x80\x02})" + b"\x85" * count + b"K\x01s."


# t = (); t = (t, t) over and over: 2 ** 40 items in 200 bytes
DOUBLED = b"\x80\x02)" + b"q\x00h\x00\x86" * 40 + b"."
SIZES = [b"\x8a\x05\x00\x00\x00\x00\x05", b"J\x00\x00\x00\x40"]  # 20 and 1 GiB


@pytest.mark.parametrize(
    ("pickled", "told"),
    [
        (depth(1000), "more than 100 tuples inside each other"),
        (depth(300_000), "more than 100 tuples inside each other"),
        (DOUBLED, "tuples that come to more than 1,000,000 items"),
        *[(b"\x80\x02cbuiltins\nbytearray\n" + s + b"\x85R.", "builtins.bytearray") for s in SIZES],
        (b"\x80\x02c__builtin__\nbytearray\n" + SIZES[0] + b"\x85R.", "__builtin__.bytearray"),
        (b"\x80\x02ctorch\nFloatTensor\n" + SIZES[0] + b"\x85R.", "torch.FloatTensor"),
        (b"\x80\x02ctorch\nTensor\n" + SIZES[0] + b"\x85\x81.", "torch.Tensor"),
        (b"\x80\x02ctorch.storage\nUntypedStorage\n" + SIZES[0] + b"\x85R.", "torch.storage.UntypedStorage"),
    ],
)
def test_bombs(tmp_path: Path, pickled: bytes, told: str) -> None:
    content = archive(tmp_path / "a.pt", pickled)
    assert told in error_of(lambda: read(content), "L040").where
    plain = tmp_path / "b.pt"
    plain.write_bytes(pickled)
    assert told in error_of(lambda: read(plain), "L040").where
    legacy = torch_bytes(trained(), legacy=True)
    whole = io.BytesIO(legacy)
    for _ in range(3):
        pickle.load(whole)
    legacy = legacy[: whole.tell()] + pickled
    (tmp_path / "c.pt").write_bytes(legacy)
    assert told in error_of(lambda: read(tmp_path / "c.pt"), "L040").where


@pytest.mark.parametrize("legacy", [False, True])
def test_what_checkpoints_hold_is_none(tmp_path: Path, legacy: bool) -> None:
    nested: object = 1
    for _ in range(90):
        nested = (nested,)
    content = {
        "state_dict": OrderedDict(trained()),
        "blob": bytearray(b"abc" * 1000),
        "size": torch.Size([10**6, 3]),
        "hyper_parameters": {"nested": nested, "list": list(range(10_000)), "tuple": tuple(range(10_000))},
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    path = saved(tmp_path / "a.pt", content, legacy=legacy)
    assert_holds(load(path, Net), trained())


def test_scan_names_what_is_asked_for_and_sees_where_a_pickle_ends() -> None:
    whole = pickle.dumps({"a": OrderedDict(b=1)}, 2)
    assert opcodes.scan(io.BytesIO(whole * 2), 2) == opcodes.Scan(["collections.OrderedDict"] * 2, True)
    for length in range(len(whole)):
        assert not opcodes.scan(io.BytesIO(whole[:length]), 1).complete
    assert not opcodes.scan(io.BytesIO(b"\x80\x02e."), 1).complete  # APPENDS onto nothing


@pytest.mark.parametrize("share", [0.001, 0.002, 0.05, 0.3, 0.7, 0.999])
def test_a_truncated_legacy_file_is_damaged_and_not_to_be_trusted(tmp_path: Path, share: float) -> None:
    whole = torch_bytes(trained(), legacy=True)
    path = tmp_path / "a.pt"
    path.write_bytes(whole[: 40 + int(share * (len(whole) - 40))])
    error = error_of(lambda: load(path, Net), "L027")
    assert "trust" not in str(error)
    assert "\\x1b" not in str(error)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"OrderedDict", b"OrderedEict"),
        (b"collections", b"collectionr"),
        (b"_rebuild_tensor", b"_rebuilt_tensor"),
    ],
)
def test_a_letter_that_changed_in_a_legacy_file(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(torch_bytes(OrderedDict(trained()), legacy=True).replace(old, new, 1))
    error = error_of(lambda: load(path, Net), "L027")
    assert "trust" not in str(error)
    assert "nothing is called so" in error.where


def test_a_whole_module_in_a_legacy_file(tmp_path: Path) -> None:
    error = error_of(lambda: read(saved(tmp_path / "a.pt", Net(), legacy=True)), "L029")
    assert "it needs tests.checkpoint.files.Net and" in error.where


def test_a_legacy_file_has_no_checksums(tmp_path: Path) -> None:
    (note,) = read(saved(tmp_path / "a.pt", trained(), legacy=True)).notes
    assert note.code == "BNF-L107"
