"""``bnfold verify``: does the candidate compute what the reference computes?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bnfold.errors import CheckpointError, UsageError
from bnfold.report.conversion import render_verification

from . import network, preparation, values
from .command import CommandParser, Context, Outcome
from .kinds import is_artifact


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("reference", metavar="REFERENCE", help="a checkpoint (with --model) or an artifact")
    parser.add_argument("candidate", metavar="CANDIDATE", help="a checkpoint (with --model) or an artifact")
    parser.option("--samples", required=True, metavar="DIR|FILE", help="frames to compare on")
    parser.option(
        "--metric",
        metavar="FILE.py:NAME",
        help="metric(outputs, labels) instead of top-1; imports and runs that file",
    )
    network.add_options(parser, required=False)
    preparation.add_options(parser, labels=False)
    parser.option(
        "--input",
        default=[],
        action="append",
        type=values.input_spec,
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="what two checkpoints take; default: the shape of the first frame",
    )


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Open both, compare, report."""
    _check_options(options)
    context.start_torch()
    (reference, left), (candidate, right) = _both(options, context)

    from bnfold.verify import compare, load_metric

    metric = load_metric(options.metric) if options.metric is not None else None
    comparison = compare(
        reference,
        candidate,
        options.samples,
        metric=metric,
        inputs=_inputs(reference, options),
        normalisation=preparation.normalisation(options, options.input),
        sha256=(left, right),
        progress=context.progress,
    )
    document = comparison.to_json()
    return Outcome(comparison.passed, document, lambda style: render_verification(document, style))


def _check_options(options: argparse.Namespace) -> None:
    """Refuse to be told what an artifact says itself.

    Raises:
        UsageError: BNF-U012.
    """
    artifact = next((path for path in (options.reference, options.candidate) if is_artifact(path)), None)
    given = [f"--{flag}" for flag in preparation.said(options)] + ["--input"] * bool(options.input)
    if artifact is not None and given:
        raise UsageError(
            "BNF-U012",
            "an artifact says itself what it takes and how its frames are prepared",
            where=f"{given[0]}, with {artifact}",
            fix=f"leave {', '.join(given)} out",
        )


def _inputs(module: Any, options: argparse.Namespace) -> Any:
    """What ``--input`` says, under the names of forward's parameters; None where it is not given."""
    if not options.input:
        return None
    from bnfold.verify.sides import specs_of

    return specs_of(network.example_inputs(module, options.input), module)


def _both(options: argparse.Namespace, context: Context) -> list[tuple[Any, str | None]]:
    """Reference and candidate. Of two checkpoints, one may be without the prefix that is to be stripped.

    Raises:
        CheckpointError: BNF-L016 neither has it, or the only checkpoint has not.
    """
    paths = (options.reference, options.candidate)
    spared = any(map(is_artifact, paths))
    opened = []
    for path in paths:
        try:
            opened.append(_open(path, options, context))
        except CheckpointError as error:
            if error.code != "BNF-L016" or spared:
                raise
            spared = True
            without = argparse.Namespace(**{**vars(options), "strip_prefix": None})
            opened.append(_open(path, without, context))
    return opened


def _open(path: str, options: argparse.Namespace, context: Context) -> tuple[Any, str | None]:
    """An artifact's path, or a checkpoint's module and the file's digest.

    Raises:
        UsageError: BNF-U018 for a checkpoint without ``--model``.
    """
    if is_artifact(path):
        return path, None
    if options.model is None:
        raise UsageError(
            "BNF-U018",
            "a checkpoint is only weights: it needs its network",
            where=path,
            fix="--model FILE.py:NAME",
        )
    context.progress(f"reading {Path(path).name}")
    loaded = network.load(path, options)
    return loaded.module, loaded.checkpoint.sha256
