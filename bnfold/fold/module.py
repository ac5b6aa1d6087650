"""The folded network as a plain module."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from bnfold.capture import Structure
from bnfold.capture.outputs import separate_outputs
from bnfold.signature import TensorSpec


class FoldedModule(nn.Module):
    """A folded network: the original's signature and output structure, always in eval mode.

    Attributes:
        body: the graph: flat tensors in, flat tuple of tensors out.
        structure: how arguments and results map to the flat ones.
    """

    body: fx.GraphModule

    def __init__(self, body: fx.GraphModule, structure: Structure) -> None:
        super().__init__()
        # what is folded away may have been what kept an answer apart from an input or a weight
        separate_outputs(body.graph, structure.shared_outputs)
        body.recompile()
        self.body = body
        self.structure = structure
        self.eval()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The input tensors."""
        return self.structure.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The output tensors."""
        return self.structure.outputs

    @property
    def forward(self) -> Any:  # type: ignore[override]
        """Callable with the original's signature, so that exporters see the original's names.

        Raises:
            UsageError: another structure or another value that is no tensor (BNF-U020), or another shape
                (BNF-U021), than captured.
        """

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.structure.unflatten(self.body(*self.structure.flatten(args, kwargs)))

        forward.__signature__ = self.structure.signature  # type: ignore[attr-defined]
        return forward

    def train(self, mode: bool = True) -> FoldedModule:
        """Stays in eval mode: there is nothing left to train with. ``train(True)`` raises.

        Raises:
            UsageError: BNF-U024.
        """
        from bnfold.errors import UsageError

        if mode:
            raise UsageError(
                "BNF-U024",
                "a folded network has no training mode: its population statistics are in its weights",
                where="FoldedModule.train",
                fix="train the original module and fold it again",
            )
        super().train(False)
        return self
