"""Scores or numbers: the user's word, labels, a softmax; and a warning where nothing tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bnfold
from bnfold import manifest
from bnfold.capture import capture
from bnfold.errors import VerifyError
from bnfold.verify import compare, kinds
from tests.export.bodies import Net, draw, set_weights


def told(run: object, labels: list[str] | None = None, said: dict[str, str] | None = None) -> dict[str, str]:
    module = set_weights(Net(run, fc=nn.Linear(6, 4), other=nn.Linear(6, 2)))  # type: ignore[arg-type]
    captured = capture(module, (draw(1, 6),))
    return dict(kinds.of_network(captured.body, captured.outputs, labels, said))


def test_what_tells() -> None:
    assert told(lambda m, x: m.fc(x)) == {}
    assert told(lambda m, x: m.fc(x), labels=list("abcd")) == {"output": "top-1"}
    assert told(lambda m, x: m.fc(x), labels=list("abc")) == {}
    assert told(lambda m, x: m.fc(x).softmax(1)) == {"output": "top-1"}
    assert told(lambda m, x: torch.log_softmax(m.other(x), -1)) == {"output": "top-1"}
    assert told(lambda m, x: m.fc(x).softmax(0)) == {}
    assert told(lambda m, x: m.fc(x).softmax(1), said={"": "numbers"}) == {"output": "values"}
    two = {"a": "top-1", "b": "values"}
    assert told(lambda m, x: {"a": m.fc(x), "b": m.fc(x) + 1}, said={"a": "scores", "b": "numbers"}) == two
    assert told(lambda m, x: m.fc(x)[:, None], labels=list("abcd")) == {}


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"pose": "numbers"}, "no output 'pose'"),
        ({"": "numbers"}, "has 2 outputs"),
        ({"a": "points"}, "'points' is no kind"),
        ({"b": "scores"}, "no row of scores"),
    ],
)
def test_what_cannot_be_said(said: dict[str, str], says: str) -> None:
    with pytest.raises(VerifyError) as caught:
        told(lambda m, x: {"a": m.fc(x), "b": x.mean()}, said=said)
    assert caught.value.code == "BNF-V044"
    assert says in caught.value.what


class Place(nn.Module):
    """Where something is: three numbers, of which the first is always the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return place + 100 * torch.tensor([[1.0, 0.0, 0.0]])


def test_numbers_are_held_to_their_values_and_verify_remembers(tmp_path: Path) -> None:
    module = set_weights(Place())
    samples = np.random.default_rng(0).random((48, 3, 8, 8), dtype=np.float32)

    def converted(name: str, **options: object) -> tuple[list[str], list[str], bool]:
        result = bnfold.convert(
            module, (torch.zeros(1, 3, 8, 8),), output=tmp_path, name=name, samples=samples, precision="int8",
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        doubts = [found.where for found in result.findings if found.code == "BNF-V043"]
        return [row.kind for row in result.agreement], doubts, result.passed

    assert converted("guessed") == (["top-1"], ["output"], True)
    kind, doubts, _ = converted("said", answers={"output": "numbers"})
    assert (kind, doubts) == (["values"], [])
    assert converted("labelled", labels=list("abc"))[:2] == (["top-1"], [])
    (path,) = tmp_path.glob("said.onnx*")
    assert manifest.read(path)["quantisation"]["agreement"][0]["kind"] == "values"
    (row,) = compare(module, path, samples).agreement
    assert row.kind == "values"
