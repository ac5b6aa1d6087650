"""The options that name a network, and how they become a module. Used by every command that needs torch."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from bnfold.errors import UsageError

from . import values
from .command import CommandParser, did_you_mean
from .values import InputSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bnfold.checkpoint import Loaded


def add_options(parser: CommandParser, *, required: bool) -> None:
    """``--model`` and everything else about a checkpoint."""
    group = parser.add_argument_group("network", "--model imports and runs the code of the file it names.")
    parser.option(
        "--model",
        group=group,
        required=required,
        metavar="FILE.py:NAME",
        help="a class or a function that returns an nn.Module; also pkg.mod:NAME",
    )
    parser.option("--model-args", group=group, metavar="JSON", help="its arguments: an object or a list")
    parser.option(
        "--state", group=group, metavar="NAME", help="the state dict to use, where a file has several"
    )
    parser.option(
        "--strip-prefix", group=group, metavar="TEXT", help="use the keys that begin so, without it"
    )
    parser.option(
        "--trust-pickle",
        group=group,
        action="store_true",
        default=False,
        help="let a pickle run the code it names; only for files whose author you trust",
    )
    parser.option(
        "--sha256", group=group, metavar="HEX", type=values.sha256, help="the digest the checkpoint must have"
    )


def load(path: str, options: argparse.Namespace) -> Loaded:
    """The module with the checkpoint's weights, and what had to be decided on the way.

    Raises:
        CheckpointError, UsageError: as `bnfold.checkpoint.load`.
    """
    from bnfold.checkpoint import load_with_notes
    from bnfold.modelspec import home, importable

    # A trusted pickle may name the classes of the model's own file
    with importable(home(options.model)) if options.trust_pickle else nullcontext():
        return load_with_notes(
            path,
            options.model,
            model_args=options.model_args,
            strip_prefix=options.strip_prefix,
            trust_pickle=options.trust_pickle,
            state=options.state,
            sha256=options.sha256,
        )


def example_inputs(module: nn.Module, specs: Sequence[InputSpec]) -> tuple[Any, ...]:
    """Arguments for ``module.forward``: seeded normal floats; 0 and 1 by turns for integers.

    An input without a name is the next parameter that has none yet; parameters with a default that are not
    named keep it.

    Raises:
        UsageError: BNF-U011 when the names and forward's parameters do not fit.
    """
    parameters = [
        parameter
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    names = [parameter.name for parameter in parameters]
    if not names:  # forward(*args): there is nothing to name
        return tuple(_example(spec, seed) for seed, spec in enumerate(specs))
    chosen = _by_name(specs, names)
    given: list[Any] = []
    # Everything up to the last named parameter is passed by position; the rest keeps its default.
    last = max(names.index(name) for name in chosen)
    for seed, parameter in enumerate(parameters[: last + 1]):
        if parameter.name in chosen:
            given.append(_example(chosen[parameter.name], seed))
        else:
            given.append(parameter.default)
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.name not in chosen
    ]
    if missing:
        raise UsageError(
            "BNF-U011",
            f"forward({', '.join(names)}) also needs {', '.join(missing)}",
            where=f"--input was given for {', '.join(chosen)}",
            fix=" ".join(f"--input {name}=SHAPE:DTYPE" for name in missing),
        )
    return tuple(given)


def _by_name(specs: Sequence[InputSpec], names: Sequence[str]) -> dict[str, InputSpec]:
    chosen: dict[str, InputSpec] = {}
    taken = {spec.name for spec in specs}
    free = (name for name in names if name not in taken)
    for spec in specs:
        name = spec.name or next(free, None)
        if name is None:
            raise UsageError(
                "BNF-U011",
                f"{len(specs)} inputs given; forward takes {len(names)}: {', '.join(names)}",
                where="--input",
                fix=f"give {len(names)} or fewer",
            )
        if name not in names:
            raise UsageError(
                "BNF-U011",
                f"forward has no parameter {name!r}; it takes {', '.join(names)}",
                where="--input",
                fix=did_you_mean(name, names) or f"--input {names[0]}=SHAPE:DTYPE",
            )
        if name in chosen:
            raise UsageError("BNF-U011", f"{name!r} is given twice", where="--input", fix="give it once")
        chosen[name] = spec
    return chosen


def _example(spec: InputSpec, seed: int) -> torch.Tensor:
    import torch

    dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(spec.shape, generator=generator, dtype=torch.float64).to(dtype)
    count = torch.Size(spec.shape).numel()
    # Integers may be indices: 0 and 1 are the ones that are nearly always there.
    return (torch.arange(count) % 2).reshape(spec.shape).to(dtype)
