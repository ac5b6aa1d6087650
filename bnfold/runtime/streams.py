"""What ``bnfold bench`` times: model inputs that are ready, and the whole way from a camera's frame."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnfold.errors import InputError
from bnfold.runtime import frames as frame_files
from bnfold.runtime import ratio, stand_in
from bnfold.runtime.latency import Call, Nanoseconds, Plan, timed
from bnfold.runtime.model import Model
from bnfold.runtime.session import Array

RAW, WHOLE = "without_preprocessing", "with_preprocessing"

_MOST_FRAMES = 256


def of(models: list[Model], samples: str | os.PathLike[str] | None) -> dict[str, list[Sequence[Any]]]:
    """What to time: by stream, each model's frames."""
    if samples is None:
        seen = stand_in.camera(models[0])
        ready: list[Sequence[Any]] = [[stand_in.prepared(model)] for model in models]
    else:
        taken = _read(samples, models[0])
        images = all(getattr(frame, "dtype", None) == "uint8" for frame in taken)
        seen = taken if images else None
        ready = [[model.prepare(frame) for frame in taken] for model in models]
    if all(_same(one, other) for one, other in zip(ready[0], ready[-1], strict=True)):
        ready = [ready[0]] * len(models)  # where a frame lies counts as well
    return {RAW: ready} if seen is None else {RAW: ready, WHOLE: [seen] * len(models)}


def _same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def _call(model: Model, stream: str) -> Call:
    return model.predict_raw if stream == RAW else model.predict


def timed_in_turn(
    models: list[Model],
    anew: Callable[[int], Model],
    frames: dict[str, list[Sequence[Any]]],
    plan: Plan,
    tell: Callable[[str], None],
) -> dict[str, list[list[Nanoseconds]]]:
    """By stream, of each side: the times of each opening; one opening where there is nothing to compare.

    ``models`` are the first ones; later ones take their place, so that no more are in memory at once.
    """
    parts = min(ratio.OPENINGS, plan.frames) if len(models) == 2 else 1
    generator = np.random.default_rng()
    times: dict[str, list[list[Nanoseconds]]] = {name: [[] for _ in models] for name in frames}
    for part in range(parts):
        tell(f"timing {plan.frames} frames" + (f", opening {part + 1} of {parts}" if parts > 1 else ""))
        if part:
            # the two would find the memory of the two before, and lie as these did: one opening in effect
            models.clear()
            ballast, opened = [], {}
            for side in (0, 1) if part % 2 == 0 else (1, 0):
                ballast += [bytearray(int(2**size)) for size in generator.uniform(4, 17, 40)]
                opened[side] = anew(side)
            models += [opened[0], opened[1]]
        for name, given in frames.items():
            share = plan.share(parts, part, [one for side in times[name] for one in side])
            if share.seconds <= 0 and part > 1:  # two tell an interval, and slow networks took their time
                continue
            begun = sum(map(len, times[name][0])) % len(given[0])  # it goes on with the next frame
            turned = [[*of_side[begun:], *of_side[:begun]] for of_side in given]
            # no name for the calls: it would keep these models beside the next ones
            found = timed([_call(model, name) for model in models], turned, share)
            for of_side, taken in zip(times[name], found, strict=True):
                of_side.append(taken)
    return times


def _read(samples: str | os.PathLike[str], model: Model) -> list[Any]:
    """The first frames, in memory: reading files is not what is timed."""
    taken = []
    for name, frame in frame_files.read(samples, inputs=[spec.name for spec in model.inputs]):
        try:
            model.prepare(frame)
        except InputError as error:
            error.where = f"{name}, {error.where}" if error.where else name
            raise
        taken.append(frame)
        if len(taken) == _MOST_FRAMES:
            break
    return taken
