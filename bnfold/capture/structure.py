"""How a module's own arguments and results map to flat tensors, and what each tensor is called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        given: parameters that had an argument at capture; the others were at their defaults.
        scalars: leaves of the arguments that are no tensors, by position: the graph holds for these values.
        shared_outputs: see :func:`bnfold.capture.outputs.shared_outputs`.
    """

    signature: inspect.Signature
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    constants: dict[int, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constant_names: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    scalars: Mapping[int, Any] = field(default_factory=dict)
    shared_outputs: frozenset[tuple[int, str]] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        # a TreeSpec cannot be pickled without a warning from torch
        return {**self.__dict__, "in_spec": _encode(self.in_spec), "out_spec": _encode(self.out_spec)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        decoded = {key: _decode(state[key]) for key in ("in_spec", "out_spec")}
        self.__dict__.update({**state, **decoded})

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors among the arguments, checked against what was captured.

        An argument left out counts as its default, on either side.

        Raises:
            UsageError: another structure, or another value that is no tensor (BNF-U020); another shape
                (BNF-U021); no tensor in the place of one (BNF-U027).
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError("BNF-U020", f"forward{self.signature}: {error}", where="inputs") from error
        self._complete(bound.arguments)
        paths, spec = pytree.tree_flatten_with_path((bound.args, bound.kwargs))
        if spec != self.in_spec:
            names = ", ".join(spec.name for spec in self.inputs)
            raise UsageError(
                "BNF-U020",
                "the arguments have another structure than at capture",
                where=f"inputs captured: {names}",
                fix="pass the same arguments, in the same nesting, or convert again with these",
            )
        for position, (path, leaf) in enumerate(paths):
            is_scalar = position in self.scalars
            if is_scalar and not _is_same(leaf, self.scalars[position]):
                raise _other_value(input_name(path, self.signature), leaf, self.scalars[position])
            if not is_scalar and not isinstance(leaf, torch.Tensor):
                raise _no_tensor(input_name(path, self.signature), leaf)
        tensors = [leaf for _, leaf in paths if isinstance(leaf, torch.Tensor)]
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

    def _complete(self, arguments: dict[str, Any]) -> None:
        """Make the arguments name the same parameters as at capture, where defaults allow it."""
        for name, parameter in self.signature.parameters.items():
            default = parameter.default
            if name in self.given and name not in arguments and default is not parameter.empty:
                arguments[name] = default
            elif name not in self.given and name in arguments and default is not parameter.empty:
                if not _is_same(arguments[name], default):
                    raise _other_value(name, arguments[name], default)
                del arguments[name]

    def unflatten(self, tensors: list[torch.Tensor] | tuple[torch.Tensor, ...]) -> Any:
        """The module's own result from the flat outputs."""
        rest = iter(tensors)
        count = len(self.constants) + len(tensors)
        leaves = [self.constants[i] if i in self.constants else next(rest) for i in range(count)]
        return pytree.tree_unflatten(leaves, self.out_spec)


def _is_same(a: Any, b: Any) -> bool:
    """Whether two arguments that are no tensors are the same to forward: 2 and 2.0 make other dtypes."""
    if isinstance(a, torch.Tensor) or type(a) is not type(b):
        return False
    try:
        return a is b or bool(a == b) or (a != a and b != b)
    except Exception:  # arrays and their like have no one answer
        return False


def _no_tensor(name: str, value: Any) -> UsageError:
    kind = "None" if value is None else f"a {type(value).__module__}.{type(value).__name__}"
    return UsageError(
        "BNF-U027",
        f"input {name!r} is {kind.replace('builtins.', '')}, and no tensor",
        where=f"input {name!r}",
        fix="give a tensor: torch.from_numpy(array), torch.tensor(values)",
    )


def _other_value(name: str, value: Any, captured: Any) -> UsageError:
    def said(argument: Any) -> str:
        return "a tensor" if isinstance(argument, torch.Tensor) else repr(argument)[:80]

    return UsageError(
        "BNF-U020",
        f"argument {name!r} is {said(value)}; the graph was captured with {said(captured)}",
        where=f"argument {name!r}",
        fix="what is no tensor is fixed at capture: pass the same value, or convert again with this one",
    )


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
    if path[0].idx == 1:
        return ".".join(_key(part) for part in path[1:])
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
