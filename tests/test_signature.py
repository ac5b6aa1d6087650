from __future__ import annotations

from bnfold.signature import TensorSpec


def test_only_the_batch_axis_is_free() -> None:
    spec = TensorSpec("x", (None, 3, 8), "float32")
    assert spec.accepts((1, 3, 8))
    assert spec.accepts((7, 3, 8))
    assert not spec.accepts((1, 8, 3))
    assert not spec.accepts((3, 8))
    assert spec.describe() == "x: float32 (batch, 3, 8)"
