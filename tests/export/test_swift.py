"""bnfold.export.swift: the same file in less time, and litert-torch as it was afterwards."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import fx, library, nn
from torch.fx.experimental.proxy_tensor import make_fx

import bnfold
from bnfold.export import tflite
from bnfold.export.quiet import quiet
from bnfold.export.source import without_user_names
from bnfold.export.swift import swift

pytest.importorskip("litert_torch")


class Network(nn.Module):
    """Convolutions, whose layout is changed; a permutation, views and a copy of its own; equal dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)
        )
        self.mixed = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.body(x)
        z = self.mixed(y.permute(0, 3, 1, 2).clone()).permute(0, 2, 3, 1)
        return z.reshape(1, 4, -1), y.flatten(1)


def written(monkeypatch: pytest.MonkeyPatch, way: object) -> bytes:
    monkeypatch.setattr(tflite, "swift", way)
    torch.manual_seed(0)
    made = bnfold.fold(Network().eval(), (torch.randn(1, 4, 8, 8),))
    module = made.module
    return tflite.export(module.body, module.inputs, module.outputs, made.captured.example).data


def without_stack_traces(module: fx.GraphModule) -> fx.GraphModule:
    """Without them the tracers find their own."""
    copy = without_user_names(module)
    for node in copy.graph.nodes:
        del node.meta["stack_trace"]
    return copy


def test_the_file_is_the_same_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    @contextlib.contextmanager
    def counted(*arguments):  # type: ignore[no-untyped-def]
        with swift(*arguments):
            entered.append(True)
            yield

    made = written(monkeypatch, counted)
    monkeypatch.setattr(tflite, "without_user_names", without_stack_traces)
    assert made == written(monkeypatch, lambda *_: contextlib.nullcontext())
    assert entered == [True]


def internals() -> tuple[object, ...]:
    with quiet():
        from litert_torch.backend.lowerings import registry
    from torch._export import utils
    from torch.export import decomp_utils, exported_program
    from torch.fx import _lazy_graph_module

    return (
        dict(registry.global_registry.registered_ops),
        decomp_utils._collect_all_valid_cia_ops,
        exported_program._collect_all_valid_cia_ops,
        list(exported_program._BACKEND_KEYS_TO_OVERRIDE),
        list(exported_program._AUTOGRAD_ALIAS_BACKEND_KEYS_TO_OVERRIDE),
        _lazy_graph_module._use_lazy_graph_module_flag,
        utils._materialize_cpp_cia_ops,
    )


def doubled(device: str | None = None) -> fx.GraphModule:
    """A graph of one multiplication, which moves its input to a device first."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    if device is not None:
        x = graph.call_function(torch.ops.aten.to.device, (x, torch.device(device), torch.float32))
    graph.output((graph.call_function(torch.ops.aten.mul.Tensor, (x, 2)),))
    return fx.GraphModule(nn.Module(), graph)


EXAMPLE = (torch.zeros(1, 2),)


def test_all_is_put_back() -> None:
    before = internals()
    with swift(doubled(), EXAMPLE):
        *changed, materialize = internals()
        assert all(new != old for new, old in zip(changed, before, strict=False))
        assert materialize is before[-1]  # replaced during a collection alone
    assert internals() == before
    with pytest.raises(KeyboardInterrupt), swift(doubled(), EXAMPLE):
        raise KeyboardInterrupt
    assert internals() == before


def test_composite_operators_are_collected_once_and_anew_after_a_registration() -> None:
    from torch.export import exported_program

    with swift(doubled(), EXAMPLE):
        first = exported_program._collect_all_valid_cia_ops()
        assert exported_program._collect_all_valid_cia_ops() is first
        ours = library.Library("bnfold_test_swift", "DEF")
        ours.define("twice(Tensor x) -> Tensor")
        ours.impl("twice", lambda x: 2 * x, "CompositeImplicitAutograd")
        twice = torch.ops.bnfold_test_swift.twice.default
        assert twice not in first
        assert twice in exported_program._collect_all_valid_cia_ops()
    assert twice in exported_program._collect_all_valid_cia_ops()


def test_a_collection_finds_what_it_found_and_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._export import utils
    from torch.export import exported_program

    before, calls, find = exported_program._collect_all_valid_cia_ops(), [], utils._materialize_cpp_cia_ops
    monkeypatch.setattr(utils, "_materialize_cpp_cia_ops", lambda: calls.append(find()))
    with swift(doubled(), EXAMPLE):
        assert exported_program._collect_all_valid_cia_ops() == before
        assert len(calls) == 1
    exported_program._collect_all_valid_cia_ops()
    assert len(calls) > 2


@pytest.mark.parametrize(
    ("device", "backends"),
    [(None, {"CPU", "Meta"}), ("cpu", {"CPU", "Meta"}), ("xpu", {"CPU", "Meta", "XPU"})],
)
def test_kernels_are_overridden_for_the_devices_in_use(device: str | None, backends: set[str]) -> None:
    from torch.export import exported_program

    operator, kernel = torch.ops.aten.linear.default, torch.nn.functional.linear
    before = dict(operator.py_kernels)
    with (
        swift(doubled(device), EXAMPLE),
        exported_program._override_composite_implicit_decomp({operator: kernel}),
    ):
        added = {key.name for key in operator.py_kernels.keys() - before.keys()}
        assert operator.py_kernels[torch._C.DispatchKey.CompositeImplicitAutograd] is kernel
    assert added - {"CompositeImplicitAutograd"} == backends | {f"Autograd{name}" for name in backends}


def test_a_traced_graph_is_compiled_when_it_is_run() -> None:
    with swift(doubled(), EXAMPLE):
        lazy, forgotten = (make_fx(lambda x: 2 * x)(*EXAMPLE) for _ in range(2))
        assert lazy._needs_recompile()
        assert lazy(torch.ones(2)).tolist() == [2, 2]
        assert not lazy._needs_recompile()
    assert forgotten(torch.ones(2)).tolist() == [2, 2]


def test_without_the_internals_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from litert_torch.backend.lowerings import _basic
    from torch._export import utils
    from torch.export import decomp_utils, exported_program
    from torch.fx import _lazy_graph_module

    for owner, name in (
        (_basic, "_aten_permute"),
        (_basic, "_aten_clone"),
        (_basic, "_aten_view"),
        (decomp_utils, "_collect_all_valid_cia_ops"),
        (exported_program, "_collect_all_valid_cia_ops"),
        (exported_program, "_BACKEND_KEYS_TO_OVERRIDE"),
        (exported_program, "_AUTOGRAD_ALIAS_BACKEND_KEYS_TO_OVERRIDE"),
        (_lazy_graph_module, "_use_lazy_graph_module"),
    ):
        monkeypatch.delattr(owner, name)
    with swift(doubled(), EXAMPLE):
        assert not hasattr(exported_program, "_collect_all_valid_cia_ops")
    monkeypatch.undo()
    monkeypatch.delattr(utils, "_materialize_cpp_cia_ops")
    monkeypatch.setattr(exported_program, "_collect_all_valid_cia_ops", lambda: {"found"})
    with swift(doubled(), EXAMPLE):
        assert exported_program._collect_all_valid_cia_ops() == {"found"}


@pytest.mark.parametrize(
    ("sizes", "expected"), [([2, 3], "direct"), ([2, -1], "general"), ([2, "s0"], "general")]
)
def test_only_fixed_sizes_are_lowered_directly(sizes: list[object], expected: str) -> None:
    from bnfold.export.swift import _lowered

    found = _lowered(lambda *_: "direct", lambda *_: "general", None, None, sizes)
    assert found == expected
