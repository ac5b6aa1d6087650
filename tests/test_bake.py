"""Pixels prepared inside the file: the same answers, free where nothing is padded; verify knows of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bnfold_cli.main import main
from torch import Tensor, nn

import bnfold
from bnfold import manifest
from bnfold.bake import bake
from bnfold.errors import UsageError, VerifyError
from bnfold.runtime.preprocess import prepare
from bnfold.signature import TensorSpec
from tests.drawn import with_statistics

HOW = {"scale": 1 / 255, "mean": [0.485, 0.3, 0.406], "std": [0.229, 0.5, 0.1], "color": "rgb"}
SIZE = (10, 7)


class Net(nn.Module):
    """Three colours in, two BatchNorms, three scores out."""

    def __init__(self, padding: int = 1, last: bool = False) -> None:
        super().__init__()
        conv = nn.Conv2d(3, 5, 3, padding=padding, bias=False)
        self.first = nn.Sequential(conv, nn.BatchNorm2d(5), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(5, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)
        self.last = last

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2) if self.last else image
        return self.head(self.second(self.first(x)).mean((2, 3)))


class WithVector(Net):
    def forward(self, vector: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image) + vector


class Nested(Net):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(pair[0]) + pair[1]


def built(kind: type[Net] = Net, **options: Any) -> Net:
    torch.manual_seed(3)
    return with_statistics(kind(**options))


def example(last: bool = False) -> tuple[Tensor, ...]:
    return (torch.zeros((1, *SIZE, 3) if last else (1, 3, *SIZE)),)


def camera(count: int = 20, size: tuple[int, int] = SIZE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def right(network: Net, frame: Any, how: dict[str, Any], last: bool = False) -> np.ndarray[Any, Any]:
    """The original network in float64 on the frame, prepared outside by its definition."""
    pixels = frame.astype(np.float64)[..., ::-1] if how["color"] == "bgr" else frame.astype(np.float64)
    prepared = (pixels * how["scale"] - np.array(how["mean"])) / np.array(how["std"])
    tensor = torch.from_numpy(prepared if last else np.moveaxis(prepared, -1, 0).copy())[None]
    with torch.no_grad():
        return copy.deepcopy(network).double()(tensor).numpy()


@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize(
    ("last", "how"), [(False, HOW), (True, HOW), (False, {**HOW, "color": "bgr", "mean": [0.0] * 3})]
)
def test_the_same_answers_as_with_the_preparation_outside(
    tmp_path: Path, target: str, last: bool, how: dict[str, Any]
) -> None:
    network = built(last=last)
    given = {**how, "layout": "NHWC" if last else "NCHW"}
    frames = camera()
    result = bnfold.convert(
        network, example(last), to=(target,), output=tmp_path, name="net", samples=frames,
        normalisation=given, bake_normalisation=True, monitor=True,
    )  # fmt: skip
    assert result.passed, result.findings
    assert [entry.name for entry in result.batch_norms] == ["first.1", "second.1"]
    assert {entry.status for entry in result.batch_norms} == {"folded"}
    for name in ("net", "net.monitor"):
        model = bnfold.open(tmp_path / f"{name}.{target}")
        for frame in frames[:5]:
            expected = right(network, frame, how, last)
            assert np.abs(model.predict(frame)["output"] - expected).max() < 1e-5 * np.abs(expected).max()
        assert all(check.passed for check in model.self_test())
    pixels = frames[0].astype(np.float32)[..., :: -1 if how["color"] == "bgr" else 1]
    pixels = pixels if last else np.moveaxis(pixels, -1, 0)
    raw = model.predict(np.ascontiguousarray(pixels))["output"]
    assert np.array_equal(raw, model.predict(frames[0])["output"])
    entry = model.manifest["inputs"][0]["normalisation"]
    assert (entry["scale"], entry["mean"], entry["std"]) == (1.0, [0.0] * 3, [1.0] * 3)
    assert entry["baked"] == {key: how[key] for key in ("scale", "mean", "std")}


def operators(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> int:
    graph = bnfold.fold(module, example_inputs).module.body.graph
    return sum(node.op == "call_function" for node in graph.nodes)


@pytest.mark.parametrize(
    ("padding", "mean", "more"),
    [(0, [0.485, 0.3, 0.406], 0), (1, [0.0] * 3, 0), (1, [0.485, 0.3, 0.406], 1)],
    ids=["no padding", "no mean", "border"],
)
def test_it_goes_into_the_first_convolution_where_that_is_legal(
    padding: int, mean: list[float], more: int
) -> None:
    network = built(padding=padding)
    baked = bake(network, example(), {**HOW, "mean": mean})
    assert operators(baked.module, baked.example_inputs) == operators(network, example()) + more


def test_the_callers_network_is_left_as_it_was() -> None:
    network = built()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    answer = network(example()[0])
    baked = bake(network, example(), HOW)
    assert type(network) is Net
    assert list(network.state_dict()) == list(before) == list(baked.module.state_dict())
    assert torch.equal(network(example()[0]), answer)
    assert not hasattr(network, "image_pixel_scale")
    assert baked.module.first is network.first


def test_the_image_among_several_inputs(tmp_path: Path) -> None:
    network = built(WithVector)
    vector = np.array([[1.0, -2.0, 3.0]], dtype=np.float32)
    result = bnfold.convert(
        network, (torch.zeros(1, 3), *example()), output=tmp_path, name="net", normalisation=HOW,
        bake_normalisation=True,
    )  # fmt: skip
    assert result.passed, result.findings
    frame = camera(1)[0]
    found = bnfold.open(tmp_path / "net.onnx").predict({"vector": vector, "image": frame})["output"]
    expected = right(built(), frame, HOW) + vector
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_frame_of_another_size_is_still_fitted_outside(tmp_path: Path) -> None:
    network = built()
    bnfold.convert(
        network, example(), output=tmp_path, name="net", normalisation=HOW, bake_normalisation=True
    )
    frame = camera(1, (23, 31))[0]
    spec = TensorSpec("image", (1, 3, *SIZE), "float32")
    plain = {**HOW, "layout": "NCHW", "resize": "stretch"}
    with torch.no_grad():
        expected = network(torch.from_numpy(prepare(frame, spec, plain))).numpy()
    found = bnfold.open(tmp_path / "net.onnx").predict(frame)["output"]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_what_cannot_be_baked() -> None:
    for network, given, how in (
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (torch.zeros(1, 4),), None),
        (built(Nested), ((example()[0], torch.zeros(1, 3)),), HOW),
    ):
        with pytest.raises(UsageError) as caught:
            bake(network, given, how)
        assert caught.value.code == "BNF-U170"
    with pytest.raises(UsageError) as caught:
        bake(built(), example(), {"mean": [1.0, 2.0]})
    assert caught.value.code == "BNF-U012"


def test_verify_compares_with_the_checkpoint(tmp_path: Path) -> None:
    network, frames = built(), camera()
    for name, baked in (("baked", True), ("plain", False)):
        bnfold.convert(
            network, example(), output=tmp_path, name=name, samples=frames, normalisation=HOW,
            bake_normalisation=baked,
        )  # fmt: skip
    path = tmp_path / "baked.onnx"
    assert all(result.passed for result in bnfold.verify(network, path, frames))
    assert all(result.passed for result in bnfold.verify(path, network, frames))
    assert all(result.passed for result in bnfold.verify(path, path, frames))
    document = manifest.read(path)
    document["inputs"][0]["normalisation"]["baked"]["std"][1] *= 1.001
    (tmp_path / "other.onnx").write_bytes(manifest.embed(manifest.strip(path.read_bytes()), document))
    assert not all(result.passed for result in bnfold.verify(network, tmp_path / "other.onnx", frames))
    for pair in ((path, tmp_path / "plain.onnx"), (bnfold.fold(network, example()), path)):
        with pytest.raises(VerifyError) as caught:
            bnfold.verify(*pair, frames)
        assert caught.value.code == "BNF-V032"


def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save(built().state_dict(), tmp_path / "net.pt")
    np.save(tmp_path / "frames.npy", camera())
    arguments = [
        "convert", tmp_path / "net.pt", "--model", f"{__file__}:Net", "--input", "1x3x10x7", "-o", tmp_path,
        "--mean", "0.485,0.3,0.406", "--std", "0.229,0.5,0.1", "--samples", tmp_path / "frames.npy",
        "--bake-normalisation",
    ]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    assert main(["run", str(tmp_path / "net.onnx"), "--self-test"]) == 0
    capfd.readouterr()
    assert main(["inspect", str(tmp_path / "net.onnx")]) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "pixel (inside the file: (pixel / 255 - [0.485, 0.3, 0.406]) / [0.229, 0.5, 0.1])" in text
