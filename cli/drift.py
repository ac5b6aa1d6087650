"""``bnfold drift``: do frames look like what the network was trained on? Needs numpy and one interpreter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import InputError, UsageError
from bnfold.report.drift import render_drift
from bnfold.report.fleet import render_fleet
from bnfold.report.junit import drift_junit

from . import interpreter, pages, values
from .command import CommandParser, Context, Outcome

if TYPE_CHECKING:
    from bnfold.runtime import Model
    from bnfold.runtime.session import Array


_TRAIN_BATCH = 32


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument(
        "artifact",
        metavar="ARTIFACT",
        nargs="?",
        default=None,
        help="a NAME.monitor.onnx or .tflite, made by bnfold convert --monitor",
    )
    parser.option(
        "--frames", metavar="DIR|FILE", help="frames of the new place, in the order of time"
    )
    parser.option(
        "--merge",
        nargs="+",
        metavar="STATE",
        help="instead of an artifact and frames: what the monitors of many devices have seen (bnfold monitor "
        "--state), together",
    )
    parser.option(
        "--baseline",
        metavar="DIR|FILE",
        help="held-out frames like those of training, 50 to 200; default: the ones recorded at conversion",
    )
    parser.option(
        "--train-batch",
        type=values.whole(1, 10**6),
        metavar="N",
        help="the batch size of training; default 32",
    )
    parser.option(
        "--blocks",
        type=values.whole(1, 10**6),
        metavar="N",
        help="frames that belong to one scene; default: estimated from the frames",
    )
    interpreter.add_options(parser)
    pages.add_options(parser, "html", "junit")


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Run the frames through the monitored artifact, compare, report; or judge a fleet by its states."""
    pages.check(options)
    if options.merge is not None:
        return _fleet(options, context)
    for what, value in (("an artifact", options.artifact), ("--frames", options.frames)):
        if value is None:
            raise UsageError(
                "BNF-U001",
                f"{what} is required",
                where="bnfold drift",
                fix="bnfold drift ARTIFACT --frames DIR, or bnfold drift --merge STATE...",
            )
    import bnfold
    from bnfold.drift.observe import reference_of

    context.progress(f"opening {Path(options.artifact).name}")
    model = bnfold.open(options.artifact, threads=options.threads, runtime=options.runtime)
    reference_of(model)  # a clean artifact is refused before anything is read
    given: dict[str, dict[str, Array]] = {}
    names: dict[str, list[str]] = {}
    for what in ("frames", "baseline"):
        path = getattr(options, what)
        if path is not None:
            context.progress(f"reading {path}")
            given[what], names[what] = named_inputs(path, model)
    context.progress("running the frames")
    result = bnfold.drift.check(
        model,
        given["frames"],
        baseline=given.get("baseline"),
        train_batch=_TRAIN_BATCH if options.train_batch is None else options.train_batch,
        blocks=options.blocks,
        keep=options.format == "html",
    )
    document = {"artifact": options.artifact, "runtime": model.runtime, **result.to_json()}

    def page() -> str:
        from bnfold.report.html.drift import drift_page

        context.progress("drawing")
        assert result.evidence is not None
        return drift_page(document, result.evidence, names["frames"])

    return Outcome(
        not result.drifted,
        document,
        lambda style: render_drift(document, style),
        files={"html": page, "junit": lambda: drift_junit(document)},
    )


def _fleet(options: argparse.Namespace, context: Context) -> Outcome:
    """The states of many devices.

    Raises:
        UsageError: BNF-U149 an artifact or frames are given as well, or one state twice; BNF-U145 states of
            different networks.
        ArtifactError, PlatformError: as :meth:`bnfold.drift.State.load`.
    """
    import bnfold

    unused = ("artifact", "frames", "baseline", "train_batch", "blocks")
    beside = [what.replace("_", " ") for what in unused if getattr(options, what) is not None]
    if beside:
        raise UsageError(
            "BNF-U149",
            f"--merge judges states alone, and {', '.join(beside)} is given as well",
            where="--merge",
            fix="bnfold drift --merge STATE...",
        )
    places: set[Path] = set()
    states = {}
    for path in options.merge:
        place = Path(path).resolve()
        if place in places:
            raise UsageError(
                "BNF-U149", f"{path} is given twice", where="--merge", fix="name each state once"
            )
        places.add(place)
        context.progress(f"reading {path}")
        states[path] = bnfold.drift.State.load(path)
    document = bnfold.drift.fleet(states).to_json()
    return Outcome(document["passed"], document, lambda style: render_fleet(document, style))


def named_inputs(path: str, model: Model) -> tuple[dict[str, Array], list[str]]:
    """The frames at a path as model inputs by name, the first axis is the frames; and the frames' names.

    Raises:
        InputError: as :func:`bnfold.runtime.frames.read` and :meth:`Model.prepare`; the frame is named.
    """
    import numpy as np

    from bnfold.runtime import frames

    inputs = [spec.name for spec in model.inputs]
    rows: dict[str, list[Any]] = {name: [] for name in inputs}
    names = []
    for name, frame in frames.read(path, inputs=inputs):
        try:
            prepared = model.prepare(frame, finite=False)
        except InputError as error:
            error.where = f"{name}, {error.where}" if error.where else name
            raise
        for key, array in prepared.items():
            rows[key].append(array)
        names.append(name)
    return {key: np.concatenate(arrays) for key, arrays in rows.items()}, names
