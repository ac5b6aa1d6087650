"""The folded network as a plain module."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfold.capture import Structure
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
            UsageError: another structure (BNF-U020), something else than a tensor (BNF-U027), another shape
                (BNF-U021) or dtype (BNF-U028) than captured, or inputs of different batches (BNF-U029).
        """

        def forward(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = _as_captured(self.structure, args, kwargs)
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


def _as_captured(
    structure: Structure, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments without those behind the captured ones that only spell out a default.

    Raises:
        UsageError: BNF-U027.
    """
    try:
        bound = structure.signature.bind(*args, **kwargs)
    except TypeError:
        return args, kwargs  # the structure says what is wrong
    captured = structure.in_spec.children()[0].num_children
    for name, parameter in list(structure.signature.parameters.items())[captured:]:
        if name in bound.arguments and _same(bound.arguments[name], parameter.default):
            del bound.arguments[name]
    args, kwargs = bound.args, bound.kwargs
    leaves, spec = pytree.tree_flatten((args, kwargs))
    if spec == structure.in_spec and len(leaves) == len(structure.inputs):
        for leaf, wanted in zip(leaves, structure.inputs, strict=True):
            if not isinstance(leaf, torch.Tensor):
                kind = "None" if leaf is None else f"a {type(leaf).__module__}.{type(leaf).__name__}"
                raise UsageError(
                    "BNF-U027",
                    f"input {wanted.name!r} is {kind.replace('builtins.', '')}, and no tensor",
                    where=f"the graph was captured for {wanted.describe()}",
                    fix="give a tensor: torch.from_numpy(array), torch.tensor(values)",
                )
    return args, kwargs


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and _plain(value) and bool(value == default))


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | complex | str | bytes)


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
