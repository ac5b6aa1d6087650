"""``bnfold diagnose``: why a network that trained well is wrong in eval mode, told from frames."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import UsageError
from bnfold.report.diagnosis import render_diagnosis

from . import network, pages, preparation, values
from .command import CommandParser, Context, Outcome
from .kinds import is_artifact

if TYPE_CHECKING:
    from bnfold.checkpoint import Loaded
    from bnfold.finding import Finding
    from bnfold.signature import TensorSpec
    from bnfold.statistics.subject import Subject


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("checkpoint", metavar="CKPT", help=".safetensors, or what torch.save wrote")
    parser.option(
        "--samples",
        required=True,
        metavar="DIR|FILE",
        help="frames like those of the training, best some that it has not seen",
    )
    parser.option("--deployment", metavar="DIR|FILE", help="frames from where the network is used")
    network.add_options(parser, required=True)
    known = parser.add_argument_group("what else is known")
    parser.option(
        "--against",
        group=known,
        metavar="FILE",
        help="another checkpoint of the network: the one that training began from, another rank's",
    )
    parser.option(
        "--steps",
        group=known,
        type=values.whole(1, 10**12),
        metavar="N",
        help="forward passes of the training",
    )
    parser.option(
        "--train-batch",
        group=known,
        type=values.whole(1, 10**6),
        default=32,
        metavar="N",
        help="frames in a batch of the training; default 32",
    )
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
        "--batch",
        type=values.whole(1, 10**6),
        default=32,
        metavar="N",
        help="frames that run together; default 32",
    )
    parser.option(
        "--channels", action="store_true", default=False, help="with --format json: every number by channel"
    )
    pages.add_options(parser, "html")


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Load, run the frames, report."""
    _check_options(options)
    context.start_torch()
    context.progress(f"reading {Path(options.checkpoint).name}")
    loaded = network.load(options.checkpoint, options)

    from bnfold.normalisation import assumed, by_input
    from bnfold.statistics.batches import SampleBatches
    from bnfold.statistics.diagnose import examine
    from bnfold.statistics.diagnose.histograms import MOST

    inputs, notes = _inputs(loaded, options)
    said = preparation.normalisation(options, options.input)
    prepared = by_input(said, inputs)

    def frames(path: str) -> SampleBatches:
        return SampleBatches(path, inputs, prepared, size=options.batch)

    drawn = options.format == "html"
    result = examine(
        loaded.module,
        frames(options.samples),
        deployment=None if options.deployment is None else frames(options.deployment),
        subject=_subject(loaded, options, context),
        train_batch=options.train_batch,
        progress=context.progress,
        worst_channels=MOST if drawn else 0,
    )
    if _has_images(options.samples):
        notes += assumed(said, prepared)
    document = {
        **result.to_json(channels=options.channels or drawn),
        "source": {
            "path": options.checkpoint,
            "sha256": loaded.checkpoint.sha256,
            "format": loaded.checkpoint.format,
        },
    }
    document["findings"] += [note.to_json() for note in [*notes, *loaded.notes]]

    def page() -> str:
        from bnfold.report.html.diagnosis import diagnosis_page

        context.progress("drawing")
        return diagnosis_page(document)

    return Outcome(
        result.passed,
        document,
        lambda style: render_diagnosis(document, style, everything=context.verbose),
        files={"html": page},
    )


def _check_options(options: argparse.Namespace) -> None:
    """Refuse an artifact: it has no BatchNorm left.

    Raises:
        UsageError: BNF-U030; as `pages.check`.
    """
    pages.check(options)
    for path in (options.checkpoint, options.against):
        if path is not None and is_artifact(path):
            raise UsageError(
                "BNF-U030",
                "an artifact has no population statistics left to diagnose: they are in its weights",
                where=path,
                fix="give the checkpoint that it was made from; bnfold verify compares artifacts on frames",
            )


def _subject(loaded: Loaded, options: argparse.Namespace, context: Context) -> Subject:
    """What the file says of the network, and of the other checkpoint."""
    from bnfold.checkpoint import read
    from bnfold.statistics.contents import Known, subjects_of

    other = None
    if options.against is not None:
        context.progress(f"reading {Path(options.against).name}")
        other = read(options.against, trust_pickle=options.trust_pickle)
    subjects = subjects_of(
        loaded.checkpoint,
        Known(options.steps),
        state=options.state,
        module=loaded.module,
        against=other,
        strip_prefix=options.strip_prefix,
    )
    return subjects[0]


def _inputs(loaded: Loaded, options: argparse.Namespace) -> tuple[tuple[TensorSpec, ...], list[Finding]]:
    """What the network takes, and what is to be said of it: as ``--input`` says, or as the first frame is."""
    from bnfold.verify.guess import guess
    from bnfold.verify.sides import specs_of

    if options.input:
        return specs_of(network.example_inputs(loaded.module, options.input), loaded.module), []
    guessed = guess(loaded.module, options.samples, options.color)
    return guessed.inputs, guessed.findings()


def _has_images(path: str) -> bool:
    """Whether the first frame is one that has to be prepared."""
    from bnfold.runtime import frames

    frame: Any = next(iter(frames.read(path)))[1]
    arrays = frame.values() if isinstance(frame, dict) else [frame]
    return any(array.dtype == "uint8" for array in arrays)
