"""The private copy of the graph, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnfold.errors import ExportError
from bnfold.export.crosscheck import crosscheck, distinct_inputs
from bnfold.export.source import private_copy, user_line
from bnfold.signature import TensorSpec
from tests.export.bodies import Array, Body, Net, Net2, body_of, draw


def two() -> Body:
    return body_of(Net2(lambda _, x, y: (x - y, x * y)), draw(2, 3), draw(2, 3, seed=6))


def test_a_copy_computes_the_same_and_changing_it_changes_nothing() -> None:
    body = body_of(nn.Linear(3, 4), draw(2, 3))
    copy = private_copy(*body.arguments)
    (actual,) = copy(*body.example)
    assert torch.equal(actual, body.body(*body.example)[0])
    code = body.body.code
    for node in list(copy.graph.nodes)[::-1]:
        if node.op == "call_function":
            node.replace_all_uses_with(next(iter(copy.graph.nodes)))
            copy.graph.erase_node(node)
    copy.recompile()
    assert body.body.code == code


def test_a_constant_output_is_refused_by_name() -> None:
    body = body_of(Net(lambda _, x: {"y": x + 1, "anchors": torch.arange(3.0) * 2}), draw(1, 3))
    with pytest.raises(ExportError, match=r"BNF-E007.*'anchors' is a constant"):
        private_copy(*body.arguments)


@pytest.mark.parametrize("change", ["inputs", "outputs", "example", "duplicate"])
def test_what_does_not_fit_together_is_refused(change: str) -> None:
    body = two()
    inputs, outputs, example = body.inputs, body.outputs, body.example
    if change == "inputs":
        inputs = inputs[:1]
    elif change == "outputs":
        outputs = outputs[:1]
    elif change == "example":
        example = (*example, draw(1))
    else:
        inputs = (inputs[0], inputs[0])
    with pytest.raises(ExportError, match="BNF-E011"):
        private_copy(body.body, inputs, outputs, example)


def test_user_line_is_the_innermost_that_is_no_library_s() -> None:
    trace = (
        'File "/home/me/net.py", line 3, in forward\n    x = self.a(x)\n'
        'File "/home/me/layers.py", line 8, in forward\n    return F.relu(x)\n'
        'File "/usr/lib/site-packages/torch/nn/functional.py", line 99, in relu\n    return torch.relu(x)\n'
    )
    assert user_line(trace) == "/home/me/layers.py:8  `return F.relu(x)`  in forward"
    assert user_line(trace.split("File")[3]) == ""


def test_inputs_for_the_check_differ_and_integers_stay_in_range() -> None:
    specs = tuple(TensorSpec(name, (40,), "") for name in ("a", "b", "tokens"))
    arrays = distinct_inputs(specs, (torch.zeros(40), torch.zeros(40), torch.arange(40)))
    assert abs(arrays["a"] - arrays["b"]).max() > 0.5
    assert sorted(arrays["tokens"]) == list(range(40))
    assert list(arrays["tokens"]) != list(range(40))


class Wrong:
    """A file that computes something else than (x - y, x * y)."""

    def __init__(self, change: str) -> None:
        self.change = change

    def __call__(self, arrays: dict[str, Array]) -> dict[str, Array]:
        x, y = arrays["x"], arrays["y"]
        first, second = x - y, x * y
        if self.change == "inputs swapped":
            first = y - x
        elif self.change == "outputs swapped":
            first, second = second, first
        elif self.change == "not finite":
            first = first / 0 * 0
        elif self.change == "shape":
            first = first[:1]
        elif self.change == "dtype":
            first = first.astype("float64")
        elif self.change == "raises":
            raise RuntimeError("\n  Node 3 failed to prepare\nmore")
        return {"0": first, "1": second}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("inputs swapped", "BNF-E008", "differs from the network's by"),
        ("outputs swapped", "BNF-E008", "differs from the network's by"),
        ("not finite", "BNF-E008", "differs from the network's by inf"),
        ("shape", "BNF-E008", r"is float32 \(1, 3\), the network's is float32 \(2, 3\)"),
        ("dtype", "BNF-E008", "is float64"),
        ("raises", "BNF-E009", "cannot run it: Node 3 failed to prepare"),
    ],
)
def test_crosscheck_finds(change: str, code: str, message: str) -> None:
    with pytest.raises(ExportError, match=message) as refusal:
        crosscheck(*two().arguments, Wrong(change), "an interpreter")
    assert refusal.value.code == code


def test_crosscheck_passes_the_right_file() -> None:
    crosscheck(*two().arguments, Wrong("nothing"), "an interpreter")
