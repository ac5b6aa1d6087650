"""``bnfold audit``: what a checkpoint's population statistics show, without data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import UsageError
from bnfold.report.audit import render_audit

from . import network, pages, values
from .command import CommandParser, Context, Outcome
from .kinds import is_artifact

if TYPE_CHECKING:
    from bnfold.checkpoint import Checkpoint, Loaded
    from bnfold.fold import FoldResult


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("checkpoint", metavar="CKPT", help=".safetensors, or what torch.save wrote")
    known = parser.add_argument_group("what else is known")
    parser.option(
        "--steps",
        group=known,
        type=values.whole(1, 10**12),
        metavar="N",
        help="forward passes of the training",
    )
    parser.option(
        "--momentum",
        group=known,
        type=values.share,
        metavar="M",
        help="of the running averages; default: the model's, else torch's 0.1",
    )
    parser.option(
        "--against",
        group=known,
        metavar="FILE",
        help="another checkpoint of it: plain weights beside an average, pretrained, another rank's",
    )
    network.add_options(parser, required=False)
    parser.option(
        "--input",
        default=[],
        action="append",
        type=values.input_spec,
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="with --model: fold it, for the order of execution and the folded weights",
    )
    parser.option(
        "--channels", action="store_true", default=False, help="with --format json: every number by channel"
    )
    pages.add_options(parser, "html")


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Read, examine, report."""
    _check_options(options)
    context.start_torch()
    from bnfold import finding
    from bnfold.statistics import folded as weights
    from bnfold.statistics.audit import examine_all, in_order
    from bnfold.statistics.contents import Known, subjects_of
    from bnfold.statistics.gate import merged

    checkpoint, loaded = _read(options, context)
    subjects = subjects_of(
        checkpoint,
        Known(options.steps, options.momentum),
        state=options.state,
        module=loaded.module if loaded else None,
        against=_other(options, context),
        strip_prefix=options.strip_prefix,
    )
    folded = _fold(loaded, options, context)
    calls = [entry.name for entry in folded.report.batch_norms] if folded else []
    if folded:  # the network that was folded is the first
        subjects = [in_order(subjects[0], calls), *subjects[1:]]
    context.progress("examining")
    result = examine_all(subjects)
    findings, linear = result.findings, []
    if folded:
        linear = weights.folded_weights(folded)
        # dead channels stand in the table
        told = [found for found in folded.report.findings if found.severity != "info"]
        findings = merged(findings, told + weights.beyond_half(linear), calls)
    notes = [note.to_json() for note in (loaded.notes if loaded else checkpoint.notes)]
    passed = finding.passed(findings)
    channels = options.channels or options.format == "html"
    document: dict[str, Any] = {
        "schema": 1,
        "passed": passed,
        "path": options.checkpoint,
        "sha256": checkpoint.sha256,
        "format": checkpoint.format,
        "states": [
            {
                "name": subject.name,
                "batch_norms": len(subject.layers),
                "source": "module" if subject.is_module else "state dict",
                "order": "execution" if subject.calls else "module" if subject.ordered else "name",
            }
            for subject in subjects
        ],
        "unusable": [{"name": name, "reason": error.what} for name, error in checkpoint.unusable.items()],
        "assumed": result.assumed,
        "findings": [found.to_json() for found in findings] + notes,
        "layers": [figures.to_json(channels=channels) for figures in result.layers],
        "folded_weights": [each.to_json(channels=channels) for each in linear],
    }

    def page() -> str:
        from bnfold.report.html.audit import audit_page

        context.progress("drawing")
        return audit_page(document)

    return Outcome(
        passed,
        document,
        lambda style: render_audit(document, style, everything=context.verbose),
        files={"html": page},
    )


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what cannot be used together.

    Raises:
        UsageError: BNF-U030, BNF-U032; as `pages.check`.
    """
    pages.check(options)
    for path in (options.checkpoint, options.against):
        if path is not None and is_artifact(path):
            raise UsageError(
                "BNF-U030",
                "an artifact has no population statistics left to audit: they are in its weights",
                where=path,
                fix="give the checkpoint that it was made from; bnfold inspect shows what an artifact says",
            )
    if options.input and options.model is None:
        raise UsageError(
            "BNF-U032",
            "--input says what a network takes, and no network is given",
            fix="--model FILE.py:NAME",
        )


def _read(options: argparse.Namespace, context: Context) -> tuple[Checkpoint, Loaded | None]:
    from bnfold.checkpoint import read

    context.progress(f"reading {Path(options.checkpoint).name}")
    if options.model is not None:
        loaded = network.load(options.checkpoint, options)
        return loaded.checkpoint, loaded
    return read(options.checkpoint, trust_pickle=options.trust_pickle, sha256=options.sha256), None


def _other(options: argparse.Namespace, context: Context) -> Checkpoint | None:
    from bnfold.checkpoint import read

    if options.against is None:
        return None
    context.progress(f"reading {Path(options.against).name}")
    return read(options.against, trust_pickle=options.trust_pickle)


def _fold(loaded: Loaded | None, options: argparse.Namespace, context: Context) -> FoldResult | None:
    if loaded is None or not options.input:
        return None
    context.progress("folding")
    import bnfold

    return bnfold.fold(loaded.module, network.example_inputs(loaded.module, options.input))
