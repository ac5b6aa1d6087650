"""A camera's frames one after another: each is answered, some are also looked at for drift.

    stream = bnfold.drift.Stream("locator.monitor.onnx", clean="locator.onnx", every=10, state="drift.state")
    for frame in camera:
        seen = stream.predict(frame)
        act_on(seen.outputs)
        for finding in seen.findings:
            print(finding.message)

Every k-th frame runs on the monitored graph, the others on the clean one, which gives the same answers and
spares the cost of the taps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from bnfold.drift.baseline import Baseline
from bnfold.drift.blocks import distinct
from bnfold.drift.held_out import check_baseline
from bnfold.drift.monitor import ARL, Monitor
from bnfold.drift.observe import Frames, frames_of, observe, reference_of
from bnfold.drift.state import State
from bnfold.errors import InputError, UsageError
from bnfold.finding import Finding
from bnfold.numerics import is_finite

if TYPE_CHECKING:
    from bnfold.runtime import Model

Artifact: TypeAlias = "Model | str | os.PathLike[str]"

_SAVE_EVERY = 60.0  # seconds: so much is lost when the power fails


@dataclass(frozen=True)
class Seen:
    """What one frame gave.

    Attributes:
        outputs: the network's answers by name, without the taps; empty for a frame that is not finite.
        findings: what is new with this frame, usually nothing; see :meth:`bnfold.drift.Monitor.update`.
    """

    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


class Stream:
    """Answers frames and watches them. Made for one camera; not for several threads.

    Args:
        monitored: ``NAME.monitor.onnx`` or ``.tflite``, opened or its path.
        clean: the file beside it; None: every frame runs on the monitored one.
        every: of how many frames one is looked at for drift. Values that are not finite are seen in all.
        arl: the mean number of kept frames between false alarms is at least this.
        baseline: held-out frames like those of training; None: the recorded ones, if any. Frames of one scene
            count as one.
        train_batch: the batch of training, for a monitor without a baseline.
        state: a file to go on from, where it is there, and to keep the state in: it is written when drift is
            found, once a minute, and by :meth:`save`.

    Attributes:
        monitor: the :class:`~bnfold.drift.Monitor` that is told.
        resumed: whether ``state`` was there.

    Raises:
        UsageError: BNF-U140 the artifact is a clean one; BNF-U143, BNF-U146 as :class:`Monitor`; BNF-U147
            ``clean`` is another network, or a monitored file; BNF-U148 the network takes several frames per
            call.
        ArtifactError: as :func:`bnfold.open`; BNF-M030 the recorded reference is damaged; as
            :meth:`State.load`; BNF-M033 the state is another monitor's.
        InputError: the baseline does not fit, as :func:`bnfold.drift.check`.
        PlatformError: the state cannot be written, as :func:`bnfold.atomic.write`.
    """

    def __init__(
        self,
        monitored: Artifact,
        *,
        clean: Artifact | None = None,
        every: int = 1,
        arl: int = ARL,
        baseline: Frames | None = None,
        train_batch: int = 32,
        state: str | os.PathLike[str] | None = None,
    ) -> None:
        self._monitored = _opened(monitored)
        reference = reference_of(self._monitored)
        for spec in self._monitored.inputs:
            if spec.shape[0] not in (None, 1):
                raise UsageError(
                    "BNF-U148",
                    f"the network takes {spec.shape[0]} frames per call, and a stream has one at a time",
                    where=f"input {spec.name!r}",
                    fix="convert with --input 1x...",
                )
        self._clean = None if clean is None else _opened(clean)
        if self._clean is not None:
            _check_twins(self._monitored, self._clean)
        self._taps = [layer.tap for layer in reference.layers]
        self._answers = [spec.name for spec in self._monitored.answers]
        self._path = None if state is None else Path(state)
        self.resumed = self._path is not None and self._path.exists()
        self.monitor = Monitor(
            reference,
            baseline=None if baseline is None else _baseline(self._monitored, baseline),
            arl=arl,
            every=every,
            train_batch=train_batch,
            state=State.load(self._path) if self._path is not None and self.resumed else None,
        )
        self.save()  # a place that cannot be written is known before the first frame

    @property
    def model(self) -> Model:
        """The monitored artifact."""
        return self._monitored

    def predict(self, frame: Any) -> Seen:
        """The answer to one frame, and what is new with it.

        Args:
            frame: as for :meth:`bnfold.runtime.Model.predict`. One that holds NaN or infinity is not run.

        Raises:
            InputError: as :meth:`Model.predict`; BNF-R034 it is several frames.
            ArtifactError: BNF-M012 the interpreter stopped.
            PlatformError: the state cannot be written.
        """
        return self._seen(frame, answer=True)

    def watch(self, frame: Any) -> list[Finding]:
        """What is new with one frame, for a camera whose frames are answered elsewhere.

        Frames between the k-th ones are not run, only looked at for values that are not finite. Args and
        errors as for :meth:`predict`.
        """
        return self._seen(frame, answer=False).findings

    def unusable(self, name: str, error: InputError) -> list[Finding]:
        """What is new with a frame that :meth:`predict` refused, or that could not be read: BNF-D012."""
        return self._kept([self.monitor.unusable(name, error)])

    def save(self) -> None:
        """Write the state to its file, if it has one, in one step.

        Raises:
            PlatformError: as :func:`bnfold.atomic.write`.
        """
        if self._path is not None:
            self.monitor.save(self._path)
        self._saved = time.monotonic()

    def _seen(self, frame: Any, *, answer: bool) -> Seen:
        arrays = self._monitored.prepare(frame, finite=False)
        counts = {len(array) for array in arrays.values()}
        if counts != {1}:
            raise InputError(
                "BNF-R034",
                f"{max(counts)} frames at once; a monitor takes them one after another",
                where="frame",
                fix="give each frame by itself",
            )
        monitor = self.monitor
        if not all(is_finite(array) for array in arrays.values()):
            return Seen({}, self._kept(monitor.update(None, frame=arrays)))
        if not monitor.due(monitor.state.counts.frames):
            outputs = (self._clean or self._monitored).predict_raw(arrays) if answer else {}
            answers = {name: outputs[name] for name in self._answers} if answer else {}
            return Seen(answers, self._kept(monitor.update(None, outputs=answers)))
        outputs = self._monitored.predict_raw(arrays)
        answers = {name: outputs[name] for name in self._answers}
        means = [outputs[tap] for tap in self._taps]
        return Seen(answers, self._kept(monitor.update(means, frame=arrays, outputs=answers)))

    def _kept(self, findings: list[Finding]) -> list[Finding]:
        """The findings, after the state was written where it is time."""
        # not with every frame of a broken camera: flash memory wears out
        drift = any(finding.code == "BNF-A017" for finding in findings)
        if self._path is not None and (drift or time.monotonic() - self._saved > _SAVE_EVERY):
            self.save()
        return findings


def _opened(artifact: Artifact) -> Model:
    if isinstance(artifact, str | os.PathLike):
        from bnfold.runtime import open as open_artifact

        return open_artifact(artifact)
    return artifact


def _check_twins(monitored: Model, clean: Model) -> None:
    """Raises where two files are not of one conversion.

    Raises:
        UsageError: BNF-U147.
    """
    one, other = monitored.manifest, clean.manifest
    differ = [key for key in ("source", "inputs", "batch_norms") if _told(one, key) != _told(other, key)]
    if [spec.name for spec in clean.outputs] != [spec.name for spec in monitored.answers]:
        differ.append("outputs")
    if differ:
        raise UsageError(
            "BNF-U147",
            f"{other['name']!r} is not the clean file of {one['name']!r}: they differ in {', '.join(differ)}",
            where="clean",
            fix="give the two files of one conversion",
        )


def _told(manifest: Mapping[str, Any], key: str) -> Any:
    """What the manifests of one network say alike, in either format."""
    value = manifest[key]
    if key == "source":
        return None if value is None else value["sha256"]
    names = ("name", "channels") if key == "batch_norms" else ("name", "shape", "dtype", "normalisation")
    return [[entry[name] for name in names] for entry in value]


def _baseline(model: Model, frames: Frames) -> Baseline:
    """The taps of held-out frames, as a conversion records them; of frames of one scene, the first."""
    seen = observe(model, frames, "baseline")
    pictures = next(iter(frames_of(frames, "baseline").values()))[seen.ran][seen.taps.finite]
    taps = seen.taps.take(seen.taps.finite)
    check_baseline(len(taps))
    kept = distinct(pictures, taps.values, taps.sizes)
    check_baseline(len(kept), len(taps))
    layout = None if seen.layout is None else seen.layout[seen.taps.finite][kept]
    return Baseline.of(taps.values[kept], layout=layout)
