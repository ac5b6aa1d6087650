"""The trained sample models: every BatchNorm folded, and the same answers to the last image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx

import bnfold
from bnfold.conversion import ConversionResult
from bnfold.fold import fold
from bnfold.fold.site import BATCH_NORMS

ROOT = Path(__file__).parents[2] / "sample_models"
FRAMES = ROOT / "frames_1000.npz"
GRAY = {"layout": "NCHW", "color": "gray", "resize": "stretch", "scale": 1 / 255, "mean": [0.0], "std": [1.0]}
EXAMPLE = (torch.zeros(1, 1, 28, 28),)
MODELS = {  # name: (folder, BatchNorms, least share of right answers)
    "plain": ("mnist_mlp", 0, 0.5),
    "before": ("mnist_mlp", 3, 0.95),
    "after": ("mnist_mlp", 3, 0.95),
    "mobilenet": ("mnist_mobilenet", None, 0.985),
}


def parts(name: str) -> tuple[Path, str]:
    folder = ROOT / MODELS[name][0]
    checkpoint = folder / f"{name}.safetensors"
    missing = [path for path in (checkpoint, folder / "model.py", FRAMES) if not path.exists()]
    if missing:
        pytest.skip(f"{missing[0].relative_to(ROOT.parent)} is not there yet")
    return checkpoint, f"{folder / 'model.py'}:{name}"


@pytest.fixture(scope="module", params=list(MODELS))
def sample(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, torch.nn.Module, ConversionResult]:
    """One sample model, converted to both formats on the 1,000 frames."""
    torch.set_num_threads(1)
    name = request.param
    checkpoint, spec = parts(name)
    module = bnfold.load(checkpoint, spec)
    return (
        name,
        module,
        bnfold.convert(
            module,
            EXAMPLE,
            to=("onnx", "tflite"),
            output=tmp_path_factory.mktemp(name),
            name=name,
            samples=FRAMES,
            normalisation=GRAY,
            labels=[str(digit) for digit in range(10)],
        ),
    )


def test_every_batch_norm_is_folded(sample: tuple[str, torch.nn.Module, ConversionResult]) -> None:
    name, module, result = sample
    assert result.passed
    count = MODELS[name][1]
    assert count is None or len(result.batch_norms) == count
    assert name == "plain" or result.batch_norms
    for entry in result.batch_norms:
        assert (entry.name, entry.status) == (entry.name, "folded")
        assert entry.max_rel_error is not None
        assert entry.max_rel_error <= 1e-12
    body = fold(module, EXAMPLE).module.body
    assert isinstance(body, fx.GraphModule)
    assert [node.name for node in body.graph.nodes if node.target in BATCH_NORMS] == []


def test_accuracy_is_the_same_to_the_last_image(
    sample: tuple[str, torch.nn.Module, ConversionResult],
) -> None:
    name, _, result = sample
    assert result.accuracy is not None
    before = result.accuracy.before
    assert result.accuracy.frames == 1000
    assert before.value >= MODELS[name][2]
    assert [(score.candidate, score.correct, score.changed) for score in result.accuracy.after] == [
        (candidate, before.correct, 0) for candidate in ("fold", "onnx", "tflite")
    ]
    assert {(row.frames, row.frames_source) for row in result.parity} == {(1000, "samples")}


def test_the_artifacts_answer_raw_frames_as_torch_does(
    sample: tuple[str, torch.nn.Module, ConversionResult],
) -> None:
    """Counted here on its own, from the pixels: not with verify's own means."""
    _, module, result = sample
    with np.load(FRAMES) as data:
        pixels, labels = data["frames"], data["labels"]
    with torch.no_grad():
        scores = module(torch.tensor(pixels[:, None].astype(np.float32) / 255))
    answers = scores.argmax(1).numpy()
    for artifact in result.artifacts:
        model = bnfold.open(artifact.path)
        given = np.array([int(model.predict(frame)["output"].argmax()) for frame in pixels])
        assert int((given == labels).sum()) == int((answers == labels).sum())
        assert np.array_equal(given, answers)
