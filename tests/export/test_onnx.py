"""ONNX files: values, names, opsets, the batch axis, and what must not be in them."""

from __future__ import annotations

import copy
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnfold.errors import ExportError, InternalError
from bnfold.export import onnx as target
from bnfold.export import source
from bnfold.fold import fold
from bnfold.numerics import max_rel_error
from tests.export.bodies import Body, Net, Net2, body_of, draw, feeds, run_onnx, set_weights

FLOAT32 = 2e-6


def check(body: Body, **options: Any) -> onnx.ModelProto:
    exported = target.export(*body.arguments, **options)
    actual = run_onnx(exported, feeds(body))
    assert list(actual) == [spec.name for spec in body.outputs]
    for name, expected in body.expected.items():
        assert actual[name].dtype == expected.dtype
        assert max_rel_error(actual[name], expected) <= FLOAT32, name
    return onnx.load_from_string(exported.data)


def mixed_up() -> Body:
    """Inputs of equal shapes; outputs of equal shapes, the later computed first, one of them an input."""

    def run(_: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
        late = x - 2 * y
        early = late * y
        return {"b": early, "a": [y, late], "x": x / 3}

    return body_of(Net2(run), draw(2, 4), draw(2, 4, seed=6))


def test_equal_shapes_are_told_apart_by_name() -> None:
    model = check(mixed_up())
    assert [value.name for value in model.graph.input] == ["x", "y"]
    assert [value.name for value in model.graph.output] == ["b", "a.0", "a.1", "x.1"]


def test_names_in_the_manifest_s_map() -> None:
    exported = target.export(*mixed_up().arguments)
    assert exported.inputs == {"x": "x", "y": "y"}
    assert exported.outputs == {"b": "b", "a.0": "a.0", "a.1": "a.1", "x": "x.1"}


def test_a_weight_named_like_an_output_gives_way() -> None:
    def run(net: Any, x: torch.Tensor) -> Any:
        return {"inner.weight": net.inner(x), "relu": F.relu(x).mean(), "linear": x + 1}

    model = check(body_of(Net(run, inner=nn.Linear(3, 4)), draw(2, 3)))
    assert [value.name for value in model.graph.output] == ["inner.weight", "relu", "linear"]


def test_an_input_that_nothing_reads_stays() -> None:
    model = check(body_of(Net2(lambda _, x, y: y * 2), draw(2, 3), draw(2, 3, seed=6)))
    assert [value.name for value in model.graph.input] == ["x", "y"]


@pytest.mark.parametrize("epsilon", [1e-7, 1e-8, 1e-10, 1e-15, -1e-9])
def test_a_small_epsilon_stays(epsilon: float) -> None:
    """The optimiser of the exporter takes what is close to 0 for 0, and what is close to 1 for 1."""

    def run(net: Any, x: torch.Tensor) -> Any:
        y = F.relu(x)  # all zero for the input below: what is left is epsilon
        return {
            "plus": (y + epsilon) / epsilon, "minus": (y - epsilon) / epsilon,
            "number": (epsilon + y) / epsilon, "buffer": (net.buffer + y) / epsilon,
            "sum": (y.sum() + epsilon) / epsilon,
            "scaled": torch.add(y, torch.tensor(epsilon / 2), alpha=2) / epsilon,
        }  # fmt: skip

    net = Net(run)
    net.register_buffer("buffer", torch.tensor(epsilon))
    check(body_of(net, -draw(1, 5).abs()))


@pytest.mark.parametrize("factor", [1 + 2**-20, 1 - 2**-18, 1.00001])
def test_a_factor_close_to_one_stays(factor: float) -> None:
    model = check(body_of(Net(lambda _, x: {"times": x * factor, "over": x / factor}), draw(1, 5)))
    assert sorted(node.op_type for node in model.graph.node) == ["Div", "Mul"]


def test_integers_and_booleans() -> None:
    def run(net: Any, x: torch.Tensor) -> Any:
        scores = net.table(x).sum(1)
        return scores, scores.argmax(1), scores > 0

    tokens = torch.tensor([[3, 1, 7], [0, 0, 10]])
    body = body_of(Net(run, table=nn.Embedding(11, 5)), tokens)
    actual = run_onnx(target.export(*body.arguments), feeds(body))
    assert [actual[spec.name].dtype.name for spec in body.outputs] == ["float32", "int64", "bool"]
    assert (actual[body.outputs[1].name] == body.expected[body.outputs[1].name]).all()


def test_poolings_that_the_exporter_lacks() -> None:
    def run(_: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
        return {
            "divisor": F.avg_pool2d(x, 3, 2, divisor_override=5),
            "uneven": F.adaptive_max_pool2d(x, (3, 4)),
            "even": F.adaptive_max_pool2d(x, (2, 5)),
            "volume": F.adaptive_avg_pool3d(y, 2),
        }

    check(body_of(Net2(run), draw(1, 3, 8, 10), draw(1, 2, 4, 5, 6)))


@pytest.mark.parametrize("biased", [True, False])
def test_a_projected_lstm_is_refused_by_name_and_a_plain_one_is_written(biased: bool) -> None:
    def run(net: Any, x: torch.Tensor) -> Any:
        return net.lstm(x)[0]

    def body(size: int) -> Body:
        options = {"bias": biased, "bidirectional": True, "proj_size": size}
        return body_of(Net(run, lstm=nn.LSTM(4, 3, 2, **options)), draw(2, 3, 4))

    check(body(0))
    with pytest.raises(ExportError, match="no projection") as refusal:
        check(body(2))
    assert (refusal.value.code, refusal.value.fix.endswith("--to tflite")) == ("BNF-E010", True)


@pytest.mark.parametrize("opset", [None, 18, 21, 25])
def test_opset(opset: int | None) -> None:
    net = Net(lambda n, x: F.softmax(F.gelu(n.conv(x)).mean((2, 3)), 1), conv=nn.Conv2d(3, 4, 3, 2, 1))
    model = check(body_of(net, draw(1, 3, 8, 8)), opset=opset)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == (opset or 20)


@pytest.mark.parametrize("opset", [-1, 17, 26])
def test_unsupported_opset_is_refused_before_any_work(opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "private_copy", None)
    with pytest.raises(ExportError, match=f"BNF-E001.*opset {opset}.*18 to 25"):
        target.export(*mixed_up().arguments, opset=opset)


def test_more_than_2_gb_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_of(nn.Linear(3, 4), draw(1, 3))
    monkeypatch.setattr(source, "SIZE_LIMIT", 63)  # the weights are 12 + 4 float32: 64 bytes
    monkeypatch.setattr(target, "private_copy", None)
    with pytest.raises(ExportError, match=r"BNF-E002.*64 bytes.*2 GB"):
        target.export(*body.arguments)


def batch_net() -> nn.Module:
    return Net2(
        lambda n, x, y: (torch.cat([n.conv(x).flatten(1), y], 1), n.line(y)),
        conv=nn.Conv2d(3, 4, 3), line=nn.Linear(5, 2),
    )  # fmt: skip


def test_dynamic_batch() -> None:
    module = batch_net()
    body = body_of(module, draw(2, 3, 5, 6), draw(2, 5), dynamic_batch=True)
    model = check(body, dynamic_batch=True)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    exported = target.export(*body.arguments, dynamic_batch=True)
    for size in (1, 7):
        x, y = draw(size, 3, 5, 6, seed=size), draw(size, 5, seed=size)
        with torch.no_grad():
            expected = module(x, y)
        actual = run_onnx(exported, {"x": x.numpy(), "y": y.numpy()})
        for value, wanted in zip(actual.values(), expected, strict=True):
            assert max_rel_error(value, wanted.numpy()) <= FLOAT32


def test_dynamic_batch_of_a_recurrent_layer_and_of_twice_the_batch() -> None:
    def run(net: Any, x: torch.Tensor) -> Any:
        return {"kept": net.kept(x)[0], "twice": torch.cat([x, 2 * x])}

    net = Net(run, kept=nn.GRU(4, 3, batch_first=True))
    model = check(body_of(net, draw(2, 3, 4), dynamic_batch=True), dynamic_batch=True)
    axes = [value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.output]
    assert axes == ["batch", "2*batch"]


def test_a_batch_size_that_is_built_in_cannot_stay_symbolic() -> None:
    body = body_of(Net(lambda _, x: x.reshape(2, -1) * 2), draw(2, 3, 4))
    symbolic = (body.inputs[0]._replace(shape=(None, 3, 4)),)
    with pytest.raises(ExportError, match="BNF-E012") as refusal:
        target.export(body.body, symbolic, body.outputs, body.example, dynamic_batch=True)
    assert "your code specialized it to be a constant (2)" in refusal.value.where


def test_fixed_batch_stays_fixed() -> None:
    model = check(body_of(batch_net(), draw(2, 3, 5, 6), draw(2, 5)))
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 5, 6]


def test_no_batch_norm_and_the_body_untouched() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    net[1].running_mean = draw(4)
    result = fold(set_weights(net), (draw(1, 3, 5, 6),))
    module, code = result.module, result.module.body.code
    state = copy.deepcopy(module.body.state_dict())
    exported = target.export(module.body, module.inputs, module.outputs, (draw(1, 3, 5, 6),))
    model = onnx.load_from_string(exported.data)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu"]
    assert module.body.code == code
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.body.state_dict().items())
    again = target.export(copy.deepcopy(module.body), module.inputs, module.outputs, (draw(1, 3, 5, 6),))
    assert again.data == exported.data


def test_a_batch_norm_in_the_graph_is_an_internal_error() -> None:
    with pytest.raises(InternalError, match="BNF-X042"):
        target.export(
            *body_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), draw(1, 3, 5, 6)).arguments
        )


def test_a_plain_module_is_captured() -> None:
    module = set_weights(nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    body = body_of(module, draw(2, 3))
    exported = target.export(module, body.inputs, body.outputs, body.example)
    actual = run_onnx(exported, feeds(body))["output"]
    assert max_rel_error(actual, body.expected["output"]) <= FLOAT32


def test_valid_and_free_of_debug_data() -> None:
    model = check(mixed_up())
    onnx.checker.check_model(model, full_check=True)
    text = model.SerializeToString()
    for trace in (b".py", b"stack_trace", b"site-packages", b"pkg.torch", b"Net2"):
        assert trace not in text


def test_one_run_says_where_it_ran() -> None:
    exported = target.export(*mixed_up().arguments)
    (entry,) = exported.runs_on
    assert (entry["runtime"], entry["basis"]) == ("onnxruntime", "ran")
    assert set(exported.libraries) == {"torch", "onnx", "onnxscript"}
