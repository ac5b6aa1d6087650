"""``bnfold convert``, ``verify`` and ``inspect`` on a real network, from a checkpoint to answers."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Cli, Result

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Flatten(), nn.Linear(width * 36, 3), nn.BatchNorm1d(3),
        )
        print("a model that talks")

    def forward(self, image):
        return self.body(image)

class Stateless(nn.Module):
    def forward(self, image):
        return self.body(image)
"""

LABELS = "cat\ndog\nbird\n"
AS = ("--model", "net.py:Net", "--input", "1x1x8x8", "--color", "gray", "--labels", "labels.txt")


def state(seed: int) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    entries = {
        "body.0.weight": draw(4, 1, 3, 3), "body.0.bias": draw(4),
        "body.4.weight": draw(3, 144) / 12, "body.4.bias": draw(3),
    }  # fmt: skip
    for name, channels in (("body.1", 4), ("body.5", 3)):
        entries |= {
            f"{name}.weight": draw(channels), f"{name}.bias": draw(channels),
            f"{name}.running_mean": draw(channels), f"{name}.running_var": draw(channels) ** 2 + 0.5,
            f"{name}.num_batches_tracked": torch.tensor(700),
        }  # fmt: skip
    return entries


def frame(seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, its checkpoint and another one, labels, and 20 frames."""
    import torch

    place = tmp_path_factory.mktemp("project")
    (place / "net.py").write_text(MODEL)
    (place / "labels.txt").write_text(LABELS)
    torch.save(state(0), place / "best.pt")
    torch.save(state(1), place / "other.pt")
    broken = state(0)
    broken["body.1.running_var"][2] = float("nan")
    torch.save(broken, place / "nan.pt")
    np.save(place / "frames.npy", np.stack([frame(seed) for seed in range(20)]))
    (place / "frame.pgm").write_bytes(b"P5\n8 8\n255\n" + frame().tobytes())
    return place


@pytest.fixture(scope="module")
def converted(shell: Cli, folder: Path) -> Result:
    """Both formats, from the shell, in the project's folder."""
    options = ("--to", "onnx,tflite", "--samples", "frames.npy", "-o", "out", "--format", "json")
    return shell("convert", "best.pt", *AS, *options, cwd=folder)


def expected(checkpoint: str, folder: Path) -> np.ndarray[Any, Any]:
    """torch's own answer to the frame, in float64."""
    import torch
    from torch import nn

    body = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3), nn.BatchNorm1d(3)
    )
    entries = torch.load(folder / checkpoint, weights_only=True)
    body.load_state_dict({key.removeprefix("body."): value for key, value in entries.items()})
    body.double().eval()
    with torch.no_grad():
        answer: np.ndarray[Any, Any] = body(torch.from_numpy(frame() / 255)[None, None])[0].numpy()
    return answer


def test_the_document(converted: Result, folder: Path) -> None:
    assert converted.status == 0, converted.err
    document = converted.document
    assert document["passed"] is True
    assert document["source"]["sha256"] == hashlib.sha256((folder / "best.pt").read_bytes()).hexdigest()
    assert [(e["name"], e["channels"], e["status"]) for e in document["batch_norms"]] == [
        ("body.1", 4, "folded"),
        ("body.5", 3, "folded"),
    ]
    assert {row["candidate"] for row in document["parity"]} == {"fold", "onnx", "tflite"}
    for row in document["parity"]:
        assert row["passed"]
        assert row["frames_source"] == "samples"
        assert row["frames"] >= 16
        assert row["max_abs_error"] <= row["tolerance"]
    for artifact in document["artifacts"]:
        data = (folder / artifact["path"]).read_bytes()
        assert artifact["size_bytes"] == len(data)
        assert artifact["sha256"] == hashlib.sha256(data).hexdigest()
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["best.onnx", "best.tflite"]
    assert "a model that talks" in converted.err


@pytest.mark.parametrize("name", ["best.onnx", "best.tflite"])
def test_the_artifacts_answer_as_torch_does(cli: Cli, converted: Result, folder: Path, name: str) -> None:
    result = cli("run", folder / "out" / name, folder / "frame.pgm", "--self-test", "--format", "json")
    assert result.status == 0, result.err
    values = result.document["frames"][0]["outputs"][0]["values"][0]
    want = expected("best.pt", folder)
    assert values == pytest.approx(want, rel=1e-5, abs=1e-5)
    best = result.document["frames"][0]["outputs"][0]["top"][0]["label"]
    assert best == LABELS.split()[int(np.argmax(want))]
    assert result.document["self_test"][0]["passed"] is True


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_lower_precision_from_the_shell_to_an_answer(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.chdir(folder)
    options = ("--to", "onnx,tflite", "--samples", "frames.npy", "-o", tmp_path, "--min-agreement", "0.8")
    result = cli("convert", "best.pt", *AS, *options, "--precision", precision, "--format", "json")
    assert result.status == 0, result.err
    document = result.document
    assert [artifact["precision"] for artifact in document["artifacts"]] == [precision, precision]
    rows = {row["candidate"]: row for row in document["agreement"]}
    assert sorted(rows) == ["onnx", "tflite"]
    assert all(row["passed"] and row["min_agreement"] == 0.8 for row in rows.values())
    assert {loss["target"] for loss in document["losses"]} == {"onnx", "tflite"}
    want = expected("best.pt", folder)
    for target in ("onnx", "tflite"):
        answer = cli("run", tmp_path / f"best.{target}", "frame.pgm", "--self-test", "--format", "json")
        assert answer.status == 0, answer.err
        assert answer.document["precision"] == precision
        values = np.array(answer.document["frames"][0]["outputs"][0]["values"][0])
        near = 0.01 if precision == "fp16" else 0.2
        assert 0 < np.abs(values - want).max() < near * np.ptp(want)
    shown = cli("inspect", tmp_path / "best.onnx").out
    assert f"onnx {precision}" in shown
    assert "Agreement with float32, at least 80.00%" in shown
    verified = cli(
        "verify", "best.pt", tmp_path / "best.tflite", "--model", "net.py:Net", "--samples", "frames.npy",
        "--format", "json",
    )  # fmt: skip
    assert verified.status == 0, verified.err
    assert verified.document["agreement"][0]["precision"] == precision


def test_the_text_report(cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = cli("convert", "best.pt", *AS, "-o", tmp_path / "o")
    assert result.status == 0, result.err
    assert max(map(len, result.out.splitlines())) <= 80 or str(tmp_path) in result.out
    assert "2 BatchNorms: 2 folded" in result.out
    assert "Parity on 16 random inputs" in result.out
    assert " ".join(result.out.split()).lower().count("unproven on real frames") == 1
    assert "\x1b" not in result.out


def test_statistics_that_cannot_be_frozen_end_with_1_and_no_file(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = cli("convert", "nan.pt", *AS, "-o", tmp_path / "o", "--format", "json")
    assert result.status == 1
    assert result.document["passed"] is False
    first = result.document["findings"][0]
    assert first["severity"] == "error"
    assert first["where"].startswith("body.1.running_var[2]")
    assert first["evidence"]["channels"] == [2]
    assert result.document["artifacts"] == []
    assert not (tmp_path / "o").exists() or not any((tmp_path / "o").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere.pt", *AS], "BNF-L001"),
        (["best.pt", *AS, "--precision", "fp8"], "BNF-U010"),
        (["best.pt", *AS, "--precision", "fp16", "--min-agreement", "2"], "BNF-U010"),
        (["best.pt", *AS, "--min-agreement", "0.9"], "BNF-U151"),
        (["best.pt", *AS, "--to", "coreml"], "BNF-U010"),
        (["best.pt", *AS, "--skip", "conv-backwards"], "BNF-U025"),
        # at once, whatever the checkpoint is
        (["nowhere.pt", *AS, "--allow", "BNF-A999"], "BNF-U180"),
        (["nowhere.pt", *AS, "--name", "a/b"], "BNF-U016"),
        (["nowhere.pt", *AS, "--min-agreement", "0.9"], "BNF-U151"),
        (["nowhere.pt", *AS, "--dynamic-batch", "--to", "tflite"], "BNF-U072"),
        (["best.pt", *AS, "-o", ""], "BNF-U010"),
        (["best.pt", *AS, "--samples", ""], "BNF-U010"),
        (["", *AS], "BNF-U010"),
        (["best.pt", *AS, "--name", "a/b"], "BNF-U016"),
        (["best.pt", *AS, "--samples", "nowhere"], "BNF-U015"),
        (["best.pt", *AS, "--mean", "0.1,0.2,0.3"], "BNF-U012"),
        (["best.pt", *AS, "--mean", "128"], "BNF-U012"),
        (["best.pt", *AS, "--sha256", "0" * 64], "BNF-L009"),
        (["best.pt", *AS, "--model-args", "[8]"], "BNF-L012"),
        (["best.pt", "--model", "net.py:Nett", "--input", "1x1x8x8"], "BNF-U044"),
        (["best.pt", "--model", "net.py:Net", "--input", "1x1x8x8", "--labels", "net.txt"], "BNF-U013"),
        (["best.pt", "--model", "net.py:Net", "--input", "frame=1x1x8x8"], "BNF-U011"),
        (["best.pt", "--model", "net.py:Net", "--input", "1x1x9x9"], "BNF-C004"),
        (["best.pt", *AS, "--dynamic-batch", "--to", "tflite"], None),
    ],
    ids=lambda value: " ".join(word for word in value if word not in AS) if isinstance(value, list) else None,
)
def test_mistakes(
    cli: Cli,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: str | None,
) -> None:
    monkeypatch.chdir(folder)
    result = cli("convert", *arguments, "-o", tmp_path / "out", "--format", "json")
    assert result.status == 2, result.err
    if code is not None:
        assert result.document["error"]["code"] == code
    errors = result.err[result.err.index("error[") :]
    assert len(errors.splitlines()) <= 5
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_verify_passes_and_fails(
    cli: Cli, converted: Result, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    options = ("--model", "net.py:Net", "--samples", "frames.npy", "--format", "json")
    good = cli("verify", "best.pt", "out/best.onnx", *options)
    assert good.status == 0, good.err
    assert good.document["passed"] is True
    bad = cli("verify", "other.pt", "out/best.onnx", *options)
    assert bad.status == 1
    assert bad.document["passed"] is False
    assert bad.document["findings"][0]["code"] == "BNF-V001"
    assert "made from another checkpoint" in bad.document["findings"][0]["remedy"]
    assert "FAILED" in cli("verify", "other.pt", "out/best.onnx", *options[:-1], "text").out
    two = cli("verify", "out/best.onnx", "out/best.tflite", "--samples", "frames.npy")
    assert two.status == 0, two.err


def test_verify_strips_a_prefix_from_the_checkpoint_that_has_it(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of DataParallel against a plain one: both orders, and none of them is an error still."""
    import torch

    plain = torch.load(folder / "best.pt", weights_only=True)
    wrapped = tmp_path / "wrapped.pt"
    torch.save({f"module.{key}": value for key, value in plain.items()}, wrapped)
    monkeypatch.chdir(folder)
    options = ("--model", "net.py:Net", "--samples", "frames.npy", "--format", "json")
    options += ("--strip-prefix", "module.")
    for pair in ((wrapped, "best.pt"), ("best.pt", wrapped)):
        result = cli("verify", *pair, *options)
        assert (result.status, result.document["passed"]) == (0, True), result.err
    assert cli("verify", wrapped, "other.pt", *options).status == 1
    refused = cli("verify", "best.pt", "best.pt", *options)
    assert (refused.status, refused.document["error"]["code"]) == (2, "BNF-L016")


def test_verify_measures_a_changed_artifact_and_fails(
    cli: Cli, converted: Result, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    model = onnx.load(folder / "out" / "best.onnx")
    model.producer_name = "somebody"
    onnx.save(model, tmp_path / "same.onnx")
    monkeypatch.chdir(folder)
    options = ("--model", "net.py:Net", "--samples", "frames.npy")
    result = cli("verify", "best.pt", tmp_path / "same.onnx", *options, "--format", "json")
    assert (result.status, result.document["passed"]) == (1, False)
    assert [row["passed"] for row in result.document["parity"]] == [True]
    assert [found["code"] for found in result.document["findings"]] == ["BNF-M007"]
    assert cli("inspect", tmp_path / "same.onnx").status == 2


def test_verify_two_checkpoints_on_images(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Images have the networks' own size here; what was assumed is told."""
    monkeypatch.chdir(folder)
    options = ("--model", "net.py:Net", "--samples", "frames.npy", "--format", "json")
    result = cli("verify", "best.pt", "best.pt", *options)
    assert result.status == 0, result.err
    assert [(row["candidate"], row["passed"]) for row in result.document["parity"]] == [("torch", True)]
    found = {entry["code"]: entry for entry in result.document["findings"]}
    assert sorted(found) == ["BNF-V015", "BNF-V016"]
    assert found["BNF-V016"]["evidence"] == {"shape": [1, 1, 8, 8]}
    assert found["BNF-V015"]["evidence"]["normalisation"]["scale"] == 1 / 255
    # the same difference between the two networks as on inputs that are prepared here
    said = ("--scale", "1/128", "--mean", "0.5", "--std", "0.25", "--input", "1x1x8x8")
    images = cli("verify", "best.pt", "other.pt", *options, *said)
    assert images.status == 1
    assert [entry["code"] for entry in images.document["findings"]] == ["BNF-V001"]
    prepared = (np.stack([frame(seed) for seed in range(20)])[:, None] / 128 - 0.5) / 0.25
    np.save(tmp_path / "prepared.npy", prepared.astype(np.float32))
    floats = cli("verify", "best.pt", "other.pt", *options[:2], "--samples", tmp_path / "prepared.npy",
                 "--format", "json")  # fmt: skip
    assert [entry["code"] for entry in floats.document["findings"]] == ["BNF-V001"]
    errors = [result.document["parity"][0]["max_abs_error"] for result in (images, floats)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)
    np.save(tmp_path / "large.npy", np.zeros((16, 9, 9), np.uint8))
    large = (*options[:2], "--samples", tmp_path / "large.npy")
    refused = cli("verify", "best.pt", "best.pt", *large)
    assert refused.status == 2
    assert "error[BNF-V032]: the samples were taken for image: float32 (1, 1, 9, 9)" in refused.err
    assert "--input" in refused.err
    assert cli("verify", "best.pt", "best.pt", *large, "--input", "1x1x8x8").status == 0


@pytest.mark.parametrize("option", [("--mean", "0.5"), ("--color", "gray"), ("--input", "1x1x8x8")])
def test_verify_is_not_told_what_an_artifact_says(
    cli: Cli, converted: Result, folder: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, str]
) -> None:
    monkeypatch.chdir(folder)
    result = cli("verify", "out/best.onnx", "out/best.onnx", "--samples", "frames.npy", *option)
    assert result.status == 2
    assert result.err.startswith("error[BNF-U012]: an artifact says itself what it takes")
    assert f"{option[0]}, with out/best.onnx" in result.err


def test_a_trusted_pickle_finds_the_classes_that_the_model_option_finds(shell: Cli, tmp_path: Path) -> None:
    """A whole module, pickled where its class was imported from a package, or from beside the script."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "nets.py").write_text(MODEL)
    save = "import torch; from {0} import Net; torch.manual_seed(0); torch.save(Net(), {1!r})"
    for name, place in (("zoo.nets", tmp_path), ("nets", tmp_path / "zoo")):
        code = save.format(name, str(tmp_path / f"{name}.pt"))
        subprocess.run([sys.executable, "-c", code], cwd=place, check=True, capture_output=True)
    # as the console script is started: nothing of the current folder is on sys.path
    clean = "import sys; sys.path[:] = [p for p in sys.path if p]"
    for file, model in (("zoo.nets.pt", "zoo.nets:Net"), ("nets.pt", "zoo/nets.py:Net")):
        options = ("--model", model, "--input", "1x1x8x8", "-o", "out", "--format", "json")
        result = shell("convert", file, *options, "--trust-pickle", code=clean, cwd=tmp_path)
        assert result.status == 0, result.err
        assert result.document["passed"]
        refused = shell("convert", file, *options, code=clean, cwd=tmp_path)
        assert refused.document["error"]["code"] in ("BNF-L002", "BNF-L029")


def test_pruning_from_the_command_line_and_from_the_configuration(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    entries = state(0)
    entries["body.1.weight"][2], entries["body.1.bias"][2] = 0.0, 1.5
    torch.save(entries, tmp_path / "dead.pt")
    for name in ("net.py", "labels.txt", "frames.npy"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    arguments = ("convert", "dead.pt", *AS, "--samples", "frames.npy", "--format", "json")
    plain, flag = cli(*arguments, "-o", "plain").document, cli(*arguments, "-o", "flag", "--prune").document
    (tmp_path / "bnfold.toml").write_text("[convert]\nprune = true\n")
    told = cli(*arguments, "-o", "told").document
    assert plain["passed"]
    assert flag["passed"]
    assert plain["pruned"] is None
    layer = {"name": "body.0", "channels": 4, "removed": [2], "left": [], "reader": None}
    assert flag["pruned"] == {"layers": [layer], "weight_bytes_saved": 4 * (9 + 1 + 3 * 36)}
    assert told["pruned"] == flag["pruned"]
    assert told["artifacts"][0]["sha256"] == flag["artifacts"][0]["sha256"]
    assert "BNF-A034" in [finding["code"] for finding in flag["findings"]]


SIAMESE = """
import torch
from torch import nn

class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, left, right):
        both = [self.body(side).mean((2, 3)) for side in (left, right)]
        return self.head(both[0] - both[1])
"""


def test_a_cause_that_the_network_may_have_is_allowed(cli: Cli, tmp_path: Path) -> None:
    import torch

    (tmp_path / "siamese.py").write_text(SIAMESE)
    entries = {key: value for key, value in state(0).items() if key.startswith(("body.0", "body.1"))}
    entries |= {"head.weight": torch.randn(2, 4), "head.bias": torch.randn(2)}
    torch.save(entries, tmp_path / "pair.pt")
    call = ("convert", "pair.pt", "--model", "siamese.py:Siamese", "--input", "left=1x1x8x8",
            "--input", "right=1x1x8x8", "--format", "json")  # fmt: skip
    refused = cli(*call)
    (finding,) = refused.document["findings"]
    assert (refused.status, finding["code"], refused.document["artifacts"]) == (1, "BNF-A010", [])
    assert "--allow BNF-A010" in finding["remedy"]
    assert list(tmp_path.glob("pair.onnx*")) == []
    passed = cli(*call, "--allow", "BNF-A010")
    assert (passed.status, passed.document["passed"]) == (0, True)
    assert ("BNF-A010", "warning") in [(one["code"], one["severity"]) for one in passed.document["findings"]]
    told = [{"code": "BNF-A010", "where": finding["where"]}]
    assert cli("inspect", "pair.onnx", "--format", "json").document["manifest"]["allowed"] == told
    assert f"allowed  BNF-A010 at {finding['where']}" in cli("inspect", "pair.onnx").out
    mistake = cli(*call, "--allow", "BNF-A999")
    assert (mistake.status, mistake.document["error"]["code"]) == (2, "BNF-U180")


def test_an_unknown_rule(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name, fix in (("nope", "bnfold rules lists them"), ("conv-backwards", "conv-backward")):
        result = cli("convert", "best.pt", *AS, "--skip", name)
        assert (result.status, result.out) == (2, "")
        assert "BNF-U025" in result.err
        assert fix in result.err


def test_verify_needs_the_network_of_a_checkpoint(
    cli: Cli, converted: Result, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = cli("verify", "best.pt", "out/best.onnx", "--samples", "frames.npy")
    assert result.status == 2
    assert result.err.startswith("error[BNF-U018]")


def test_inspect_an_artifact(cli: Cli, converted: Result, folder: Path) -> None:
    result = cli("inspect", folder / "out" / "best.tflite", "--format", "json")
    assert result.status == 0
    manifest = result.document["manifest"]
    assert manifest["labels"] == LABELS.split()
    assert manifest["source"]["name"] == "best.pt"
    assert str(folder) not in json.dumps(manifest)
    text = cli("inspect", folder / "out" / "best.onnx").out
    assert "2 BatchNorms: 2 folded" in text
    assert "frames are prepared as gray, stretch, NCHW, pixel / 255" in " ".join(text.split())


def test_inspect_a_checkpoint(cli: Cli, folder: Path) -> None:
    document = cli("inspect", folder / "nan.pt", "--format", "json").document
    assert document["kind"] == "checkpoint"
    norms = {norm["name"]: norm for norm in document["state_dicts"][0]["batch_norms"]}
    assert norms["body.1"]["running_var"]["non_finite"] == 1
    assert norms["body.5"]["num_batches_tracked"] == 700
    assert "1 not finite" in cli("inspect", folder / "nan.pt").out


def test_rules(cli: Cli) -> None:
    from bnfold.fold.rules import all_rules

    listed = cli("rules", "--format", "json").document["rules"]
    assert [(rule["name"], rule["algebra"]) for rule in listed] == [(r.name, r.algebra) for r in all_rules()]
    assert "s * (W * x + b) + t  =  (s W) * x" in cli("rules", "conv-backward").out
    missing = cli("rules", "conv-backwards")
    assert missing.status == 2
    assert "did you mean conv-backward" in missing.err
