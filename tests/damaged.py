"""Damaged inputs from one good checkpoint: what copying, downloading, training and malice make of it.

``make_all`` writes them; the same seed gives the same bytes (but for the storage addresses in torch's old
format, and the sentinel's path). Each says in `outcome` what must become of it:

- ``error``: refused while it is loaded. `load` raises CheckpointError, and every command that is given
  the file and its model exits with status 2.
- ``finding``: the file is intact and loads, but its values cannot be deployed. `load` passes; what checks
  the values (``audit``, ``convert``) exits with status 1, or 2, and writes no artifact.

The hostile ones create the file `sentinel` if anything of them is run: it must not exist afterwards.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import random
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor

Outcome = Literal["error", "finding"]
State = dict[str, Tensor]
Item = tuple[str, bytes, Outcome]  # file name, content, what must become of it


@dataclass(frozen=True)
class Damaged:
    """One input: `name` says what is wrong with it; `model` is the spec to load it into."""

    name: str
    path: Path
    model: str
    outcome: Outcome


def make_all(
    folder: Path, source: Path, model: str, sentinel: Path, *, seed: int = 0, count: int = 200
) -> list[Damaged]:
    """Writes `count` damaged inputs into `folder`.

    Args:
        folder: where; made if it is not there.
        source: a good .safetensors checkpoint with at least one BatchNorm and one 2-d or 4-d float weight.
        model: the spec of the model that `source` fits.
        sentinel: the file that a hostile input creates if its code runs.
        seed: for the places of flips and cuts.
        count: how many; the seeded flips fill up what the named cases leave.
    """
    rng = random.Random(seed)
    good = source.read_bytes()
    state = load_file(source)
    archive = torch_bytes(state)
    items = [
        *not_checkpoints(source.name, rng),
        *cut_safetensors(good, rng),
        *broken_headers(good),
        *wrong_keys(state),
        *wrong_shapes_and_dtypes(state),
        *wrong_containers(state),
        *unusable_values(state),
        *cut_archives(state, archive, rng),
        *broken_archives(archive),
        *hostile(state, sentinel),
    ]
    items += flipped_members(archive, rng, count - len(items))
    names = [name for name, _, _ in items]
    assert len(items) == count, len(items)
    assert len(set(names)) == count, sorted(name for name in names if names.count(name) > 1)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, content, outcome in items:
        path = folder / name
        path.write_bytes(content)
        made.append(Damaged(name, path, model, outcome))
    return made


def torch_bytes(content: object, *, legacy: bool = False, protocol: int = 2) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def not_checkpoints(name: str, rng: random.Random) -> Iterator[Item]:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'3f' * 32}\nsize 102530333\n"
    yield "lfs_pointer.safetensors", pointer.encode(), "error"
    yield "lfs_pointer.pt", pointer.encode(), "error"
    yield "lfs_pointer_crlf.pth", pointer.replace("\n", "\r\n").encode(), "error"
    page = f"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>{name}</body></html>"
    yield "page.pt", page.encode(), "error"
    yield "page_lower_case.ckpt", page.lower().encode(), "error"
    yield "page_bom.safetensors", b"\xef\xbb\xbf\r\n" + page.encode(), "error"
    yield "page_utf16.pt", page.encode("utf-16"), "error"
    yield "denied.pt", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "error"
    yield "denied.safetensors", b'{"error": "Repository not found"}', "error"
    yield "empty.pt", b"", "error"
    yield "empty.safetensors", b"", "error"
    yield "one_byte.pt", b"\x80", "error"
    yield "text.pt", b"epoch 3 loss 0.12\n", "error"
    yield "gzip.pt", b"\x1f\x8b\x08" + rng.randbytes(200), "error"
    yield "image.pt", b"\x89PNG\r\n\x1a\n" + rng.randbytes(200), "error"
    yield "tar.pt", b"pickle".ljust(257, b"\0") + b"ustar\x0000" + bytes(760), "error"
    for size in (1, 5000):
        yield f"random_{size}.pt", b"\xf5" + rng.randbytes(size), "error"
        yield f"random_{size}.safetensors", b"\xf5" + rng.randbytes(size), "error"
    yield "zeros.safetensors", bytes(4096), "error"
    yield "zeros.pt", bytes(4096), "error"


def cut_safetensors(good: bytes, rng: random.Random) -> Iterator[Item]:
    header = 8 + int.from_bytes(good[:8], "little")
    points = [1, 7, 8, 9, 10, header // 2, header - 1, header, header + 1, len(good) // 2, len(good) - 1]
    points += [rng.randrange(header + 2, len(good) - 1) for _ in range(2)]
    for place, point in enumerate(points):
        yield f"cut_{place:02}_at_{point}.safetensors", good[:point], "error"
    yield "longer_by_1.safetensors", good + b"\0", "error"
    yield "hole.safetensors", good[:header] + good[header + 4 :], "error"
    yield "twice.safetensors", good + good, "error"


def broken_headers(good: bytes) -> Iterator[Item]:
    length = int.from_bytes(good[:8], "little")
    text, data = good[8 : 8 + length], good[8 + length :]

    def joined(header: bytes) -> bytes:
        return struct.pack("<Q", len(header)) + header + data

    def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
        header = json.loads(text)
        change(header)
        return joined(json.dumps(header).encode())

    first, second = [key for key in json.loads(text) if key != "__metadata__"][:2]
    float_key = next(key for key, value in json.loads(text).items() if value.get("dtype") == "F32")
    for name, header_length in (
        ("short", length - 3),
        ("long", length + 3),
        ("huge", 2**62),
        ("max", 2**64 - 1),
    ):
        yield f"header_length_{name}.safetensors", struct.pack("<Q", header_length) + good[8:], "error"
    yield "header_no_json.safetensors", joined(b'{"' + b"x" * (length - 2)), "error"
    yield "header_list.safetensors", joined(b'["a"]'), "error"
    yield "header_empty.safetensors", joined(b"{}"), "error"
    yield "header_not_utf8.safetensors", joined(text[:2] + b"\xff\xfe" + text[4:]), "error"
    yield "header_deep.safetensors", joined(b'{"a":' + b"[" * 100_000), "error"
    yield "header_cut_json.safetensors", joined(text.rstrip()[:-1]), "error"
    size = len(data)
    cases: dict[str, Callable[[dict[str, Any]], object]] = {
        "dtype_unknown": lambda h: h[first].update(dtype="F31"),
        "dtype_missing": lambda h: h[first].pop("dtype"),
        "dtype_lies": lambda h: h[float_key].update(dtype="F64"),
        "offsets_beyond": lambda h: h[first].update(data_offsets=[size, size + 4]),
        "offsets_huge": lambda h: h[first].update(data_offsets=[0, 2**60]),
        "offsets_overlap": lambda h: h[second].update(data_offsets=h[first]["data_offsets"]),
        "offsets_negative": lambda h: h[first].update(data_offsets=[-4, 0]),
        "offsets_swapped": lambda h: h[first].update(data_offsets=h[first]["data_offsets"][::-1]),
        "offsets_text": lambda h: h[first].update(data_offsets="all"),
        "offsets_missing": lambda h: h[first].pop("data_offsets"),
        "shape_huge": lambda h: h[float_key].update(shape=[2**40, 2**40]),
        "shape_lies": lambda h: h[float_key].update(shape=[*h[float_key]["shape"], 2]),
        "shape_negative": lambda h: h[float_key].update(shape=[-1]),
        "entry_null": lambda h: h.update({first: None}),
        "entry_gone": lambda h: h.pop(first),
    }
    for name, change in cases.items():
        yield f"header_{name}.safetensors", edited(change), "error"


def wrong_keys(state: State) -> Iterator[Item]:
    """Both formats in turn."""
    names = list(state)
    counters = [name for name in names if name.endswith("num_batches_tracked")]
    weights = [name for name in names if name not in counters]

    def without(gone: list[str]) -> State:
        return {key: value for key, value in state.items() if key not in gone}

    variants: dict[str, State] = {
        "prefix_module": {f"module.{key}": value for key, value in state.items()},
        "prefix_compiled": {f"_orig_mod.{key}": value for key, value in state.items()},
        "prefix_both": {f"module._orig_mod.{key}": value for key, value in state.items()},
        "prefix_lightning": {f"model.{key}": value for key, value in state.items()}
        | {"loss.w": torch.ones(2)},
        "missing_first": without(weights[:1]),
        "missing_last": without(weights[-1:]),
        "missing_half": without(weights[::2]),
        "extra": state | {"head.extra": torch.zeros(3)},
        "renamed": {("x" + key if key == weights[0] else key): value for key, value in state.items()},
        "upper_case": {key.upper(): value for key, value in state.items()},
        "other_network": {f"layer{place}.w": value for place, value in enumerate(state.values())},
        "counters_only": {key: state[key] for key in counters} or {"num_batches_tracked": torch.tensor(1)},
    }
    for name, entries in variants.items():
        yield f"keys_{name}.safetensors", save({k: v.clone() for k, v in entries.items()}), "error"
    for name in ("prefix_module", "missing_first"):
        yield f"keys_{name}.pt", torch_bytes(variants[name]), "error"


def wrong_shapes_and_dtypes(state: State) -> Iterator[Item]:
    weight = next(key for key, value in state.items() if value.ndim >= 2)
    variance = next(key for key in state if key.endswith("running_var"))

    def changed(key: str, change: Callable[[Tensor], Tensor]) -> State:
        return state | {key: change(state[key]).contiguous()}

    variants: dict[str, State] = {
        "one_row_less": changed(weight, lambda w: w[1:]),
        "one_row_more": changed(weight, lambda w: torch.cat([w, w[:1]])),
        "flattened": changed(weight, lambda w: w.flatten()),
        "extra_axis": changed(weight, lambda w: w[None]),
        "scalar": changed(weight, lambda w: w.sum()),
        "no_rows": changed(weight, lambda w: w[:0]),
        "variance_longer": changed(variance, lambda v: torch.cat([v, v])),
        "variance_column": changed(variance, lambda v: v[:, None]),
        "all_flattened": {key: value.reshape(1, -1).clone() for key, value in state.items()},
        "int32": changed(weight, lambda w: w.to(torch.int32)),
        "int8": changed(weight, lambda w: w.to(torch.int8)),
        "uint8_variance": changed(variance, lambda v: v.to(torch.uint8)),
        "bool": changed(weight, lambda w: w > 0),
        "int64_all": {key: value.to(torch.int64) for key, value in state.items()},
    }
    for name, entries in variants.items():
        yield f"shape_or_dtype_{name}.safetensors", save(entries), "error"
    for name in ("one_row_less", "int8"):
        yield f"shape_or_dtype_{name}.pt", torch_bytes(variants[name]), "error"
    yield "dtype_complex.pt", torch_bytes(changed(weight, lambda w: w.to(torch.complex64))), "error"
    yield "dtype_sparse.pt", torch_bytes(state | {weight: state[weight].flatten(1).to_sparse()}), "error"
    yield "dtype_overflow.pt", torch_bytes(changed(weight, lambda w: w.double() * 0 + 1e300)), "error"


def wrong_containers(state: State) -> Iterator[Item]:
    weight = next(key for key, value in state.items() if value.ndim >= 2)
    variants: dict[str, object] = {
        "tensor": torch.ones(3),
        "number": 3,
        "text": "weights",
        "none": None,
        "empty": {},
        "empty_nested": {"state_dict": {}, "epoch": 3},
        "no_tensors": {"epoch": 3, "loss": 0.5},
        "optimizer_only": {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
        "value_number": state | {weight: 3},
        "value_none": state | {weight: None},
        "value_list": {"state_dict": state | {weight: [1.0, 2.0]}},
        "keys_numbers": dict(enumerate(state.values())),
        "keys_tuples": {(key, 0): value for key, value in state.items()},
        "two_networks": {"generator": state, "discriminator": state},
    }
    for name, content in variants.items():
        yield f"holds_{name}.pt", torch_bytes(content), "error"


def unusable_values(state: State) -> Iterator[Item]:
    """They load: that their values cannot be deployed is for the audit to say."""
    norm = next(key for key in state if key.endswith("running_var")).removesuffix("running_var")
    weight = next(key for key, value in state.items() if value.ndim >= 2)
    values = {"nan": float("nan"), "inf": float("inf"), "minus_inf": float("-inf"), "minus_1": -1.0}
    cases = [("running_var", value) for value in values] + [
        ("running_mean", value) for value in list(values)[:3]
    ]
    for buffer, value in cases:
        broken = state[norm + buffer].clone()
        broken[-1] = values[value]
        yield f"{buffer}_{value}.safetensors", save(state | {norm + buffer: broken}), "finding"
        yield f"{buffer}_{value}.pt", torch_bytes(state | {norm + buffer: broken}), "finding"
    broken = state[weight].clone()
    broken.view(-1)[0] = values["nan"]
    yield "weight_nan.safetensors", save(state | {weight: broken}), "finding"
    every = {k: torch.full_like(v, values["nan"]) if v.is_floating_point() else v for k, v in state.items()}
    yield "all_nan.safetensors", save(every), "finding"
    yield from _flipped_payload(state, norm + "running_var")


def _flipped_payload(state: State, key: str) -> Iterator[Item]:
    """Flipped bits in the payload of a safetensors file, where they can be seen in the value."""
    good = save(state)
    length = int.from_bytes(good[:8], "little")
    channel = int(state[key].argmax())  # a variance of 0 has no sign that matters
    start = 8 + length + json.loads(good[8 : 8 + length])[key]["data_offsets"][0] + 4 * channel
    for name, last in (("sign", good[start + 3] | 0x80), ("exponent", 0x7F)):
        flipped = bytearray(good)
        flipped[start + 3] = last
        if name == "exponent":
            flipped[start + 2] |= 0x80
        yield f"payload_flip_{name}.safetensors", bytes(flipped), "finding"


def cut_archives(state: State, archive: bytes, rng: random.Random) -> Iterator[Item]:
    points = [4, 30, 64, len(archive) // 2, len(archive) - 30, len(archive) - 1]
    points += [rng.randrange(65, len(archive) - 31) for _ in range(2)]
    for place, point in enumerate(points):
        yield f"cut_{place:02}_at_{point}.pt", archive[:point], "error"
    old = torch_bytes(state, legacy=True)
    for place, point in enumerate((3, 15, 20, 100, len(old) // 2, len(old) - 1)):
        yield f"cut_legacy_{place:02}_at_{point}.pt", old[:point], "error"


def broken_archives(archive: bytes) -> Iterator[Item]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        members = {member.filename: opened.read(member) for member in opened.infolist()}
    pickled = next(name for name in members if name.endswith("/data.pkl"))
    root = pickled.partition("/")[0]
    weights = [name for name in members if name.startswith(f"{root}/data/")]

    def packed(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as out:
            for name, data in content.items():
                out.writestr(zipfile.ZipInfo(name), data, method)
        return buffer.getvalue()

    largest = max(weights, key=lambda name: len(members[name]))
    yield "member_gone.pt", packed({k: v for k, v in members.items() if k != largest}), "error"
    yield "member_short.pt", packed(members | {largest: members[largest][:-4]}), "error"
    yield "member_empty.pt", packed(members | {largest: b""}), "error"
    yield "no_pickle.pt", packed({k: v for k, v in members.items() if k != pickled}), "error"
    yield "pickle_random.pt", packed(members | {pickled: b"\x80\x02\xff\xff."}), "error"
    yield "pickle_empty.pt", packed(members | {pickled: b""}), "error"
    yield "pickle_cut.pt", packed(members | {pickled: members[pickled][:-20]}), "error"
    yield "torchscript.pt", packed(members | {f"{root}/constants.pkl": b"\x80\x02)."}), "error"
    yield "other_zip.pt", packed({"readme.txt": b"weights are elsewhere"}), "error"
    yield "no_members.pt", packed({}), "error"
    yield "bomb.pt", packed(members | {largest: bytes(32 << 20)}, zipfile.ZIP_DEFLATED), "error"
    yield "byteorder.pt", packed(members | {f"{root}/byteorder": b"middle"}), "error"
    lying = bytearray(archive)
    entry = archive.rindex(b"PK\x01\x02", 0, archive.rindex(b"PK\x05\x06"))
    lying[entry + 24 : entry + 28] = struct.pack("<I", 0xFFFFFF00)
    yield "bomb_declared.pt", bytes(lying), "error"
    # torch's reader takes a member flagged as a folder for empty, and leaves its tensor uninitialised
    folder = bytearray(archive)
    folder[entry_of(archive, largest) + 38] |= 0x10
    yield "folder_flag.pt", bytes(folder), "error"
    stored = bytearray(archive)
    stored[entry_of(archive, largest) + 20 : entry_of(archive, largest) + 24] = bytes(4)
    yield "stored_size_0.pt", bytes(stored), "error"
    encrypted = bytearray(archive)
    encrypted[archive.index(b"PK\x01\x02") + 8] |= 1
    yield "encrypted.pt", bytes(encrypted), "error"


def entry_of(archive: bytes, member: str) -> int:
    """Where the member's entry in the central directory begins."""
    return archive.rindex(b"PK\x01\x02", 0, archive.rindex(member.encode()))


class _Calls:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self._call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def hostile(state: State, sentinel: Path) -> Iterator[Item]:
    import builtins
    import os
    import shutil
    import subprocess

    touch = f"open({str(sentinel)!r}, 'w').close()"
    calls: dict[str, object] = {
        "system": _Calls(os.system, f"touch '{sentinel}'"),
        "eval": _Calls(builtins.eval, touch),
        "exec": _Calls(builtins.exec, touch),
        "open": _Calls(builtins.open, str(sentinel), "w"),
        "popen": _Calls(subprocess.Popen, ["touch", str(sentinel)]),
        "mkdir": _Calls(os.mkdir, str(sentinel)),
        "copy": _Calls(shutil.copy, __file__, str(sentinel)),
        "touch": _Calls(Path.touch, sentinel),
        "log": _Calls(logging.FileHandler, str(sentinel)),
        "torch_save": _Calls(torch.save, {"a": 1}, str(sentinel)),
    }
    weight = next(iter(state))
    for name, bad in calls.items():
        yield f"hostile_{name}.pt", torch_bytes(bad), "error"
    bad = calls["system"]
    yield "hostile_in_state_dict.pt", torch_bytes(state | {weight: bad}), "error"
    yield "hostile_beside.ckpt", torch_bytes({"state_dict": state, "hyper_parameters": bad}), "error"
    yield "hostile_deep.ckpt", torch_bytes({"a": [({"b": [bad]},)], "state_dict": state}), "error"
    yield "hostile_ordered.pt", torch_bytes(OrderedDict(state | {"z": bad})), "error"
    yield "hostile_named_safetensors.safetensors", torch_bytes(bad), "error"
    yield "hostile_legacy.pt", torch_bytes({"w": bad}, legacy=True), "error"
    yield "hostile_legacy_eval.pt", torch_bytes(calls["eval"], legacy=True), "error"
    yield "hostile_protocol_4.pt", torch_bytes(bad, protocol=4), "error"
    for protocol in (0, 2, 4):
        yield f"hostile_plain_pickle_{protocol}.pt", pickle.dumps(bad, protocol), "error"
    yield "hostile_module.pt", torch_bytes(torch.nn.Sequential(torch.nn.Linear(2, 2))), "error"


def flipped_members(archive: bytes, rng: random.Random, count: int) -> list[Item]:
    """One flipped bit in the content of a member: what the CRC is there to see."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        members = [member for member in opened.infolist() if member.file_size]
    items: list[Item] = []
    for place in range(count):
        member = members[place % len(members)]
        header = member.header_offset
        name_length, extra_length = struct.unpack_from("<HH", archive, header + 26)
        start = header + 30 + name_length + extra_length
        flipped = bytearray(archive)
        flipped[start + rng.randrange(member.file_size)] ^= 1 << rng.randrange(8)
        items.append((f"flip_{place:03}_{member.filename.replace('/', '_')}.pt", bytes(flipped), "error"))
    return items
