"""``bnfold recalibrate``: new population statistics, from frames, from parts, or without data."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import UsageError
from bnfold.report.recalibration import render_collected, render_recalibration, render_undone

from . import network, preparation, recalibrated, values
from .command import CommandParser, Context, Outcome
from .kinds import is_artifact

if TYPE_CHECKING:
    import torch

    from bnfold.checkpoint import Loaded
    from bnfold.finding import Finding
    from bnfold.statistics.batches import SampleBatches
    from bnfold.statistics.distributed import Group
    from bnfold.statistics.parts import Origin
    from bnfold.statistics.recalibration import RecalibrationResult


def configure(parser: CommandParser) -> None:
    """The options."""
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


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Check, collect, compare, write."""
    _check(options)
    if options.undo:
        context.progress("starting torch")
        document = recalibrated.undo(
            Path(options.checkpoint),
            Path(options.output),
            options.trust_pickle,
            options.sha256,
            options.state,
        )
        return Outcome(True, document, lambda style: render_undone(document, style))
    context.progress("starting torch")
    from bnfold.statistics import distributed

    device = _device(options.device)
    with distributed.joined(device) as group:
        if group.rank:
            context = Context(lambda stage: None)  # the first one speaks
        outcome = _in_group(options, context, group, device)
        return replace(outcome, silent=group.rank > 0)


def _in_group(options: argparse.Namespace, context: Context, group: Group, device: torch.device) -> Outcome:
    context.progress(f"reading {Path(options.checkpoint).name}")
    loaded = network.load(options.checkpoint, options)
    loaded.module.to(device)
    samples, prepared, notes = _samples(loaded, options, device)
    if options.collect is not None:
        assert samples is not None
        from bnfold.statistics.from_samples import collect_samples

        pool = collect_samples(loaded.module, samples, group=group, progress=context.progress)
        collected = recalibrated.collected(pool, _origin(loaded, prepared), loaded, options, group.rank == 0)
        collected["findings"] += [note.to_json() for note in [*notes, *loaded.notes]]
        return Outcome(True, collected, lambda style: render_collected(collected, style))
    result = _result(options, context, group, loaded, samples, _origin(loaded, prepared))
    document = {
        **result.to_json(arrays=options.channels),
        "source": {
            "path": options.checkpoint,
            "sha256": loaded.checkpoint.sha256,
            "format": loaded.checkpoint.format,
            "state": loaded.state,
        },
        "batch": None if samples is None else options.batch,
        "processes": group.size,
        "output": None,
    }
    if result.passed and group.rank == 0:
        context.progress(f"writing {Path(options.output).name}")
        document["output"] = recalibrated.write(result, loaded, options)
        notes += recalibrated.other_states(loaded)
    document["findings"] += [note.to_json() for note in [*notes, *loaded.notes]]
    return Outcome(
        result.passed, document, lambda style: render_recalibration(document, style, every=context.verbose)
    )


def _result(
    options: argparse.Namespace,
    context: Context,
    group: Group,
    loaded: Loaded,
    samples: SampleBatches | None,
    origin: Origin,
) -> RecalibrationResult:
    from bnfold.statistics.from_samples import judge_on, recalibrate_samples

    module = loaded.module
    if options.debias:
        from bnfold.statistics.debias import debias

        result = debias(module)
    elif options.merge:
        from bnfold.statistics import parts

        pool = parts.merge([parts.read(Path(part)) for part in options.merge], origin)
        result = recalibrated.merged(pool, module, options.prior)
    else:
        assert samples is not None
        return recalibrate_samples(
            module,
            samples,
            prior=options.prior,
            sequential=options.sequential,
            share=0.1 if options.held_out is None else options.held_out,
            group=group,
            progress=context.progress,
        )
    if samples is not None:
        context.progress("comparing before and after")
        judge_on(result, module, samples)
    else:
        from bnfold.statistics.notes import not_judged

        result.findings.append(not_judged("there are no --samples"))
    return result


def _samples(
    loaded: Loaded, options: argparse.Namespace, device: torch.device
) -> tuple[SampleBatches | None, Any, list[Finding]]:
    """The samples in batches, how they are prepared, and what is to be said of that."""
    if options.samples is None:
        return None, None, []
    from bnfold.normalisation import assumed, by_input
    from bnfold.statistics.batches import SampleBatches
    from bnfold.verify.guess import guess
    from bnfold.verify.sides import specs_of

    notes: list[Finding] = []
    if options.input:
        inputs = specs_of(network.example_inputs(loaded.module, options.input), loaded.module)
        inputs = tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in inputs)
    else:
        guessed = guess(loaded.module, options.samples, options.color)
        inputs, notes = guessed.inputs, guessed.findings()
    said = preparation.normalisation(options, options.input)
    prepared = by_input(said, inputs)
    samples = SampleBatches(options.samples, inputs, prepared, size=options.batch, spread=True, device=device)
    if samples.images:
        notes += assumed(said, prepared)
    described = {
        "inputs": [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype} for s in inputs],
        "normalisation": prepared if samples.images else None,
    }
    return samples, described, notes


def _origin(loaded: Loaded, prepared: Any) -> Origin:
    from bnfold.statistics.parts import Origin

    return Origin(loaded.checkpoint.sha256, loaded.state, prepared)


def _device(name: str) -> torch.device:
    """Where to run: for several processes on GPUs, each on its own.

    Raises:
        PlatformError: BNF-P063 there is no such device.
    """
    import os

    import torch

    from bnfold.errors import PlatformError

    if name == "cpu":
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available() or local >= torch.cuda.device_count():
        raise PlatformError(
            "BNF-P063",
            f"there are {torch.cuda.device_count()} GPUs that torch can use; number {local} was asked for",
            where="--device cuda",
            fix="--device cpu",
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


# What can be given together: for each way of working, what it needs and what it refuses.
_REFUSED = {
    "undo": ("samples", "merge", "debias", "collect", "sequential", "prior", "held_out"),
    "debias": ("merge", "collect", "sequential", "prior", "held_out"),
    "merge": ("collect", "sequential", "held_out"),
    "collect": ("output", "sequential", "prior", "held_out"),
}


def _check(options: argparse.Namespace) -> None:
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
