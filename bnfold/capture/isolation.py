"""Running forward without touching what is the caller's: the module's state and modes, and the inputs."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfold.capture.failures import definition, first_line, user_line_of
from bnfold.errors import CaptureError

_MISSING = object()
_SEED = 0
_BOOKKEEPING = frozenset(nn.Module().__dict__)


def in_eval_mode(module: nn.Module) -> nn.Module:
    """A private copy of ``module`` in eval mode, or as it is where it is in eval mode already.

    Parameters share their memory with the caller's, because they are large. The exception is a module that
    overrides train() or eval(): what it does there, such as merging weights, must happen to a copy.

    Raises:
        CaptureError: the module cannot be copied (BNF-C012).
    """
    overridden = any(
        type(child).train is not nn.Module.train or type(child).eval is not nn.Module.eval
        for child in module.modules()
    )
    private = private_copy(module, share_parameters=not overridden)
    if any(child.training for child in private.modules()):
        private.eval()
    return private


def private_copy(module: nn.Module, *, share_parameters: bool = True) -> nn.Module:
    """A copy whose buffers and attributes are its own; parameters are new objects over the same memory.

    An attribute that copy.deepcopy refuses is shared.

    Raises:
        CaptureError: the module cannot be copied (BNF-C012).
    """
    memo: dict[int, Any] = {}
    for child in module.modules():
        for value in [*child._parameters.values(), *child.__dict__.values()]:
            if type(value) is nn.Parameter and share_parameters:
                memo[id(value)] = nn.Parameter(value.detach(), value.requires_grad)
            elif type(value) is torch.Tensor and value.grad_fn is not None:
                # what an earlier forward left behind (weight_norm): deepcopy refuses it for its history
                memo[id(value)] = value.detach().clone()
            elif type(value) in (OrderedDict, set) and not value:
                # a dozen tables of hooks in every module: deepcopy would spend most of its time on them
                memo[id(value)] = type(value)()
    try:
        try:
            return copy.deepcopy(module, dict(memo))
        except Exception:
            # an attribute that cannot be copied (a lock, a trainer, an operator of torch) is shared
            return copy.deepcopy(module, memo | _uncopyable(module, memo))
    except Exception as error:
        raise CaptureError(
            "BNF-C012",
            f"the module cannot be copied: {type(error).__name__}: {first_line(str(error))}",
            where=type(module).__name__,
            fix="bnfold works on a copy, so that your module stays as it is: take out of it what "
            "copy.deepcopy refuses (locks, open files, trainers)",
        ) from error


def _uncopyable(module: nn.Module, memo: dict[int, Any]) -> dict[int, Any]:
    """The modules' own attributes that copy.deepcopy refuses, by identity, as deepcopy's memo wants them."""
    shared: dict[int, Any] = {}
    for child in module.modules():
        for name in child.__dict__.keys() - _BOOKKEEPING:
            value = child.__dict__[name]
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                shared[id(value)] = value
    return shared


def fresh(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with every tensor in memory of its own.

    forward may write to an input, and torch.export takes one tensor given twice for one input.
    """
    return pytree.tree_map(  # type: ignore[no-any-return]
        lambda leaf: leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf, args
    )


def run(module: nn.Module, args: tuple[Any, ...]) -> Any:
    """forward's result on ``args``; a random operator gives the same numbers each time.

    Raises:
        CaptureError: forward fails by itself (BNF-C004).
    """
    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng():
            warnings.simplefilter("ignore")  # what a model warns of is its owner's business, not a failure
            torch.manual_seed(_SEED)
            return module(*fresh(args))
    except Exception as error:
        where = user_line_of(error)
        raise CaptureError(
            "BNF-C004",
            f"forward failed on the example inputs: {type(error).__name__}: {first_line(str(error))}",
            where=where or type(module).__name__,
            fix="check the input shapes; the model itself does not run on them",
        ) from error


def run_stateless(module: nn.Module, args: tuple[Any, ...]) -> Any:
    """forward's result on ``args``; an error if an answer depends on the calls before it.

    A forward that leaves nothing changed runs once. Else the answer must be the same after a call with other
    inputs, for a module that has answered ``args`` before and for one that has not. So a counter, or a table
    cached for a shape, passes.

    Args:
        module: not changed: its copies run.
        args: the module's own arguments.

    Raises:
        CaptureError: forward fails (BNF-C004), or reads what an earlier call left behind (BNF-C005).
    """
    worker = private_copy(module)
    before = _state(worker)
    first = run(worker, args)
    changed = _changes(before, _state(worker))
    if not changed:
        return first
    first = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, first)
    if not all(_same(first, _second_answer(one, args)) for one in (worker, private_copy(module))):
        raise CaptureError(
            "BNF-C005",
            f"forward's answer depends on the calls before: it keeps {' and '.join(map(repr, changed[:3]))}",
            where=_assignment(module, changed[0]),
            fix="a converted network keeps no state: return the value, or take it as an input",
        )
    return first


def _second_answer(module: nn.Module, args: tuple[Any, ...]) -> Any:
    try:
        run(module, pytree.tree_map(_other, args))
    except CaptureError:
        run(module, args)  # the other values are outside what forward takes
    return run(module, args)


def _other(leaf: Any) -> Any:
    """Another input of the same kind; whole numbers are only put in another order: they may be indices."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return 0.25 - leaf / 2 if leaf.is_floating_point() else leaf.flip(tuple(range(leaf.ndim)))


def _same(a: Any, b: Any) -> bool:
    leaves, others = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return len(leaves) == len(others) and all(_equal(x, y) for x, y in zip(leaves, others, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.is_floating_point():
            return torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)
        return torch.equal(a, b)
    try:
        return a is b or bool(a == b)
    except Exception:  # no comparison that gives one answer
        return False


def _state(module: nn.Module) -> dict[str, Any]:
    """What forward could leave behind, by path: buffers, parameters' memory, attributes and their nests."""
    found: dict[str, Any] = {}
    for path, child in module.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in child._parameters.items():
            if parameter is not None:
                found[prefix + name] = parameter.data_ptr()
        attributes = {name: value for name, value in child.__dict__.items() if name not in _BOOKKEEPING}
        for name, value in {**child._buffers, **attributes}.items():
            for key, leaf in pytree.tree_flatten_with_path(value)[0]:
                is_plain = isinstance(leaf, torch.Tensor) and not isinstance(leaf, nn.Parameter)
                found[prefix + name + pytree.keystr(key)] = leaf.detach().clone() if is_plain else leaf
    return found


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    names = [*before, *(name for name in after if name not in before)]
    return [n for n in names if not _equal(before.get(n, _MISSING), after.get(n, _MISSING))]


def _assignment(module: nn.Module, path: str) -> str:
    """The line of the class's source that assigns the attribute, or where its forward begins."""
    owner, _, name = path.split("[")[0].rpartition(".")
    child = module.get_submodule(owner)
    forward = type(child).forward
    try:
        lines, start = inspect.getsourcelines(forward)
    except (OSError, TypeError):
        return path
    for number, line in enumerate(lines):
        if re.search(rf"\.{re.escape(name)}\b.*(=|\()", line):
            code = inspect.unwrap(forward).__code__
            return f"{code.co_filename}:{start + number}  `{line.strip()}`  in forward"
    return definition(child.forward)
