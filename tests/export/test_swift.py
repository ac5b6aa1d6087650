"""bnfold.export.swift: the same file in less time, and litert-torch as it was afterwards."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import library, nn

import bnfold
from bnfold.export import tflite
from bnfold.export.quiet import quiet
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


def test_the_file_is_the_same_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    @contextlib.contextmanager
    def counted():  # type: ignore[no-untyped-def]
        with swift():
            entered.append(True)
            yield

    assert written(monkeypatch, counted) == written(monkeypatch, contextlib.nullcontext)
    assert entered == [True]


def internals() -> tuple[object, ...]:
    with quiet():
        from litert_torch.backend.lowerings import registry
    from torch.export import decomp_utils, exported_program

    return (
        dict(registry.global_registry.registered_ops),
        decomp_utils._collect_all_valid_cia_ops,
        exported_program._collect_all_valid_cia_ops,
    )


def test_all_is_put_back() -> None:
    before = internals()
    with swift():
        assert internals() != before
    assert internals() == before
    with pytest.raises(KeyboardInterrupt), swift():
        raise KeyboardInterrupt
    assert internals() == before


def test_composite_operators_are_collected_once_and_anew_after_a_registration() -> None:
    from torch.export import exported_program

    with swift():
        first = exported_program._collect_all_valid_cia_ops()
        assert exported_program._collect_all_valid_cia_ops() is first
        ours = library.Library("bnfold_test_swift", "DEF")
        ours.define("twice(Tensor x) -> Tensor")
        ours.impl("twice", lambda x: 2 * x, "CompositeImplicitAutograd")
        twice = torch.ops.bnfold_test_swift.twice.default
        assert twice not in first
        assert twice in exported_program._collect_all_valid_cia_ops()
    assert twice in exported_program._collect_all_valid_cia_ops()


def test_without_the_internals_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from litert_torch.backend.lowerings import _basic
    from torch.export import decomp_utils, exported_program

    for owner, name in (
        (_basic, "_aten_permute"),
        (_basic, "_aten_clone"),
        (_basic, "_aten_view"),
        (decomp_utils, "_collect_all_valid_cia_ops"),
        (exported_program, "_collect_all_valid_cia_ops"),
    ):
        monkeypatch.delattr(owner, name)
    with swift():
        assert not hasattr(exported_program, "_collect_all_valid_cia_ops")


@pytest.mark.parametrize(
    ("sizes", "expected"), [([2, 3], "direct"), ([2, -1], "general"), ([2, "s0"], "general")]
)
def test_only_fixed_sizes_are_lowered_directly(sizes: list[object], expected: str) -> None:
    from bnfold.export.swift import _lowered

    found = _lowered(lambda *_: "direct", lambda *_: "general", None, None, sizes)
    assert found == expected
