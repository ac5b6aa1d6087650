"""``bnfold convert``: a checkpoint to artifacts, with the proof that they compute the same."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError
from bnfold.report.conversion import render_conversion

from . import network, preparation, values
from .command import CommandParser, Context, Outcome, did_you_mean

TARGETS = ("onnx", "tflite")


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("checkpoint", metavar="CKPT", help=".safetensors, or what torch.save wrote")
    network.add_options(parser, required=True)
    parser.option(
        "--input",
        required=True,
        default=[],
        action="append",
        type=values.input_spec,
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="1x3x224x224, batch first; once per input",
    )
    parser.option(
        "--dynamic-batch", action="store_true", default=False, help="a batch of any size (ONNX only)"
    )
    parser.option(
        "--skip", default=[], action="append", metavar="RULE", help="fold without this rule; repeatable"
    )
    parser.option(
        "--allow",
        default=[],
        action="append",
        metavar="CODE",
        help="convert although the audit says BNF-A010, say; repeatable",
    )
    parser.option(
        "--prune",
        action="store_true",
        default=False,
        help="remove channels that are constant (dead) or read by nobody",
    )
    parser.option(
        "--batch-statistics",
        choices=("frame",),
        metavar="frame",
        help="the last resort: BatchNorms normalise each frame by its own statistics",
    )
    _add_artifact_options(parser)
    preparation.add_options(parser, labels=True)
    parser.option(
        "--bake-normalisation",
        action="store_true",
        default=False,
        help="(pixel * scale - mean) / std inside the file, which then takes pixels",
    )
    proof = parser.add_argument_group("proof")
    parser.option(
        "--samples",
        group=proof,
        metavar="DIR|FILE",
        help="frames to compare on; without, random inputs, and the report says so",
    )
    parser.option(
        "--metric",
        group=proof,
        metavar="FILE.py:NAME",
        help="metric(outputs, labels) instead of top-1; imports and runs that file",
    )


def _add_artifact_options(parser: CommandParser) -> None:
    group = parser.add_argument_group("artifacts")
    parser.option(
        "--to",
        group=group,
        type=values.words(TARGETS),
        default=("onnx",),
        metavar="TARGETS",
        help="onnx, tflite or onnx,tflite; default onnx",
    )
    parser.option(
        "-o", "--output", group=group, default=".", metavar="DIR", help="default: the current folder"
    )
    parser.option("--name", group=group, metavar="NAME", help="of the files; default: the checkpoint's")
    parser.option(
        "--layout",
        group=group,
        type=values.one_of("--layout", ("nchw", "nhwc")),
        default="nchw",
        metavar="NAME",
        help="of a TFLite file's images: nchw (default, as the network) or nhwc (channels last)",
    )
    parser.option(
        "--runtime",
        group=group,
        type=values.one_of("--runtime", ("tflite-2.14", "litert")),
        default="tflite-2.14",
        metavar="NAME",
        help="of a TFLite file: tflite-2.14 (default; ai-edge-litert too) or litert (that alone)",
    )
    parser.option(
        "--opset", group=group, type=values.whole(1, 99), metavar="N", help="of ONNX; default: the exporter's"
    )
    parser.option(
        "--precision",
        group=group,
        type=values.one_of("--precision", ("fp32", "fp16", "int8")),
        default="fp32",
        metavar="NAME",
        help="fp32 (default), fp16 (weights) or int8 (weights and activations)",
    )
    parser.option(
        "--min-agreement",
        group=group,
        type=values.share,
        metavar="SHARE",
        help="of answers that fp16 or int8 must keep; default 0.99, for int8 without --samples 0.98",
    )
    parser.option(
        "--answers",
        group=group,
        action="append",
        default=[],
        type=values.answer,
        metavar="[NAME=]KIND",
        help="of fp16 and int8: an output holds scores (of classes) or numbers; once per output",
    )
    parser.option(
        "--monitor",
        group=group,
        action="store_true",
        default=False,
        help="also NAME.monitor.*: the same answers, and what bnfold drift looks at",
    )
    parser.option(
        "--second-moments",
        group=group,
        action="store_true",
        default=False,
        help="in NAME.monitor.* the channels' mean squares, too: slower, and bnfold drift sees more",
    )


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Load, convert, report."""
    normalisation = preparation.normalisation(options, options.input)
    labels = preparation.labels(options.labels)

    context.start_torch()
    import bnfold
    from bnfold.request import check_request

    asked = {
        "to": options.to,
        "output": options.output,
        "name": options.name if options.name is not None else Path(options.checkpoint).stem,
        "samples": options.samples,
        "labels": labels,
        "precision": options.precision,
        "min_agreement": options.min_agreement,
        "monitor": options.monitor,
        "second_moments": options.second_moments,
        "dynamic_batch": options.dynamic_batch,
        "opset": options.opset,
        "layout": options.layout,
        "runtime": options.runtime,
    }
    check_request(**asked, source=None)  # before a large checkpoint is read
    _check_rules(options.skip)
    _check_causes(options.allow)
    context.progress(f"reading {Path(options.checkpoint).name}")
    loaded = network.load(options.checkpoint, options)
    checkpoint = loaded.checkpoint
    examples = network.example_inputs(loaded.module, options.input)
    result = bnfold.convert(
        loaded.module,
        examples,
        **asked,
        normalisation=normalisation,
        answers=dict(options.answers),
        skip=tuple(options.skip),
        allow=tuple(options.allow),
        prune=options.prune,
        source={"path": options.checkpoint, "sha256": checkpoint.sha256, "format": checkpoint.format},
        metric=options.metric,
        batch_statistics=options.batch_statistics,
        bake_normalisation=options.bake_normalisation,
        progress=context.progress,
    )
    document: dict[str, Any] = dict(result.to_json())
    document["findings"] = [*document["findings"], *(note.to_json() for note in loaded.notes)]
    return Outcome(
        result.passed, document, lambda style: render_conversion(document, style), result.exit_status
    )


def _check_rules(skipped: list[str]) -> None:
    """Refuse the name of a rule that there is not.

    Raises:
        UsageError: BNF-U025.
    """
    if not skipped:
        return
    from bnfold.fold.rules import all_rules

    known = [rule.name for rule in all_rules()]
    for name in skipped:
        if name not in known:
            fix = did_you_mean(name, known) or "bnfold rules lists them"
            raise UsageError("BNF-U025", f"there is no rule {name!r}", where="--skip", fix=fix)


def _check_causes(allowed: list[str]) -> None:
    """Refuse the code of a cause that there is not.

    Raises:
        UsageError: BNF-U180.
    """
    if allowed:
        from bnfold.statistics import gate

        gate.check_allowed(allowed)
