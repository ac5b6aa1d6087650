"""``bnfold bench``: how long one frame takes here. Needs numpy and one interpreter."""

from __future__ import annotations

import argparse

from bnfold.report.benchmark import render_benchmark

from . import interpreter, values
from .command import CommandParser, Context, Outcome


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("artifact", metavar="ARTIFACT", help="a .onnx or .tflite file made by bnfold convert")
    parser.option(
        "--against", metavar="ARTIFACT", help="another one for the same frames, timed in turn frame by frame"
    )
    parser.option(
        "--frames", metavar="DIR|FILE", help="frames to answer; default: frames made up for their time"
    )
    parser.option(
        "--count",
        type=values.whole(1, 10**7),
        default=1024,
        metavar="N",
        help="answers to time; default 1024",
    )
    parser.option(
        "--seconds",
        type=values.positive,
        default=60.0,
        metavar="S",
        help="stop earlier, after so long; default 60",
    )
    parser.option(
        "--warm-up", type=values.whole(0, 10**6), default=16, metavar="N", help="answers before; default 16"
    )
    parser.option(
        "--p90-max",
        type=values.duration_ms,
        metavar="TIME",
        help="exit 1 where one frame in ten takes longer: 12ms, 900us, 0.5s",
    )
    interpreter.add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Measure and judge."""
    from bnfold.runtime.bench import bench
    from bnfold.runtime.latency import Plan

    result = bench(
        options.artifact,
        against=options.against,
        samples=options.frames,
        plan=Plan(options.count, options.seconds, options.warm_up),
        threads=options.threads,
        runtime=options.runtime,
        p90_max_ms=options.p90_max,
        progress=context.progress,
    )
    document = result.to_json()
    return Outcome(result.passed, document, lambda style: render_benchmark(document, style))
