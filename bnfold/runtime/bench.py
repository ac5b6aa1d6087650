"""How fast an artifact is here: start, latency of a single stream, memory; alone, or against another one."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnfold.channels_last import network_specs, of_manifest
from bnfold.errors import UsageError
from bnfold.finding import Finding
from bnfold.runtime import coldstart, doubts, streams
from bnfold.runtime.coldstart import ColdStart
from bnfold.runtime.latency import FOR_A_P90, Latency, Plan
from bnfold.runtime.model import Model, open
from bnfold.runtime.ratio import Ratio
from bnfold.runtime.streams import RAW, WHOLE

Progress = Callable[[str], None]

# The medians of stretches of one stream lie this far apart only where something else ran beside it.
_RESTLESS = 1.15


@dataclass(frozen=True)
class Side:
    """One artifact and what was measured of it.

    Attributes:
        streams: by `RAW` (model inputs that are ready) and `WHOLE` (camera frames, prepared as the manifest
            says); the latter only where the model takes images.
    """

    artifact: str
    runtime: str
    precision: str
    start: ColdStart
    streams: dict[str, Latency]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "artifact": self.artifact,
            "runtime": self.runtime,
            "precision": self.precision,
            "cold_start": self.start.to_json(),
            "latency": {name: stream.to_json() for name, stream in self.streams.items()},
        }


@dataclass(frozen=True)
class Benchmark:
    """What `bench` measured.

    Attributes:
        side: the artifact; ``against`` the other one, or None.
        ratios: by stream, the artifact's time over the other's, frame by frame.
        frames_source: ``samples``, or ``stand-in`` where the user gave none.
        gated: the stream that ``p90_max_ms`` judges: the whole way where the model takes images.
    """

    side: Side
    against: Side | None
    ratios: dict[str, Ratio]
    threads: int
    frames_source: str
    gated: str
    p90_max_ms: float | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the 90th percentile is within its limit, where one was set."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "schema": 1,
            "passed": self.passed,
            **self.side.to_json(),
            "threads": self.threads,
            "machine": {
                "system": platform.system(),
                "processor": platform.machine(),
                "cores": os.cpu_count(),
            },
            "frames_source": self.frames_source,
            "against": None if self.against is None else self.against.to_json(),
            "ratio": {name: ratio.to_json() for name, ratio in self.ratios.items()},
            "p90_max_ms": self.p90_max_ms,
            "gated": self.gated,
            "findings": [finding.to_json() for finding in self.findings],
        }


def bench(
    artifact: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    samples: str | os.PathLike[str] | None = None,
    plan: Plan | None = None,
    threads: int = 1,
    runtime: str | None = None,
    p90_max_ms: float | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Measure one artifact, or two frame by frame in turn.

    Args:
        artifact, against: files written by ``bnfold convert``.
        samples: frames as for ``bnfold run``; None: frames made up for the time they take.
        plan: how much to measure.
        threads, runtime: as for :func:`bnfold.open`; ``against`` runs in the same runtime where it can.
        p90_max_ms: an error finding where the 90th percentile is above it.
        progress: called with each stage as it begins.

    Raises:
        UsageError: BNF-U090 two artifacts that do not take the same frames; BNF-U091 too few for a
            90th percentile; as :func:`bnfold.open`.
        ArtifactError, PlatformError, InputError: as :func:`bnfold.open` and :meth:`Model.predict`.
    """
    tell = progress or (lambda stage: None)
    plan = plan or Plan()
    if p90_max_ms is not None and plan.frames < FOR_A_P90:
        raise _no_p90(plan.frames)  # before a minute of measuring
    models = [open(artifact, threads=threads, runtime=runtime)]
    paths = [os.fspath(artifact)]
    if against is not None:
        models.append(_other(against, models[0], threads, runtime))
        paths.append(os.fspath(against))
    runtimes = [model.runtime for model in models]
    doubted = [one for m, path in zip(models, paths, strict=True) for one in doubts.of(m.manifest, path)]
    precisions = [str(model.manifest["precision"]) for model in models]
    given = streams.of(models, samples)
    starts = []
    for path, name in zip(paths, runtimes, strict=True):
        tell(f"starting {path} in a fresh process")
        starts.append(coldstart.measure(path, threads=threads, runtime=name.rpartition(" ")[0]))

    def anew(side: int) -> Model:
        return open(paths[side], threads=threads, runtime=runtimes[side].rpartition(" ")[0])

    times = streams.timed_in_turn(models, anew, given, plan, tell)
    sides = [
        Side(*told, {name: Latency.of(np.concatenate(of_sides[side])) for name, of_sides in times.items()})
        for side, told in enumerate(zip(paths, runtimes, precisions, starts, strict=True))
    ]
    ratios = {} if against is None else {name: Ratio.of(*of_sides) for name, of_sides in times.items()}
    gated = WHOLE if WHOLE in times else RAW
    result = Benchmark(
        sides[0],
        sides[1] if against is not None else None,
        ratios,
        threads,
        "stand-in" if samples is None else "samples",
        gated,
        p90_max_ms,
    )
    result.findings.extend([*_judged(result), *doubted])
    return result


def _other(path: str | os.PathLike[str], first: Model, threads: int, runtime: str | None) -> Model:
    """The second artifact, in the first one's runtime where it is of the same format."""
    from bnfold import manifest

    same = manifest.read(path)["target"] == first.manifest["target"]
    model = open(path, threads=threads, runtime=runtime if same else None)
    ours, theirs = (
        [(spec.name, spec.shape) for spec in network_specs(one.inputs, of_manifest(one.manifest))]
        for one in (first, model)
    )
    if ours != theirs:  # a file with channels last is of the same network
        takes = "; ".join(", ".join(spec.describe() for spec in m.inputs) for m in (first, model))
        raise UsageError(
            "BNF-U090",
            f"the two artifacts do not take the same frames: {takes}",
            where=f"--against {path}",
            fix="compare two artifacts of one network",
        )
    return model


def _judged(result: Benchmark) -> list[Finding]:
    found = []
    sides = [result.side] if result.against is None else [result.side, result.against]
    for side in sides:
        for name, stream in side.streams.items():
            if stream.unrest is not None and stream.unrest > _RESTLESS:
                found.append(
                    Finding(
                        "BNF-P041",
                        "warning",
                        side.artifact,
                        f"the machine was not quiet: {name.replace('_', ' ')}, stretches of one stream "
                        f"took {stream.unrest:.2f} times each other's",
                        {"stream": name, "unrest": stream.unrest},
                        "stop what else runs, fix the clock rate, and measure again",
                    )
                )
        found += _slow_kernels(side, platform.machine())
    stream = result.side.streams[result.gated]
    limit = result.p90_max_ms
    if limit is None:
        return found
    if stream.p90 is None:
        raise _no_p90(stream.frames)
    if stream.p90 > limit:
        found.insert(
            0,
            Finding(
                "BNF-P042",
                "error",
                result.side.artifact,
                f"nine of ten frames take up to {stream.p90:.3g} ms; the limit is {limit:.3g} ms",
                {"p90_ms": stream.p90, "p90_max_ms": limit, "stream": result.gated},
                "more threads, a smaller precision or a smaller network",
            ),
        )
    return found


def _no_p90(frames: int) -> UsageError:
    return UsageError(
        "BNF-U091",
        f"{frames} frames do not tell a 90th percentile; it takes at least {FOR_A_P90}",
        where="--p90-max",
        fix="give more frames or seconds",
    )


def _slow_kernels(side: Side, processor: str) -> list[Finding]:
    """int8 where no delegate takes it: XNNPACK as tflite-runtime is built takes float operators alone."""
    slow = side.runtime.startswith("tflite-runtime ") and processor in ("x86_64", "AMD64")
    if side.precision != "int8" or not slow:
        return []
    return [
        Finding(
            "BNF-P043",
            "warning",
            side.artifact,
            f"{side.runtime} has no fast int8 on {processor}: its XNNPACK takes float operators alone, and "
            "int8 runs in kernels written for Arm",
            {"runtime": side.runtime, "precision": side.precision, "processor": processor},
            "on this processor take fp32 or fp16, or ai-edge-litert; on Arm measure there",
        )
    ]
