"""``bnfold recalibrate`` on a real network, from a broken checkpoint to a good one and back."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bnfold
from bnfold.modelspec import build

from .conftest import Cli, Result

MODEL = """
import os, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(width, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))

    def forward(self, image):
        if "SLOW" in os.environ and os.environ["SLOW"] == os.environ["RANK"]:
            time.sleep(60)
        return self.head(self.body(image).mean((2, 3)))

def one():
    return nn.BatchNorm2d(1)

def wide():
    return Net(6)
"""

NAMES = ["body.1", "body.5", "head.1"]
AS = ("--model", "net.py:Net", "--samples", "frames.npy")
NONE = ("--model", "net.py:Net", "--samples", "none")


def values(count: int = 45, seed: int = 0, brightness: float = 1) -> np.ndarray[Any, Any]:
    """Prepared frames; each has its own brightness."""
    generator = np.random.default_rng(seed)
    offsets = brightness * generator.normal(size=(count, 1, 1, 1))
    return (generator.normal(size=(count, 1, 8, 8)) + offsets).astype(np.float32)


def network(folder: Path, name: str = "Net") -> nn.Module:
    torch.manual_seed(0)
    return build(f"{folder / 'net.py'}:{name}").eval()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network, its broken checkpoint in both formats, and frames; the current folder."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    module = network(tmp_path)
    state = module.state_dict()
    state["body.1.running_var"][2] = math.nan
    state["body.5.running_mean"].fill_(math.inf)
    torch.save(state, tmp_path / "net.pt")
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "net.safetensors",
              metadata={"format": "pt", "author": "me"})  # fmt: skip
    np.save(tmp_path / "frames.npy", values())
    return tmp_path


def loaded(path: str | Path, name: str = "net.py:Net") -> nn.Module:
    return bnfold.load(path, name)


def dealt(frames: np.ndarray[Any, Any], count: int) -> list[np.ndarray[Any, Any]]:
    """The batches of the command line: frames are dealt out by turns."""
    return [frames[first::count] for first in range(count)]


def expected(batches: list[np.ndarray[Any, Any]], **options: Any) -> nn.Module:
    """By the library, from the same batches."""
    return bnfold.recalibrate(loaded("net.pt"), [torch.from_numpy(b) for b in batches], **options).module


def same(actual: nn.Module, wanted: nn.Module, rtol: float = 0.0) -> None:
    for (name, tensor), (_, want) in zip(actual.named_buffers(), wanted.named_buffers(), strict=True):
        if rtol and tensor.is_floating_point():
            torch.testing.assert_close(tensor, want, rtol=rtol, atol=rtol * 1e-2, msg=name)
        else:
            assert torch.equal(tensor, want), name


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_broken_checkpoint_is_repaired_and_brought_back(cli: Cli, project: Path, suffix: str) -> None:
    source = f"net.{suffix}"
    before = (project / source).read_bytes()
    result = cli("recalibrate", source, *AS, "--batch", 8, "-o", f"new.{suffix}", "--format", "json")
    assert result.status == 0, result.err
    document = result.document
    assert document["passed"] is True
    assert [layer["name"] for layer in document["layers"]] == NAMES
    assert [layer["not_finite_before"] for layer in document["layers"]] == [1, 5, 0]
    assert (document["frames"], document["batches"], document["batch"]) == (45, 6, 8)
    held = document["held_out"]
    assert held["source"] == "held out"
    assert held["frames"] == 7  # every sixth of six batches is the last
    assert (held["before"]["finite"], held["before"]["gap"]) == (0, None)
    assert held["after"]["finite"] == 7
    assert held["after"]["gap"] < 0.5
    assert document["output"]["format"] == ("torch" if suffix == "pt" else "safetensors")
    assert (project / source).read_bytes() == before

    # all frames are in the statistics, in the batches that they were given in
    same(loaded(f"new.{suffix}"), expected(dealt(values(), 6)))

    # what other readers see is a plain state dict
    if suffix == "pt":
        plain = torch.load(project / "new.pt", weights_only=True)
        assert type(plain).__name__ == "OrderedDict"
        network(project).load_state_dict(plain)
    else:
        from safetensors import safe_open

        with safe_open(project / "new.safetensors", "pt") as file:
            assert file.metadata()["author"] == "me"

    # and back, twice
    again = cli("recalibrate", f"new.{suffix}", *AS, "--sequential", "-o", f"newer.{suffix}")
    assert again.status == 0, again.err
    for name, target in (
        (f"newer.{suffix}", f"new again.{suffix}"),
        (f"new again.{suffix}", f"old.{suffix}"),
    ):
        undone = cli("recalibrate", name, "--undo", "-o", target)
        assert undone.status == 0, undone.err
        assert "restored bit for bit" in undone.out
    same(loaded(f"new again.{suffix}"), loaded(f"new.{suffix}"))
    first, last = (torch_state(project / name) for name in (source, f"old.{suffix}"))
    assert list(first) == list(last)
    for key, value in first.items():
        assert value.numpy().tobytes() == last[key].numpy().tobytes(), key
    if suffix == "safetensors":
        assert (project / "old.safetensors").read_bytes() == before
    refused = cli("recalibrate", f"old.{suffix}", "--undo", "-o", f"older.{suffix}")
    assert refused.status == 2
    assert refused.err.startswith("error[BNF-L042]")


def torch_state(path: Path) -> dict[str, torch.Tensor]:
    from bnfold.checkpoint import read

    return dict(sorted(read(path).pick().items()))


def test_the_text(cli: Cli, project: Path) -> None:
    result = cli("recalibrate", "net.pt", *AS, "-o", "new.pt")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("3 layers: one pass, 45 frames in 2 batches, ")
    assert lines[0].endswith(" frames/s")
    text = " ".join(result.out.split())
    assert "Before and after on 22 held-out frames" in text
    assert "finite outputs 0 of 22 22 of 22" in text
    assert "gap, nats per channel not finite" in text
    assert "To undo bnfold recalibrate new.pt --undo -o OLD" in text
    assert max(map(len, lines)) <= 80
    undone = cli("recalibrate", "new.pt", "--undo", "-o", "old.pt", "--format", "json").document
    assert undone["undone"]["source"]["name"] == "net.pt"
    assert undone["output"]["changed"][0] == "body.1.running_mean"


def test_layer_by_layer_with_a_prior(cli: Cli, project: Path) -> None:
    repaired = cli("recalibrate", "net.pt", *AS, "-o", "good.pt")
    assert repaired.status == 0, repaired.err
    np.save(project / "shifted.npy", values(60, 1) + 1)
    options = ("--model", "net.py:Net", "--samples", "shifted.npy", "--prior", 20, "--held-out", 0)
    result = cli("recalibrate", "good.pt", *options, "--sequential", "-o", "new.pt", "--format", "json")
    assert result.status == 0, result.err
    assert (result.document["prior"], result.document["method"]) == (20, "layer by layer")
    assert result.document["held_out"] is None
    assert [finding["code"] for finding in result.document["findings"]] == ["BNF-A068"]
    batches = [torch.from_numpy(b) for b in dealt(values(60, 1) + 1, 2)]
    same(loaded("new.pt"), bnfold.recalibrate(loaded("good.pt"), batches, prior=20, sequential=True).module)
    text = cli("recalibrate", "good.pt", *options, "-o", "newer.pt").out
    assert "which count for 20 frames: 25% old" in text
    broken = cli("recalibrate", "net.pt", *AS, "--prior", 20, "-o", "no.pt")
    assert broken.status == 1
    assert broken.err.startswith("error[BNF-A061]")
    assert not (project / "no.pt").exists()


@pytest.mark.parametrize("sequential", [(), ("--sequential",)])
def test_bad_frames_are_named_and_left_out(cli: Cli, project: Path, sequential: tuple[str, ...]) -> None:
    """One NaN frame, one infinite pixel, one of 1e20."""
    frames = values()
    (project / "frames").mkdir()
    broken = {3: math.nan, 17: math.inf, 30: 1e20}
    for index, frame in enumerate(frames):
        if index in broken:
            frame = frame.copy()
            frame[0, 2, 5] = broken[index]
            if index == 3:
                frame[:] = math.nan
        np.save(project / "frames" / f"scan_{index:03}.npy", frame)
    options = ("--model", "net.py:Net", "--samples", "frames", "--batch", 10, *sequential)
    result = cli("recalibrate", "net.pt", *options, "-o", "new.pt", "--format", "json")
    assert result.status == 0, result.err
    document = result.document
    assert [(one["frames"], one["batch"], one["index"]) for one in document["skipped"]] == [
        (["scan_030.npy"], 0, [6]), (["scan_017.npy"], 2, [3]), (["scan_003.npy"], 3, [0]),
    ]  # fmt: skip
    assert document["frames"] == 42
    (finding,) = [entry for entry in document["findings"] if entry["code"] == "BNF-A063"]
    assert finding["severity"] == "warning"
    assert finding["where"] == "scan_030.npy"
    for name in ("scan_003.npy", "scan_017.npy", "scan_030.npy"):
        assert name in finding["message"]
    groups = [[i for i in range(start, 45, 5) if i not in broken] for start in range(5)]
    same(loaded("new.pt"), expected([frames[rows] for rows in groups], sequential=bool(sequential)))
    text = cli("recalibrate", "net.pt", *options, "-o", "new.pt")
    assert "scan_017.npy (batch 2): 1 value of image is inf" in " ".join(text.out.split())


def test_one_layer_is_exact(cli: Cli, project: Path) -> None:
    """All frames count, whether they are held out for the comparison or not."""
    torch.save(nn.BatchNorm2d(1).double().state_dict(), project / "one.pt")
    (project / "net.py").write_text(
        MODEL.replace("return nn.BatchNorm2d(1)", "return nn.BatchNorm2d(1).double()")
    )
    data = 50 + 0.01 * np.random.default_rng(0).normal(size=(37, 1, 6, 7))
    np.save(project / "x.npy", data)
    options = ("--model", "net.py:one", "--samples", "x.npy", "--input", "1x1x6x7:float64", "--batch", 5)
    for more in ((), ("--sequential",)):
        result = cli("recalibrate", "one.pt", *options, *more, "-o", "new.pt")
        assert result.status == 0, result.err
        state = torch.load(project / "new.pt", weights_only=True)
        np.testing.assert_allclose(state["running_mean"], data.mean(), rtol=1e-12)
        np.testing.assert_allclose(state["running_var"], data.var(ddof=1), rtol=1e-12)


def test_a_worse_result_is_refused(cli: Cli, project: Path) -> None:
    """Batches of two in one pass: what sets frames apart is lost by normalising each batch by itself."""
    np.save(project / "many.npy", values(400, brightness=3))
    many = ("--model", "net.py:Net", "--samples", "many.npy")
    good = cli("recalibrate", "net.pt", *many, "--sequential", "-o", "good.pt")
    assert good.status == 0, good.err
    options = ("good.pt", *many, "--batch", 2)
    result = cli("recalibrate", *options, "--held-out", 0.5, "-o", "bad.pt", "--format", "json")
    assert result.status == 1
    document = result.document
    assert (document["passed"], document["output"]) == (False, None)
    assert document["findings"][0]["code"] == "BNF-A066"
    assert document["findings"][0]["severity"] == "error"
    assert document["held_out"]["after"]["gap"] > document["held_out"]["before"]["gap"]
    assert not (project / "bad.pt").exists()
    text = cli("recalibrate", *options, "--held-out", 0.5, "-o", "bad.pt")
    assert text.out.rstrip().endswith("Nothing was written.")
    assert cli("recalibrate", *options, "--held-out", 0.5, "--sequential", "-o", "fine.pt").status == 0


def test_debias(cli: Cli, project: Path) -> None:
    """Exact at fixed weights: an average that saw one batch T times holds that batch's statistics."""
    module = network(project)
    batch = torch.from_numpy(values())
    module.train()
    module.body[3].eval()
    with torch.no_grad():
        for _ in range(12):
            module(batch)
    torch.save(module.state_dict(), project / "early.pt")
    result = cli("recalibrate", "early.pt", "--model", "net.py:Net", "--debias", "--samples", "frames.npy",
                 "-o", "new.pt", "--format", "json")  # fmt: skip
    assert result.status == 0, result.err
    document = result.document
    assert (document["method"], document["frames"]) == ("debiased", 0)
    assert document["held_out"]["after"]["gap"] < document["held_out"]["before"]["gap"] / 10
    (weighed,) = [entry for entry in document["findings"] if entry["code"] == "BNF-A070"]
    assert weighed["evidence"]["weights"]["body.1"] == pytest.approx(0.9**12)
    wanted = bnfold.recalibrate(loaded("early.pt"), [batch]).module
    same_statistics = dict(loaded("new.pt").named_buffers())
    for name, tensor in wanted.named_buffers():
        if tensor.is_floating_point():
            torch.testing.assert_close(same_statistics[name], tensor, rtol=1e-4, atol=1e-5)
    alone = cli("recalibrate", "early.pt", "--model", "net.py:Net", "--debias", "-o", "alone.pt")
    assert alone.status == 0, alone.err
    same(loaded("alone.pt"), loaded("new.pt"))
    refused = cli("recalibrate", "net.pt", "--model", "net.py:Net", "--debias", "-o", "no.pt")
    assert refused.status == 1
    assert refused.err.startswith("error[BNF-A069]: it was never updated")


def test_parts_merge_to_the_whole(cli: Cli, project: Path) -> None:
    frames = values(64)
    for name, part in (("a", frames[:24]), ("b", frames[24:40]), ("c", frames[40:])):
        np.save(project / f"{name}.npy", part)
        options = ("--model", "net.py:Net", "--samples", f"{name}.npy", "--batch", 8, "--format", "json")
        result = cli("recalibrate", "net.pt", *options, "--collect", f"{name}.json")
        assert result.status == 0, result.err
        assert (result.document["frames"], result.document["part"]["path"]) == (len(part), f"{name}.json")
    merge = ("--model", "net.py:Net", "--merge", "a.json", "b.json", "c.json")
    result = cli("recalibrate", "net.pt", *merge, "-o", "new.pt", "--format", "json")
    assert result.status == 0, result.err
    assert (result.document["method"], result.document["frames"]) == ("merged parts", 64)
    assert "BNF-A068" in [finding["code"] for finding in result.document["findings"]]
    batches = [*dealt(frames[:24], 3), *dealt(frames[24:40], 2), *dealt(frames[40:], 3)]
    same(loaded("new.pt"), expected(batches), rtol=1e-6)
    judged = cli(
        "recalibrate", "net.pt", *merge, "--samples", "frames.npy", "-o", "new.pt", "--format", "json"
    )
    assert judged.document["held_out"]["after"]["finite"] == 45

    part = json.loads((project / "a.json").read_text())
    part["layers"][0]["moments"]["mean"][0] += 1e-9
    (project / "changed.json").write_text(json.dumps(part))
    (project / "cut.json").write_bytes((project / "a.json").read_bytes()[:-300])
    (project / "twin.json").write_bytes((project / "a.json").read_bytes())
    healthy = cli(
        "recalibrate", "new.pt", "--model", "net.py:Net", "--samples", "a.npy", "--collect", "o.json"
    )
    assert healthy.status == 0, healthy.err
    assert "--merge PART.json... -o NEW" in healthy.out
    np.save(project / "d.npy", np.repeat(frames[:8], 2, axis=2).repeat(2, axis=3))
    other = cli("recalibrate", "net.pt", "--model", "net.py:Net", "--samples", "d.npy", "--collect", "d.json")
    assert other.status == 0, other.err
    for name, code in (
        ("changed.json", "BNF-U126"), ("cut.json", "BNF-U126"), ("net.py", "BNF-U126"),
        ("nowhere.json", "BNF-P015"), ("twin.json", "BNF-U128"), ("o.json", "BNF-U127"),
        ("d.json", "BNF-U127"),
    ):  # fmt: skip
        refused = cli(
            "recalibrate", "net.pt", "--model", "net.py:Net", "--merge", "a.json", name, "-o", "no.pt"
        )
        assert refused.status == 2
        assert refused.err.startswith(f"error[{code}]"), refused.err
        assert not (project / "no.pt").exists()


def test_one_state_of_several(cli: Cli, project: Path) -> None:
    state = torch.load(project / "net.pt", weights_only=True)
    wrapped = {f"module.{key}": value for key, value in state.items()}
    torch.save({"model": wrapped, "model_ema": wrapped, "epoch": 3}, project / "training.pt")
    result = cli("recalibrate", "training.pt", *AS, "--strip-prefix", "module.", "-o", "new.pt",
                 "--format", "json")  # fmt: skip
    assert result.status == 0, result.err
    (note,) = [entry for entry in result.document["findings"] if entry["code"] == "BNF-A071"]
    assert note["evidence"] == {"written": "model", "others": ["model_ema"]}
    plain = torch.load(project / "new.pt", weights_only=True)
    assert list(plain) == list(wrapped)
    assert torch.isfinite(plain["module.body.5.running_mean"]).all()
    assert bnfold.load("new.pt", "net.py:Net", strip_prefix="module.")
    nn.DataParallel(network(project)).load_state_dict(plain)


def test_a_file_in_half_precision_stays_one(cli: Cli, project: Path) -> None:
    state = torch.load(project / "net.pt", weights_only=True)
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, project / "half.pt")
    result = cli("recalibrate", "half.pt", *AS, "-o", "new.pt")
    assert result.status == 0, result.err
    assert torch.load(project / "new.pt", weights_only=True)["body.1.running_var"].dtype == torch.float16
    np.save(project / "bright.npy", values() * 1e4)
    refused = cli("recalibrate", "half.pt", "--model", "net.py:Net", "--samples", "bright.npy", "-o", "no.pt")
    assert refused.status == 1
    assert refused.err.startswith("error[BNF-A062]")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["net.pt", *AS], "BNF-U125"),
        (["net.pt", *AS, "-o", "net.pt"], "BNF-U125"),
        (["net.pt", *AS, "-o", "new.safetensors"], "BNF-U125"),
        (["net.safetensors", *AS, "-o", "new.pt"], "BNF-U125"),
        (["net.pt", *AS, "-o", "nowhere/new.pt"], "BNF-P013"),
        # found before a frame is read
        (["net.pt", *NONE, "-o", "new.safetensors"], "BNF-U125"),
        (["net.pt", *NONE, "-o", "nowhere/new.pt"], "BNF-P013"),
        (["net.pt", *NONE, "--collect", "nowhere/a.json"], "BNF-P013"),
        (["net.pt", *NONE, "-o", "new.pt"], "BNF-R020"),
        (["net.pt", "--model", "net.py:Net", "-o", "new.pt"], "BNF-U124"),
        (["net.pt", "--samples", "frames.npy", "-o", "new.pt"], "BNF-U018"),
        (["net.pt", "--model", "net.py:Net", "--samples", "nowhere", "-o", "new.pt"], "BNF-U015"),
        (["net.pt", *AS, "--held-out", "0.7", "-o", "new.pt"], "BNF-U124"),
        (["net.pt", *AS, "--prior", "-3", "-o", "new.pt"], "BNF-U122"),
        (["net.pt", *AS, "--undo", "-o", "new.pt"], "BNF-U124"),
        (["net.pt", *AS, "--collect", "a.json", "-o", "new.pt"], "BNF-U124"),
        (["net.pt", *AS, "--collect", "a.json", "--sequential"], "BNF-U124"),
        (["net.pt", *AS, "--debias", "--sequential", "-o", "new.pt"], "BNF-U124"),
        (["net.pt", *AS, "--merge", "a.json", "--sequential", "-o", "new.pt"], "BNF-U124"),
        (["net.pt", "--model", "net.py:wide", "--samples", "frames.npy", "-o", "new.pt"], "BNF-L012"),
        (["net.onnx", *AS, "-o", "new.pt"], "BNF-U030"),
        (["net.pt", *AS, "--batch", "0", "-o", "new.pt"], "BNF-U010"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-3:]) if isinstance(value, list) else None,
)
def test_mistakes(cli: Cli, project: Path, arguments: list[str], code: str) -> None:
    (project / "none").mkdir()
    before = {path.name for path in project.iterdir()}
    result = cli("recalibrate", *arguments, "--format", "json")
    assert result.status == 2, result.out
    assert result.document["error"]["code"] == code
    assert len(result.err[result.err.index("error[") :].splitlines()) <= 5
    assert {path.name for path in project.iterdir()} - {"__pycache__"} == before


def test_a_damaged_record_is_refused(cli: Cli, project: Path) -> None:
    assert cli("recalibrate", "net.pt", *AS, "-o", "new.pt").status == 0
    state = torch.load(project / "new.pt", weights_only=True)
    record = json.loads(state._metadata["bnfold.recalibration"])
    for change in ("old", "data", "shape"):
        broken = json.loads(json.dumps(record))
        if change == "old":
            del broken["old"]
        elif change == "data":
            broken["old"]["body.1.running_mean"]["data"] = "!!"
        else:
            broken["old"]["body.1.running_mean"]["shape"] = [2, 2]
        state._metadata["bnfold.recalibration"] = json.dumps(broken)
        torch.save(state, project / "broken.pt")
        refused = cli("recalibrate", "broken.pt", "--undo", "-o", "old.pt")
        assert refused.status == 2
        assert refused.err.startswith("error[BNF-L041]"), refused.err
    assert not (project / "old.pt").exists()


# --- several processes ------------------------------------------------------------------------------------


def torchrun(processes: int, *arguments: object, folder: Path, **environment: str) -> Result:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-port", str(free_port()), "-m", "bnfold_cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("processes", "more"),
    [(2, ()), (3, ("--sequential",)), pytest.param(3, (), marks=pytest.mark.slow),
     pytest.param(2, ("--sequential",), marks=pytest.mark.slow)],
)  # fmt: skip
def test_several_processes_come_to_the_same(
    cli: Cli, project: Path, processes: int, more: tuple[str, ...]
) -> None:
    frames = values(50)
    frames[13, 0, 0, 0] = math.nan
    np.save(project / "x.npy", frames)
    options = ("net.pt", "--model", "net.py:Net", "--samples", "x.npy", "--batch", 7, *more, "--channels")
    one = cli("recalibrate", *options, "-o", "one.pt", "--format", "json")
    several = torchrun(
        processes, "recalibrate", *options, "-o", "several.pt", "--format", "json", folder=project
    )
    assert several.status == 0, several.err
    document = several.document  # exactly one, though every process has run
    assert document["processes"] == processes
    assert document["skipped"] == one.document["skipped"]
    assert (document["frames"], document["batches"]) == (49, 7)
    for layer, same_layer in zip(document["layers"], one.document["layers"], strict=True):
        for key in ("mean", "variance"):
            np.testing.assert_allclose(layer["statistics"][key], same_layer["statistics"][key], rtol=1e-13)
    same(loaded("several.pt"), loaded("one.pt"), rtol=1e-6)


@pytest.mark.slow
def test_parts_of_several_processes(cli: Cli, project: Path) -> None:
    collect = ("recalibrate", "net.pt", *AS, "--batch", 8, "--collect")
    assert torchrun(2, *collect, "two.json", folder=project).status == 0
    assert cli(*collect, "one.json").status == 0
    moments = [
        [layer["moments"] for layer in json.loads((project / name).read_text())["layers"]]
        for name in ("one.json", "two.json")
    ]
    for one, two in zip(*moments, strict=True):
        assert one["count"] == two["count"]
        np.testing.assert_allclose(one["mean"], two["mean"], rtol=1e-13)
        np.testing.assert_allclose(one["m2"], two["m2"], rtol=1e-13)


def test_what_one_process_raises_ends_all_with_its_words(project: Path) -> None:
    (project / "frames").mkdir()
    for index, frame in enumerate(values(12)):
        np.save(project / "frames" / f"{index:02}.npy", frame)
    (project / "frames" / "07.npy").write_bytes(b"\x93NUMPY\x01\x00broken")
    options = ("--model", "net.py:Net", "--samples", "frames", "--batch", 3)
    result = torchrun(2, "recalibrate", "net.pt", *options, "-o", "new.pt", folder=project)
    assert result.status != 0
    assert result.err.count("error[BNF-R003]") == 1  # the first process says it
    assert "07.npy" in result.err
    assert "BNF-X" not in result.err
    assert not (project / "new.pt").exists()


def test_a_process_that_is_killed_leaves_a_clear_error_and_no_file(project: Path) -> None:
    """The second of two is killed while the first waits for it."""
    port = free_port()
    command = [sys.executable, "-m", "bnfold_cli", "recalibrate", "net.pt", *AS, "-o", "new.pt"]
    processes = [
        subprocess.Popen(
            command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "SLOW": "1"},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        wait_until_in_forward(processes[1].pid)
        processes[1].send_signal(signal.SIGKILL)
        out, err = processes[0].communicate(timeout=120)
        processes[1].communicate()
    finally:
        for process in processes:
            process.kill()
    assert processes[0].returncode == 2, err
    assert "error[BNF-P060]: another process of the group is gone" in err
    assert "Traceback" not in err[err.index("error[") :]
    assert out == ""
    assert not (project / "new.pt").exists()


def wait_until_in_forward(pid: int) -> None:
    """Until the process has settled to sleep: it sleeps in forward, and nowhere else for so long."""
    used, since = -1.0, time.monotonic()
    deadline = since + 120
    while time.monotonic() < deadline:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        now = float(fields[11]) + float(fields[12])
        if now != used:
            used, since = now, time.monotonic()
        elif now > 100 and time.monotonic() - since > 3:
            return
        time.sleep(0.2)
    raise AssertionError("it never came to forward")
