"""How a module's own arguments and results map to flat tensors, and what each tensor is called."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bnfold.errors import UsageError
from bnfold.signature import TensorSpec


@dataclass(frozen=True)
class Structure:
    """How a module's own arguments and results map to flat tensors.

    Attributes:
        signature: of the module's forward.
        in_spec: pytree of ``(args, kwargs)`` as they were at capture.
        out_spec: pytree of the result.
        constants: leaves of the result that are no tensors (None, numbers), by position.
        inputs, outputs: the tensors.
    """

    signature: inspect.Signature
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    constants: dict[int, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constant_names: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # a TreeSpec cannot be pickled without a warning from torch
        return {**self.__dict__, "in_spec": _encode(self.in_spec), "out_spec": _encode(self.out_spec)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        decoded = {key: _decode(state[key]) for key in ("in_spec", "out_spec")}
        self.__dict__.update({**state, **decoded})

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors among the arguments, checked against what was captured.

        Raises:
            UsageError: another structure (BNF-U020) or shape (BNF-U021).
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError("BNF-U020", f"forward{self.signature}: {error}", where="inputs") from error
        leaves, spec = pytree.tree_flatten((bound.args, bound.kwargs))
        if spec != self.in_spec:
            names = ", ".join(spec.name for spec in self.inputs)
            raise UsageError(
                "BNF-U020",
                "the arguments have another structure than at capture",
                where=f"inputs captured: {names}",
                fix="pass the same arguments, in the same nesting, or convert again with these",
            )
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        for spec_, tensor in zip(self.inputs, tensors, strict=True):
            if not spec_.accepts(tuple(tensor.shape)):
                raise UsageError(
                    "BNF-U021",
                    f"input {spec_.name!r} has shape {tuple(tensor.shape)}; the graph was captured for "
                    f"{spec_.describe()}",
                    where=f"input {spec_.name!r}",
                    fix="convert again with example inputs of this shape, or with a dynamic batch",
                )
        return tensors

    def unflatten(self, tensors: list[torch.Tensor] | tuple[torch.Tensor, ...]) -> Any:
        """The module's own result from the flat outputs."""
        rest = iter(tensors)
        count = len(self.constants) + len(tensors)
        leaves = [self.constants[i] if i in self.constants else next(rest) for i in range(count)]
        return pytree.tree_unflatten(leaves, self.out_spec)


def _encode(spec: pytree.TreeSpec) -> Any:
    if spec.is_leaf():
        return None
    return spec.type, spec.context, [_encode(child) for child in spec.children()]


def _decode(encoded: Any) -> pytree.TreeSpec:
    if encoded is None:
        return pytree.treespec_leaf()
    kind, context, children = encoded
    return pytree.TreeSpec(kind, context, [_decode(child) for child in children])


def input_name(path: tuple[Any, ...], signature: inspect.Signature) -> str:
    """The name of forward's parameter, with the key path behind it: ``x``, ``batch.image``, ``xs.0``."""
    position = path[1].idx
    parameters = list(signature.parameters.values())
    variadic = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_POSITIONAL), None)
    if variadic is not None and position >= variadic:
        head = [parameters[variadic].name, str(position - variadic)]
    else:
        head = [parameters[position].name]
    return ".".join(head + [_key(part) for part in path[2:]])


def _key(part: Any) -> str:
    if isinstance(part, pytree.SequenceKey):
        return str(part.idx)
    if isinstance(part, pytree.MappingKey):
        return str(part.key)
    return str(getattr(part, "name", part))


def output_names(spec: pytree.TreeSpec) -> list[str]:
    template = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = pytree.tree_flatten_with_path(template)[0]
    names = [".".join(_key(part) for part in path) for path, _ in paths]
    return [name or "output" for name in names] if len(names) == 1 else names
