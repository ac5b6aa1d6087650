"""``bnfold recalibrate``: new population statistics, from frames, from parts, or without data."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import BnfoldError
from bnfold.report.recalibration import render_collected, render_recalibration, render_undone

from . import network, preparation, recalibrated, recalibration_options
from .command import CommandParser, Context, Outcome

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
    recalibration_options.add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Check, collect, compare, write."""
    recalibration_options.check(options)
    if options.undo:
        context.start_torch()
        document = recalibrated.undo(
            Path(options.checkpoint),
            Path(options.output),
            options.trust_pickle,
            options.sha256,
            options.state,
        )
        return Outcome(True, document, lambda style: render_undone(document, style))
    context.start_torch()
    from bnfold.statistics import distributed

    device = _device(options.device)
    with distributed.joined(device) as group:
        if not group.rank:
            return _in_group(options, context, group, device)
        try:  # the first one speaks
            outcome = _in_group(options, Context(lambda stage: None), group, device)
        except BnfoldError as error:
            if not distributed.said(error):
                raise
            return Outcome(False, {}, lambda style: "", error.exit_status, silent=True)
        return replace(outcome, silent=True)


def _in_group(options: argparse.Namespace, context: Context, group: Group, device: torch.device) -> Outcome:
    context.progress(f"reading {Path(options.checkpoint).name}")

    def read() -> tuple[Loaded, SampleBatches | None, Any, list[Finding]]:
        recalibration_options.check_alone(options, group.size)
        loaded = network.load(options.checkpoint, options)
        if not group.rank:  # the one that writes
            recalibrated.check_place(loaded, options)
        loaded.module.to(device)
        return loaded, *_samples(loaded, options, device)

    loaded, samples, prepared, notes = group.together(read)
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
        inputs = tuple(spec._replace(shape=(1, *spec.shape[1:])) for spec in inputs)
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
