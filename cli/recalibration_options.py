"""The options of ``bnfold recalibrate``, and what does not go together."""

from __future__ import annotations

import argparse
from pathlib import Path

from bnfold.errors import UsageError

from . import network, preparation, recalibrated, values
from .command import CommandParser
from .kinds import is_artifact


def add_options(parser: CommandParser) -> None:
    """All of them."""
    parser.add_argument("checkpoint", metavar="CKPT", help=".safetensors, or what torch.save wrote")
    parser.option("--samples", metavar="DIR|FILE", help="frames like those of the training, prepared alike")
    parser.option("-o", "--output", metavar="NEW", help="the new checkpoint, in the format of the old one")
    how = parser.add_argument_group("how")
    parser.option(
        "--batch",
        group=how,
        type=values.whole(1, 10**6),
        default=32,
        metavar="N",
        help="frames that are normalised together; default 32",
    )
    parser.option(
        "--sequential",
        group=how,
        action="store_true",
        default=False,
        help="layer by layer, in eval mode: exact, and about half as many passes as layers",
    )
    parser.option(
        "--prior",
        group=how,
        type=values.number,
        metavar="N",
        help="blend with the old statistics, which count for N frames",
    )
    parser.option(
        "--debias",
        group=how,
        action="store_true",
        default=False,
        help="without data: take the initial value out of an average that has not converged",
    )
    parser.option(
        "--held-out",
        group=how,
        type=values.number,
        metavar="SHARE",
        help="of the batches, to compare before and after on; default 0.1, 0 for none",
    )
    parser.option(
        "--device", group=how, choices=("cpu", "cuda"), default="cpu", help="where it runs; default cpu"
    )
    apart = parser.add_argument_group("in several places")
    parser.option(
        "--collect", group=apart, metavar="PART.json", help="write the statistics of these samples as a part"
    )
    parser.option(
        "--merge",
        group=apart,
        default=[],
        nargs="+",
        metavar="PART.json",
        help="put parts together instead of --samples, which are then for the comparison",
    )
    parser.option(
        "--undo", action="store_true", default=False, help="write the checkpoint with its old statistics"
    )
    network.add_options(parser, required=False)
    preparation.add_options(parser, labels=False)
    parser.option(
        "--input",
        default=[],
        action="append",
        type=values.input_spec,
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="what the network takes; default: the shape of the first frame",
    )
    parser.option(
        "--channels", action="store_true", default=False, help="with --format json: every number by channel"
    )


# What can be given together: for each way of working, what it needs and what it refuses.
_REFUSED = {
    "undo": ("samples", "merge", "debias", "collect", "sequential", "prior", "held_out"),
    "debias": ("merge", "collect", "sequential", "prior", "held_out"),
    "merge": ("collect", "sequential", "held_out"),
    "collect": ("output", "sequential", "prior", "held_out"),
}


def check(options: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is read.

    Raises:
        UsageError: BNF-U018 no --model; BNF-U030 an artifact; BNF-U124 options that do not go together, or
            nothing to do; BNF-U125 the output is the input.
    """
    if is_artifact(options.checkpoint):
        raise UsageError(
            "BNF-U030",
            "an artifact has no population statistics left to recalibrate: they are in its weights",
            where=options.checkpoint,
            fix="give the checkpoint that it was made from",
        )
    way = next((way for way in _REFUSED if getattr(options, way)), "samples")
    for other in _REFUSED.get(way, ()):
        if getattr(options, other) not in (None, False, []):
            raise UsageError(
                "BNF-U124",
                f"--{other.replace('_', '-')} does not go with --{way}",
                where="bnfold recalibrate",
                fix=f"leave one of them out; bnfold recalibrate --help says what --{way} does",
            )
    if way in ("samples", "collect") and options.samples is None:
        raise UsageError(
            "BNF-U124",
            "there is nothing to take statistics from",
            where="bnfold recalibrate",
            fix="--samples DIR, --merge PART.json, or --debias",
        )
    if options.samples is not None and not Path(options.samples).exists():
        raise UsageError(
            "BNF-U015", "no such file or folder", where=f"--samples {options.samples}", fix="check the path"
        )
    if options.held_out is not None and not 0 <= options.held_out <= 0.5:
        raise UsageError(
            "BNF-U124",
            f"a share of {options.held_out:g} cannot be held out",
            where="--held-out",
            fix="a number from 0 to 0.5, as in 0.1",
        )
    if way != "undo" and options.model is None:
        raise UsageError(
            "BNF-U018",
            "a checkpoint is only weights: it needs its network",
            where=options.checkpoint,
            fix="--model FILE.py:NAME",
        )
    if way != "collect":
        recalibrated.check_output(options.checkpoint, options.output)


def check_alone(options: argparse.Namespace, processes: int) -> None:
    """Refuse several processes where there is nothing to share.

    Raises:
        UsageError: BNF-U124.
    """
    if processes > 1 and (options.debias or options.merge):
        raise UsageError(
            "BNF-U124",
            f"{'--debias' if options.debias else '--merge'} is work for one process, not for {processes}",
            where="bnfold recalibrate",
            fix="start it without torchrun",
        )
