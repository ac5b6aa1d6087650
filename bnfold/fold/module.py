"""The folded network as a plain module."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from bnfold.capture import Structure
from bnfold.capture.outputs import separate_outputs
from bnfold.errors import UsageError
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
            UsageError: another structure, or another value that is no tensor (BNF-U020); no tensor in the
                place of one (BNF-U027); another shape (BNF-U021) or dtype (BNF-U028) than captured; inputs
                of different batches (BNF-U029).
        """

        def forward(*args: Any, **kwargs: Any) -> Any:
            tensors = self.structure.flatten(args, kwargs)
            _check_batches(self.inputs, tensors)
            try:
                results = self.body(*tensors)
            except RuntimeError as error:
                refused = _other_dtype(self.inputs, tensors, error)
                if refused is None:
                    raise
                raise refused from error
            return self.structure.unflatten(results)

        forward.__signature__ = self.structure.signature  # type: ignore[attr-defined]
        return forward

    def train(self, mode: bool = True) -> FoldedModule:
        """Stays in eval mode: there is nothing left to train with. ``train(True)`` raises.

        Raises:
            UsageError: BNF-U024.
        """
        if mode:
            raise UsageError(
                "BNF-U024",
                "a folded network has no training mode: its population statistics are in its weights",
                where="FoldedModule.train",
                fix="train the original module and fold it again",
            )
        super().train(False)
        return self


def _check_batches(inputs: tuple[TensorSpec, ...], tensors: list[torch.Tensor]) -> None:
    """Refuse symbolic batches that differ.

    Raises:
        UsageError: BNF-U029.
    """
    symbolic = [(s.name, t.shape[0]) for s, t in zip(inputs, tensors, strict=True) if None in s.shape[:1]]
    if any(size != symbolic[0][1] for _, size in symbolic[1:]):
        raise UsageError(
            "BNF-U029",
            "the inputs have different batches: "
            + ", ".join(f"{name!r} has {size}" for name, size in symbolic),
            where="inputs",
            fix="give every input the same number of frames",
        )


def _other_dtype(
    inputs: tuple[TensorSpec, ...], tensors: list[torch.Tensor], error: RuntimeError
) -> UsageError | None:
    """The error where a dtype is to blame: not before it is, since ``.to(dtype)`` changes what is taken."""
    for spec, tensor in zip(inputs, tensors, strict=True):
        given = str(tensor.dtype).removeprefix("torch.")
        if given != spec.dtype:
            return UsageError(
                "BNF-U028",
                f"input {spec.name!r} is {given}; the graph was captured for {spec.describe()}: "
                + str(error).strip().partition("\n")[0],
                where=f"input {spec.name!r}",
                fix=f"convert it: x.to(torch.{spec.dtype}); or the folded module: module.to(torch.{given})",
            )
    return None
