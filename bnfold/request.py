"""What a conversion is asked for, and the checks that come before the long work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnfold.channels_last import LAYOUTS
from bnfold.errors import PlatformError, UsageError
from bnfold.export import LITERT, RUNTIMES, TFLITE_2_14
from bnfold.quantize.gate import Gate
from bnfold.runtime import interpreters
from bnfold.signature import TensorSpec
from bnfold.wording import encodable

TARGETS = ("onnx", "tflite")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Request:
    """What is to be made, after the checks that need no network.

    Attributes:
        targets: without repetition, in the order asked for.
        folder: where the files go; it may not be there yet.
        name: of the files, without a target's suffix.
        labels: of the classes, or None.
        monitor, second_moments: whether monitored files are made, and whether these have second moments.
        source: ``path``, ``sha256`` and ``format`` of the checkpoint.
        precision: ``fp32``, ``fp16`` or ``int8``.
        gate: what a lower precision is held to; None for ``fp32``.
        layout: ``nchw``, or ``nhwc``: the files take channels last.
        runtime: what TFLite files are for: ``tflite-2.14``, and ai-edge-litert, or ``litert`` alone.
    """

    targets: tuple[str, ...]
    folder: Path
    name: str
    labels: list[str] | None
    monitor: bool = False
    second_moments: bool = False
    source: dict[str, str | None] = field(default_factory=dict)
    precision: str = "fp32"
    gate: Gate | None = None
    layout: str = "nchw"
    runtime: str = TFLITE_2_14

    @property
    def files(self) -> list[tuple[str, str]]:
        """Target and role of every file to write."""
        roles = ("clean", "monitor") if self.monitor else ("clean",)
        return [(target, role) for target in self.targets for role in roles]

    def path(self, target: str, role: str = "clean", *, rejected: bool = False) -> Path:
        """``NAME.onnx`` or ``NAME.monitor.onnx`` in the folder; ``*.rejected`` where it failed."""
        middle = "" if role == "clean" else f".{role}"
        return self.folder / f"{self.name}{middle}.{target}{'.rejected' if rejected else ''}"


def check_request(
    *,
    to: str | Iterable[str],
    output: str | os.PathLike[str],
    name: str,
    samples: Any,
    labels: Sequence[str] | None,
    precision: str,
    monitor: bool,
    second_moments: bool = False,
    dynamic_batch: bool,
    opset: int | None,
    source: Mapping[str, Any] | None,
    min_agreement: float | None = None,
    layout: str = "nchw",
    runtime: str = TFLITE_2_14,
) -> Request:
    """Refuse what needs no network to be refused.

    Raises:
        UsageError: BNF-U070 no or an unknown target; BNF-U071 an unknown precision; BNF-U072 an option that
            no target of this conversion has; BNF-U015 samples that are not there; BNF-U016 no name for a
            file; BNF-U181 an empty name for the folder; BNF-U073 labels that are no names; BNF-U150 a
            monitored file in int8; BNF-U151 a share of agreement that is none, or that nothing is held to;
            BNF-U186 an unknown layout; BNF-U187 channels last in ONNX;
            BNF-U182 second moments without a monitored file;
            BNF-U188 an unknown runtime, or one of TFLite's without a TFLite file.
        PlatformError: BNF-P012, BNF-P013 the folder cannot be written to; BNF-P020 no interpreter to prove a
            target with.
    """
    gate = _gate(precision, min_agreement, monitor=monitor, calibrated=samples is not None)
    if second_moments and not monitor:
        raise UsageError(
            "BNF-U182",
            "second moments are tapped in a monitored file, and none is asked for",
            where="second moments",
            fix="add --monitor (monitor=True), or leave second moments out",
        )
    targets = _targets(to)
    _check_layout(layout, targets)
    _check_runtime(runtime, targets)
    if dynamic_batch and "tflite" in targets:
        raise UsageError(
            "BNF-U072",
            "TFLite has no symbolic batch",
            where="dynamic batch, target tflite",
            fix="convert to tflite on its own, with the batch that the device runs (1)",
        )
    if opset is not None and "onnx" not in targets:
        raise UsageError(
            "BNF-U072", f"opset {opset} is for ONNX", where=f"target {', '.join(targets)}", fix="leave it out"
        )
    if isinstance(samples, str | Path) and not Path(samples).exists():
        raise UsageError(
            "BNF-U015", "no such file or folder", where=f"samples {samples}", fix="check the path"
        )
    name = _without_suffix(name)
    if not name or name in (".", "..") or any(c in name for c in "/\\\0") or not name.isprintable():
        raise UsageError(
            "BNF-U016", f"{name!r} is no name for a file", where="name", fix="the folder is given apart"
        )
    if str(output) == "":  # pathlib takes it for the current folder
        raise UsageError(
            "BNF-U181", "the output folder has an empty name", where="output", fix="'.' is the current folder"
        )
    folder = Path(output)
    _check_folder(folder)
    for target in targets:
        if not interpreters.at_hand(target):
            known = " or ".join(known.name for known in interpreters.ALL if known.target == target)
            raise PlatformError(
                "BNF-P020",
                f"no interpreter for {target} artifacts is installed ({known}), so nothing could be proven",
                fix=f"pip install 'bnfold[{'convert' if target == 'onnx' else 'tflite'}]'",
            )
    given = dict(source or {})
    return Request(
        targets,
        folder,
        name,
        _checked_labels(labels),
        monitor,
        second_moments,
        {
            key: None if given.get(key) is None else encodable(str(given[key]))
            for key in ("path", "sha256", "format")
        },
        precision,
        gate,
        layout,
        runtime,
    )


def _gate(precision: str, min_agreement: float | None, *, monitor: bool, calibrated: bool) -> Gate | None:
    """What a lower precision is held to; refuses what does not go together.

    Raises:
        UsageError: BNF-U071, BNF-U150, BNF-U151.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            "BNF-U071", f"unknown precision {precision!r}", fix=f"precision {', '.join(PRECISIONS)}"
        )
    if precision == "int8" and monitor:
        raise UsageError(
            "BNF-U150",
            "a monitored file is not offered in int8: a step of 8 bits is as large as a drift worth telling",
            where="precision int8, monitor",
            fix="convert twice: int8 without the monitor, and the monitor in fp32 or fp16 under another name",
        )
    if min_agreement is not None and not 0 < min_agreement <= 1:
        raise UsageError(
            "BNF-U151",
            f"{min_agreement} is no share of the answers",
            where="min agreement",
            fix="a number above 0 and at most 1, such as 0.99",
        )
    if precision == "fp32":
        if min_agreement is not None:
            raise UsageError(
                "BNF-U151",
                "float32 files are held to the noise floor, not to a share of answers that agree",
                where="min agreement, precision fp32",
                fix="leave it out, or name a lower precision",
            )
        return None
    return Gate.of(precision, calibrated=calibrated or precision == "fp16", min_agreement=min_agreement)


def _check_layout(layout: str, targets: tuple[str, ...]) -> None:
    """Refuse what is no layout, or not one of a target's.

    Raises:
        UsageError: BNF-U186, BNF-U187.
    """
    if layout not in LAYOUTS:
        raise UsageError("BNF-U186", f"unknown layout {layout!r}", fix=f"layout {' or '.join(LAYOUTS)}")
    if layout == "nhwc" and "onnx" in targets:
        raise UsageError(
            "BNF-U187",
            "channels last is for TFLite: ONNX's convolutions take channels first",
            where=f"layout nhwc, target {', '.join(targets)}",
            fix="convert to tflite on its own",
        )


def _check_runtime(runtime: str, targets: tuple[str, ...]) -> None:
    """Refuse what is no interpreter that files are made for, or is for no file here.

    Raises:
        UsageError: BNF-U188.
    """
    if runtime not in RUNTIMES or (runtime == LITERT and "tflite" not in targets):
        raise UsageError(
            "BNF-U188",
            f"unknown runtime {runtime!r}" if runtime not in RUNTIMES else f"{runtime} runs TFLite files",
            where=f"runtime {runtime}, target {', '.join(targets)}",
            fix=f"runtime {' or '.join(RUNTIMES)}, with target tflite",
        )


def _without_suffix(name: str) -> str:
    """``net`` for ``net.onnx``: the targets' suffixes are added to it."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in TARGETS else name


def _targets(to: str | Iterable[str]) -> tuple[str, ...]:
    targets = tuple(dict.fromkeys(to.split(",") if isinstance(to, str) else to))
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets:
        raise UsageError(
            "BNF-U070",
            f"there is no target {unknown[0]!r}" if unknown else "there is no target",
            where="to",
            fix=f"{' or '.join(TARGETS)}, or both",
        )
    return targets


def _check_folder(folder: Path) -> None:
    """Whether files can be written there, or the folder be made, as far as that can be told beforehand."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise PlatformError(
            "BNF-P013",
            "the output folder is a file" if there == folder else "a file stands in the output folder's path",
            where=str(there),
            fix="name a folder, or move the file away",
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise PlatformError(
            "BNF-P012",
            "the output folder cannot be written to",
            where=str(there),
            fix="choose a folder that you may write to",
        )


def _checked_labels(labels: Sequence[str] | None) -> list[str] | None:
    if labels is None:
        return None
    names = [labels] if isinstance(labels, str) else list(labels)
    wrong = [name for name in names if not isinstance(name, str) or not name.strip() or "\n" in name]
    if wrong or not names or isinstance(labels, str):
        raise UsageError(
            "BNF-U073",
            f"{wrong[0]!r} is no label" if wrong else "labels is not a list of names",
            where="labels",
            fix="a list of names, one for each class, in the order of the classes",
        )
    return names


def check_labels(labels: list[str] | None, outputs: tuple[TensorSpec, ...]) -> None:
    """Refuse labels of another number than any output's last axis.

    Raises:
        UsageError: BNF-U074.
    """
    sizes = [spec.shape[-1] for spec in outputs if spec.shape]
    if labels is not None and len(labels) not in sizes:
        raise UsageError(
            "BNF-U074",
            f"{len(labels)} labels, and no output has {len(labels)} scores in its last axis",
            where=", ".join(spec.describe() for spec in outputs),
            fix="give one label for each class, in the order of the classes",
        )
