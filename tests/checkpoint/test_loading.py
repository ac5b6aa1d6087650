"""From file to module: what was saved comes back, bit for bit, and costs little more than reading it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

import bnfold
from bnfold.checkpoint import load, load_with_notes, read
from tests.checkpoint.files import Net, State, assert_holds, error_of, saved, trained
from tests.damaged import torch_bytes


@st.composite
def states(draw: st.DrawFn) -> State:
    """A linear layer and a BatchNorm of any bits at all: infinities, NaN payloads, subnormals included."""
    width = draw(st.integers(1, 5))
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    bits = st.integers(-(2**31), 2**31 - 1)
    state: State = {}
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            drawn = draw(st.lists(bits, min_size=value.numel(), max_size=value.numel()))
            state[key] = torch.tensor(drawn, dtype=torch.int32).view(torch.float32).reshape(value.shape)
        else:
            state[key] = torch.tensor(draw(st.integers(0, 2**62)))
    return state


@settings(max_examples=40, deadline=None)
@given(state=states(), form=st.sampled_from(["safetensors", "zip", "legacy", "lightning"]))
def test_a_good_file_comes_back_bit_for_bit(state: State, form: str) -> None:
    content = {
        "safetensors": lambda: save(state),
        "zip": lambda: torch_bytes(state),
        "legacy": lambda: torch_bytes(state, legacy=True),
        "lightning": lambda: torch_bytes({"state_dict": state, "epoch": 3, "callbacks": {}}),
    }[form]()
    width = state["0.bias"].numel()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(content)
        module = load(path, nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width)))
        assert_holds(module, state)
        assert path.read_bytes() == content


def test_what_is_said_of_a_file(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "a.safetensors")
    path = saved(tmp_path / "a.pt", {"model": trained(), "epoch": 3})
    for file, kind, name in (
        (tmp_path / "a.safetensors", "safetensors", "state_dict"),
        (path, "torch", "model"),
    ):
        checkpoint = read(str(file))
        assert checkpoint.format == kind
        assert list(checkpoint.state_dicts) == [name]
        assert checkpoint.path == file
        assert checkpoint.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert checkpoint.notes == []


def test_the_public_function(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", trained())
    assert bnfold.load is load
    module = bnfold.load(path, Net, model_args=[3])
    assert type(module) is Net
    assert not module.training
    assert_holds(module, trained())
    own = Net()
    assert bnfold.load(path, own) is own


def test_a_model_by_name(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef make(width, bias=True):\n    return nn.Linear(width, 2, bias=bias)\n"
    )
    path = saved(tmp_path / "a.pt", {"weight": torch.arange(6.0).reshape(2, 3)})
    module = load(path, f"{tmp_path / 'net.py'}:make", model_args='{"width": 3, "bias": false}')
    assert module.weight.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_file_is_read_before_the_users_code_is_run(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "a.pt").touch()
    error_of(lambda: load(tmp_path / "a.pt", f"{tmp_path / 'net.py'}:make"), "L005")


@pytest.mark.parametrize("form", ["{}", "sha256:{}", " {}\n"])
@pytest.mark.parametrize("upper", [False, True])
def test_the_right_digest(tmp_path: Path, form: str, upper: bool) -> None:
    path = saved(tmp_path / "a.pt", trained())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert_holds(load(path, Net, sha256=form.format(digest.upper() if upper else digest)), trained())


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "0" * 63, "0" * 65])
def test_what_is_no_digest(tmp_path: Path, digest: str) -> None:
    path = saved(tmp_path / "a.pt", trained())
    error_of(lambda: load(path, Net, sha256=digest), "U050")


def test_a_wrong_digest_stops_before_anything_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(torch_bytes(trained())[:-50])
    error_of(lambda: read(path, sha256="0" * 64, trust_pickle=True), "L009")


def test_notes_stand_in_the_order_of_the_steps(tmp_path: Path) -> None:
    state = {f"module.{key}": value.double() for key, value in trained().items() if "num_b" not in key}
    path = saved(tmp_path / "a.pt", {"model": state, "model_ema": trained(), "x": 1})
    loaded = load_with_notes(path, Net, strip_prefix="module.", trust_pickle=True)
    assert [note.code[4:] for note in loaded.notes] == ["L108", "L101", "L104", "L103"]
    json.dumps([note.to_json() for note in loaded.notes])


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(saved(tmp_path / "a.pt", {"model": trained(), "model_ema": trained()}), Net)
    load(saved(tmp_path / "b.pt", trained(), legacy=True), Net)
    error_of(lambda: read(saved(tmp_path / "c.pt", nn.Linear(2, 2))), "L029")
    assert capfd.readouterr() == ("", "")


MEASURE = """
import resource, sys
import torch
from bnfold.checkpoint import read
from safetensors.torch import load_file
torch.set_num_threads(1)
read(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checkpoint = read(sys.argv[2])
total = sum(float(value.sum()) for value in checkpoint.pick().values())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, total)
"""


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "legacy.pt"])
def test_reading_needs_the_memory_of_the_tensors_and_no_more(tmp_path: Path, name: str) -> None:
    """The checksums, the digest and the tensors: one copy of 48 MB, not two."""
    state = {f"layer{place}.weight": torch.full((1 << 20,), 1.0) for place in range(12)}
    small = saved(tmp_path / "small.pt", trained())
    if name.endswith(".safetensors"):
        save_file(state, tmp_path / name)
    else:
        saved(tmp_path / name, state, legacy="legacy" in name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, small, tmp_path / name],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    kilobytes, total = done.stdout.split()
    assert float(total) == 12 << 20
    assert int(kilobytes) < 1.3 * 48 * 1024
