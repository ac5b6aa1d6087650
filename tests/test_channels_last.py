"""Files that take channels last: the same answers, no transpose, and the right order all around them."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bnfold_cli.main import main
from torch import Tensor, nn

import bnfold
from bnfold import channels_last, manifest
from bnfold.errors import ArtifactError, InputError, UsageError
from bnfold.manifest_schema import check
from bnfold.quantize import tflite_file
from bnfold.runtime.golden import decode, short
from bnfold.signature import TensorSpec
from bnfold.verify import compare
from tests.drawn import with_statistics

HOW = {"mean": [0.485, 0.3, 0.406], "std": [0.229, 0.5, 0.1], "color": "bgr"}
SIZE = (10, 7)


class Net(nn.Module):
    """An image in; the flattening and the second kernel make height and width count."""

    def __init__(self) -> None:
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
        return {
            "maps": self.flat(maps) + vector.sum(1)[:, None, None, None],
            "cube": self.deep(cube).sum((2, 3, 4)) * vector,
        }


def built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return with_statistics(kind())


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


def operators(path: Path) -> Counter[str]:
    model = tflite_file.read(manifest.strip(path.read_bytes()))
    names = tflite_file.operator_names(model)
    return Counter(names[one.opcodeIndex] for graph in model.subgraphs for one in graph.operators)


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
    first, last = (operators(tmp_path / f"{layout}.tflite") for layout in ("nchw", "nhwc"))
    assert last == first - Counter(TRANSPOSE=1)  # the other one is the flattening's
    assert first["TRANSPOSE"] == 2


def test_every_input_that_has_channels_and_no_other(tmp_path: Path) -> None:
    network = built(Several)
    generator = torch.Generator().manual_seed(1)
    shapes = {"vector": (1, 3), "maps": (1, 4, 6, 5), "cube": (1, 2, 3, 4, 5)}
    given = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    result = bnfold.convert(
        network, tuple(given.values()), to="tflite", output=tmp_path, name="net", layout="nhwc"
    )
    assert result.passed, result.findings
    model = bnfold.open(tmp_path / "net.tflite")
    file = {"vector": (1, 3), "maps": (1, 6, 5, 4), "cube": (1, 3, 4, 5, 2)}
    assert {spec.name: spec.shape for spec in model.inputs} == file
    layouts = {entry["name"]: entry.get("layout") for entry in model.manifest["inputs"]}
    assert layouts == {
        "vector": None,
        "maps": {"file": "NHWC", "network": "NCHW"},
        "cube": {"file": "NDHWC", "network": "NCDHW"},
    }
    arrays = {name: tensor.numpy() for name, tensor in given.items()}
    last = channels_last.to_file(arrays, {"maps", "cube"})
    assert {name: array.shape for name, array in last.items()} == file
    answer = model.predict_raw(last)
    with torch.no_grad():
        expected = network(**given)
    for name, values in expected.items():
        assert np.abs(answer[name] - values.numpy()).max() < 1e-5 * values.abs().max(), name
    assert all(row.passed for row in bnfold.verify(network, tmp_path / "net.tflite", [arrays]))


def test_verify_speaks_the_order_of_the_network(tmp_path: Path) -> None:
    network = built(Net)
    for layout in ("nchw", "nhwc"):
        converted(tmp_path, layout)
    first, last = tmp_path / "nchw.tflite", tmp_path / "nhwc.tflite"
    floats = np.concatenate([prepared(frame) for frame in camera()]).astype(np.float32)
    for samples in (camera(), floats):
        for reference, candidate in ((network, last), (first, last), (last, first), (last, last)):
            rows = bnfold.verify(reference, candidate, samples)
            assert rows
            assert all(row.passed for row in rows), (reference, candidate)
    with torch.no_grad():
        network.second[0].weight[0] += 0.05  # type: ignore[index, operator, union-attr]
    comparison = compare(network, last, camera())
    assert not comparison.passed
    assert any("second.0" in found.where + found.message for found in comparison.findings)


def test_verify_of_a_file_that_prepares_pixels_too(tmp_path: Path) -> None:
    converted(tmp_path, "nhwc", bake_normalisation=True)
    rows = bnfold.verify(built(Net), tmp_path / "nhwc.tflite", camera())
    assert rows
    assert all(row.passed for row in rows)


@pytest.mark.parametrize("given", [True, False], ids=["calibrated", "distilled"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions(tmp_path: Path, precision: str, given: bool) -> None:
    # random weights have no margins: agreement is the precision tests' business, the same file is this one's
    options = {"precision": precision, "min_agreement": 0.5, "samples": camera() if given else None}
    for layout in ("nchw", "nhwc"):
        converted(tmp_path, layout, **options)
    first, last = (bnfold.open(tmp_path / f"{layout}.tflite") for layout in ("nchw", "nhwc"))
    for frame in camera()[:5]:
        answers = [one.predict(frame)["output"] for one in (first, last)]
        assert np.abs(answers[1] - answers[0]).max() <= 0.02 * np.abs(answers[0]).max()
    counts = [operators(tmp_path / f"{layout}.tflite") for layout in ("nchw", "nhwc")]
    assert sum(counts[1].values()) < sum(counts[0].values())


def test_samples_stay_in_the_order_of_the_network(tmp_path: Path) -> None:
    floats = np.concatenate([prepared(frame) for frame in camera()]).astype(np.float32)
    converted(tmp_path, "nhwc", samples=floats)
    golden = bnfold.open(tmp_path / "nhwc.tflite").manifest["golden"]["inputs"]["image"]
    assert np.array_equal(decode(golden, where=""), short(np.moveaxis(floats[:1], 1, -1)))


def test_what_is_refused(tmp_path: Path) -> None:
    def attempt(**options: Any) -> None:
        options = {"to": "tflite", "layout": "nhwc", **options}
        bnfold.convert(built(Net), (torch.zeros(1, 3, *SIZE),), output=tmp_path, **options)

    for code, options in (
        ("BNF-U186", {"layout": "nhcw"}),
        ("BNF-U187", {"to": "onnx"}),
        ("BNF-U187", {"to": "onnx,tflite"}),
        ("BNF-U072", {"dynamic_batch": True}),
    ):
        with pytest.raises(UsageError, match=code):
            attempt(**options)
    vector = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(UsageError, match="BNF-U185"):
        bnfold.convert(vector, (torch.zeros(1, 4),), to="tflite", output=tmp_path, layout="nhwc")
    assert not list(tmp_path.iterdir())


def test_an_input_that_is_channels_last_already_is_left_alone() -> None:
    specs = [TensorSpec("image", (1, 10, 7, 3), "float32"), TensorSpec("maps", (1, 4, 6, 5), "float32")]
    assert channels_last.movable(specs, {"image": {"layout": "NHWC"}, "maps": None}) == {"maps"}
    with pytest.raises(UsageError, match="BNF-U185"):
        channels_last.movable(specs[:1], {"image": {"layout": "NHWC"}})


def test_specs_go_there_and_back() -> None:
    specs = (TensorSpec("image", (1, 3, 10, 7), "float32"), TensorSpec("cube", (1, 2, 3, 4, 5), "float32"))
    moved = channels_last.file_specs(specs, {"image", "cube"})
    assert [spec.shape for spec in moved] == [(1, 10, 7, 3), (1, 3, 4, 5, 2)]
    assert channels_last.network_specs(moved, {"image", "cube"}) == specs
    assert channels_last.file_specs(specs, ()) == specs


def test_a_layout_that_does_not_fit_is_a_malformed_manifest(tmp_path: Path) -> None:
    converted(tmp_path, "nhwc")
    good = manifest.read(tmp_path / "nhwc.tflite")
    check(good, "tflite", "")
    for wrong in ("NHWC", {"file": "NCHW", "network": "NHWC"}, {"file": "NDHWC", "network": "NCDHW"}):
        bad = copy.deepcopy(good)
        bad["inputs"][0]["layout"] = wrong
        with pytest.raises(ArtifactError, match=r"BNF-M006.*inputs\[0\]\.layout"):
            check(bad, "tflite", "")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = built(Net)
    torch.save(network.state_dict(), tmp_path / "net.pt")
    np.savez(tmp_path / "frames.npz", frames=camera())
    arguments = [
        "convert", str(tmp_path / "net.pt"), "--model", f"{__file__}:Net", "--input", "1x3x10x7",
        "--samples", str(tmp_path / "frames.npz"), "--layout", "nhwc", "-o", str(tmp_path),
        "--mean", "0.485,0.3,0.406", "--std", "0.229,0.5,0.1", "--color", "bgr",
    ]  # fmt: skip
    assert main([*arguments, "--to", "onnx"]) == 2
    assert "BNF-U187" in capsys.readouterr().err
    assert main([*arguments, "--to", "tflite"]) == 0
    capsys.readouterr()
    artifact = str(tmp_path / "net.tflite")
    assert main(["run", artifact, "--self-test"]) == 0
    capsys.readouterr()
    np.save(tmp_path / "frame.npy", camera()[0])
    np.save(tmp_path / "floats.npy", np.moveaxis(prepared(camera()[0]), 1, -1)[0].astype(np.float32))
    expected = right(network, camera()[0])[0]
    for name in ("frame.npy", "floats.npy"):
        assert main(["run", artifact, str(tmp_path / name), "--format", "json"]) == 0
        answer = json.loads(capsys.readouterr().out)["frames"][0]["outputs"][0]["values"]
        assert np.abs(np.array(answer) - expected).max() < 1e-5 * np.abs(expected).max()
    assert main(["inspect", artifact]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1x10x7x3" in text
    assert "NHWC" in text
    assert main([*arguments, "--to", "tflite", "--layout", "nchw", "--name", "first"]) == 0
    other = ["--against", str(tmp_path / "first.tflite"), "--count", "128", "--seconds", "1"]
    capsys.readouterr()
    assert main(["bench", artifact, *other, "--format", "json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["against"] is not None
