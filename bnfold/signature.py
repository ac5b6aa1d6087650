"""What goes into a network and what comes out, by name. Torch-free: artifacts use it too."""

from __future__ import annotations

from typing import NamedTuple


class TensorSpec(NamedTuple):
    """One input or output tensor.

    Attributes:
        name: inputs: the name of forward's parameter (with a key path for nested ones: ``batch.image``);
            outputs: the key path (``y``, ``aux.0``), or ``output`` when there is one tensor.
        shape: None stands for the symbolic batch axis.
        dtype: numpy's name: ``float32``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )

    def describe(self) -> str:
        """``x: float32 (batch, 3, 224, 224)``."""
        axes = ", ".join("batch" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype} ({axes})"
