"""Files that take channels last: the same answers, no transpose, and everything around them in the right order."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold import manifest
from bnfold.errors import InputError
from bnfold.export.tflite_inspect import describe

HOW = {"mean": [0.485, 0.3, 0.406], "std": [0.229, 0.5, 0.1], "color": "bgr"}
SIZE = (10, 7)


class Net(nn.Module):
    """An image and a vector in; the padding makes height and width count."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 6, (3, 1), stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6 * 3 * 3, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.second(self.first(image)).flatten(1))


class Several(nn.Module):
    """Channels of a number that no image has, a volume, a vector, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
        self.deep = nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3))

    def forward(self, vector: Tensor, maps: Tensor, cube: Tensor) -> dict[str, Tensor]:
        return {"maps": self.flat(maps) + vector.sum(), "cube": self.deep(cube).sum((2, 3, 4)) * vector}


def built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    network = kind().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(1000)
    return network


def camera(count: int = 24) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def prepared(frame: Any) -> np.ndarray[Any, Any]:
    """Channels first, by the definition, float64."""
    pixels = frame.astype(np.float64)[..., ::-1] / 255
    return np.moveaxis((pixels - HOW["mean"]) / HOW["std"], -1, 0)[None].copy()


def right(network: nn.Module, frame: Any) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return copy.deepcopy(network).double()(torch.from_numpy(prepared(frame))).numpy()


def converted(folder: Path, layout: str, **options: Any) -> Any:
    options = {"samples": camera(), "name": layout, "normalisation": HOW, **options}
    result = bnfold.convert(
        built(Net), (torch.zeros(1, 3, *SIZE),), to="tflite", output=folder, layout=layout, **options
    )
    assert result.passed, result.findings
    return result


def operators(path: Path) -> list[str]:
    return [str(one.name) for one in describe(manifest.strip(path.read_bytes())).operators]


@pytest.mark.parametrize("options", [{}, {"bake_normalisation": True}], ids=["plain", "baked"])
def test_the_same_answers_without_a_transpose_in_front(tmp_path: Path, options: Any) -> None:
    network = built(Net)
    for layout in ("nchw", "nhwc"):
        converted(tmp_path, layout, monitor=True, **options)
    for role in ("", ".monitor"):
        first, last = (bnfold.open(tmp_path / f"{layout}{role}.tflite") for layout in ("nchw", "nhwc"))
        assert [one.inputs[0].shape for one in (first, last)] == [(1, 3, *SIZE), (1, *SIZE, 3)]
        for frame in camera()[:5]:
            expected = right(network, frame)
            answers = [one.predict(frame) for one in (first, last)]
            for answer in answers:
                assert np.abs(answer["output"] - expected).max() < 1e-5 * np.abs(expected).max()
            for name, values in answers[0].items():  # what the drift checks see as well
                assert np.abs(answers[1][name] - values).max() < 1e-5 * np.abs(values).max()
        assert all(check.passed for check in last.self_test())
        ready = last.prepare(camera()[0])["image"]
        assert ready.shape == (1, *SIZE, 3)
        assert np.array_equal(last.predict_raw(ready)["output"], last.predict(camera()[0])["output"])
        moved = np.ascontiguousarray(np.moveaxis(first.prepare(camera()[0])["image"], 1, -1))
        assert np.array_equal(moved, ready)
        with pytest.raises(InputError, match="BNF-R010"):
            last.predict_raw(first.prepare(camera()[0])["image"])
    entry = manifest.read(tmp_path / "nhwc.tflite")["inputs"][0]
    assert entry["layout"] == {"file": "NHWC", "network": "NCHW"}
    assert (entry["shape"], entry["normalisation"]["layout"]) == ([1, *SIZE, 3], "NHWC")
    assert "layout" not in manifest.read(tmp_path / "nchw.tflite")["inputs"][0]
    print(operators(tmp_path / "nchw.tflite"), operators(tmp_path / "nhwc.tflite"))
