"""``bnfold monitor``: a stream of frames, and an alarm when it changes. Needs numpy and one interpreter."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import InputError, UsageError
from bnfold.report import Style
from bnfold.report.monitoring import render_monitoring
from bnfold.wording import encodable

from . import interpreter, values
from .command import CommandParser, Context, Outcome
from .interrupts import Stop

if TYPE_CHECKING:
    from bnfold.drift import Stream
    from bnfold.finding import Finding
    from bnfold.runtime.incoming import Arrival

_MOST = 1000  # findings that the document of --format json holds
_PIPE = "-"
_INTERRUPTED = 130

_NOTES = """
Each alarm is one line on standard output, a JSON object: frame (its number),
name, and code, severity, where, message, evidence, remedy of the finding. The
rest goes to standard error. Status 1: an alarm was raised, or stands from
before; 0: none; 130: interrupted, and the state was saved.

--frames - reads frames from standard input, one of
  .npy arrays one after another (numpy.save into an io.BytesIO, then write that)
  PGM or PPM images one after another (ffmpeg ... -f image2pipe -c:v ppm -)
  lines, each the path of a frame: image, .npy, or .npz for several inputs
"""


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.epilog = _NOTES
    parser.add_argument(
        "artifact",
        metavar="ARTIFACT",
        help="a NAME.monitor.onnx or .tflite, made by bnfold convert --monitor",
    )
    parser.option(
        "--frames",
        required=True,
        metavar="DIR|FILE|-",
        help="frames in the order of time; -: from standard input, see below",
    )
    parser.option(
        "--state",
        metavar="FILE",
        help="go on from this file where it is there, and keep what is remembered in it",
    )
    parser.option(
        "--reset",
        action="store_true",
        default=False,
        help="forget the alarm that stands in --state, and the window; counts and sums stay",
    )
    parser.option(
        "--every",
        type=values.whole(1, 10**9),
        default=1,
        metavar="K",
        help="run one frame of K; the others are only looked at for NaN and infinity; default 1",
    )
    parser.option(
        "--run-length",
        type=values.whole(8, 10**6),
        default=1000,
        metavar="N",
        help="kept frames between false alarms, on average at least; default 1000",
    )
    parser.option(
        "--baseline",
        metavar="DIR|FILE",
        help="held-out frames like those of training, 50 to 200; default: the ones recorded at conversion",
    )
    parser.option(
        "--train-batch",
        type=values.whole(1, 10**6),
        default=32,
        metavar="N",
        help="the batch size of training, for a monitor without a baseline; default 32",
    )
    interpreter.add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Watch until the frames end, or Ctrl-C."""
    if options.reset and options.state is None:
        raise UsageError(
            "BNF-U001", "--reset without --state", where="--reset", fix="name the state: --state FILE"
        )
    stream = _stream(options, context)
    if options.reset:
        stream.monitor.reset()
        stream.save()
    begun = vars(stream.monitor.state.counts).copy()
    context.progress(f"watching {options.frames}")
    watch = _Watch(stream, context)
    with Stop() as stop:
        try:
            watch.all(_arrivals(options.frames, stream), stop)
        finally:
            stream.save()
    if watch.refused is not None:  # not one frame could be used: the input is wrong, and not the camera
        raise watch.refused
    document = _document(options, stream, watch, begun, interrupted=stop.asked)
    if options.format == "text":
        print(render_monitoring(document, Style.of(sys.stderr)), file=sys.stderr, end="", flush=True)
    return Outcome(document["passed"], document, lambda style: "", _INTERRUPTED if stop.asked else None)


class _Watch:
    """Frames to findings, and findings to lines.

    Attributes:
        findings: the first of them, with their frames' names.
        alarms: how many were errors.
        refused: the first frame's error while no frame could be used.
    """

    def __init__(self, stream: Stream, context: Context) -> None:
        self._stream = stream
        self._context = context
        self._used = False
        self.findings: list[dict[str, Any]] = []
        self.alarms = 0
        self.refused: InputError | None = None

    def all(self, arrivals: Iterator[Arrival], stop: Stop) -> None:
        """Until the frames end or the user does."""
        while (arrival := stop.next(arrivals)) is not None:
            number = self._stream.monitor.state.counts.frames
            for finding in self._one(arrival):
                self._tell(finding, arrival.name, number)

    def _one(self, arrival: Arrival) -> list[Finding]:
        error = arrival.error
        if error is None:
            try:
                found = self._stream.watch(arrival.frame)
            except InputError as refused:
                error = refused
            else:
                self._used, self.refused = True, None
                return found
        if not self._used and self.refused is None:
            self.refused = error
            if arrival.name not in error.where:
                error.where = f"{arrival.name}, {error.where}" if error.where else arrival.name
        return self._stream.unusable(encodable(arrival.name), error)

    def _tell(self, finding: Finding, name: str, number: int) -> None:
        entry = {"frame": number, "name": encodable(name), **finding.to_json()}
        if len(self.findings) < _MOST:
            self.findings.append(entry)
        if finding.severity == "error":
            self.alarms += 1
            self._context.emit(json.dumps(entry, allow_nan=False))


def _stream(options: argparse.Namespace, context: Context) -> Stream:
    import bnfold
    from bnfold.drift.observe import reference_of

    from .drift import named_inputs

    context.progress(f"opening {Path(options.artifact).name}")
    model = bnfold.open(options.artifact, threads=options.threads, runtime=options.runtime)
    reference_of(model)  # a clean artifact is refused before anything is read
    baseline = None
    if options.baseline is not None:
        context.progress(f"running {options.baseline}")
        baseline, _ = named_inputs(options.baseline, model)
    return bnfold.drift.Stream(
        model,
        every=options.every,
        arl=options.run_length,
        baseline=baseline,
        train_batch=options.train_batch,
        state=options.state,
    )


def _arrivals(path: str, stream: Stream) -> Iterator[Arrival]:
    from bnfold.runtime import incoming

    names = [spec.name for spec in stream.model.inputs]
    if path == _PIPE:
        if sys.stdin is None:  # closed by whoever started us
            return iter(())
        return incoming.from_pipe(sys.stdin.buffer, names)
    return incoming.from_path(path, names)


def _document(
    options: argparse.Namespace, stream: Stream, watch: _Watch, begun: dict[str, int], *, interrupted: bool
) -> dict[str, Any]:
    monitor = stream.monitor
    state = monitor.state
    counts = vars(state.counts)
    return {
        "schema": 1,
        "passed": not (watch.alarms or state.alarmed),
        "artifact": options.artifact,
        "runtime": stream.model.runtime,
        "frames": counts["frames"] - begun["frames"],
        "drifted": state.alarmed,
        "judged": state.alarmed or counts["looks"] > 0,
        "where": state.blamed,
        "alarms": watch.alarms,
        "interrupted": interrupted,
        "tier": monitor.tier,
        "run_length": monitor.arl,
        "every": monitor.every,
        "stride": state.stride,
        "state": options.state,
        "resumed": stream.resumed,
        "counts": dict(counts),
        "counts_before": begun,
        "findings": watch.findings,
    }
