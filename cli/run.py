"""``bnfold run``: one answer per frame, or the artifact's own self-test. Needs numpy and one interpreter."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import ArtifactError, BnfoldError, InputError, UsageError
from bnfold.report import Style
from bnfold.report.answers import render_answers, render_self_test
from bnfold.report.conversion import render_findings

from . import interpreter, values
from .command import CommandParser, Context, Outcome

if TYPE_CHECKING:
    from bnfold.finding import Finding
    from bnfold.runtime import Model
    from bnfold.runtime.session import Array

_MOST_VALUES = 1000  # of one output in the JSON document: scores, not images


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("artifact", metavar="ARTIFACT", help="a .onnx or .tflite file made by bnfold convert")
    parser.add_argument(
        "frames",
        metavar="FRAME",
        nargs="*",
        default=[],
        help="an image, a .npy or .npz file, or a folder of frames",
    )
    parser.option(
        "--top", type=values.whole(1, 10**6), default=3, metavar="K", help="scores shown; default 3"
    )
    parser.option("--output", metavar="NAME", help="answer with this output only, where there are several")
    parser.option(
        "--self-test",
        action="store_true",
        default=False,
        help="replay the frame that travels with the artifact: is the answer here what it was at conversion?",
    )
    interpreter.add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Open the artifact and answer."""
    if not options.frames and not options.self_test:
        raise UsageError("BNF-U001", "no frame given", where="bnfold run", fix="give a FRAME, or --self-test")
    from bnfold.runtime import doubts

    context.progress(f"opening {Path(options.artifact).name}")
    model, changed = _open(options)
    doubted = [finding.to_json() for finding in doubts.of(model.manifest, options.artifact)]
    failures = [finding.to_json() for finding in changed]
    document: dict[str, Any] = {
        "schema": 1,
        "passed": True,
        "artifact": options.artifact,
        "runtime": model.runtime,
        "precision": model.manifest["precision"],
        "frames": [],
        "self_test": None,
        "findings": failures + doubted,
    }
    if doubted:  # beside the answers, not among them
        print(render_findings(doubted, Style.of(sys.stderr)), file=sys.stderr, flush=True)
    if options.self_test:
        checks = model.self_test()
        document["self_test"] = [check.to_json() for check in checks]
        document["passed"] = all(check.passed for check in checks) and not changed
    names = _outputs(model, options.output)
    for path in options.frames:
        context.progress(f"answering {path}")
        for name, frame in _frames(path, model):
            document["frames"].append(
                {"frame": name, "outputs": _answer(model, name, frame, names, options.top)}
            )

    def render(style: Any) -> str:
        parts = [
            render_self_test(document, style),
            render_findings(failures, style),
            render_answers(document, style),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    return Outcome(document["passed"], document, render)


def _open(options: argparse.Namespace) -> tuple[Model, list[Finding]]:
    """The artifact. For the self-test alone, one that was changed after it was written opens with a finding.

    Whether such a file still answers alike is what the self-test is for; a frame of the user's is refused.
    """
    import bnfold
    from bnfold import manifest
    from bnfold.runtime import Model

    if options.frames:
        return bnfold.open(options.artifact, threads=options.threads, runtime=options.runtime), []
    data = manifest.read_bytes(options.artifact)
    document, changed = manifest.examine(data, where=options.artifact)
    try:
        model = Model(data, document, threads=options.threads, runtime=options.runtime)
    except BnfoldError as error:
        if changed and isinstance(error, ArtifactError):  # that is why, whatever the interpreter says of it
            raise manifest.refusal(changed[0]) from error
        error.where = error.where or options.artifact
        raise
    return model, changed


def _outputs(model: Model, wanted: str | None) -> list[str]:
    """The outputs to show.

    Raises:
        UsageError: BNF-U062 there is no such output.
    """
    if wanted is None:
        return [spec.name for spec in model.answers]
    names = [spec.name for spec in model.outputs]
    if wanted not in names:
        raise UsageError(
            "BNF-U062", f"no output {wanted!r}", where="--output", fix=f"name one of {', '.join(names)}"
        )
    return [wanted]


def _frames(path: str, model: Model) -> Iterator[tuple[str, Any]]:
    """The frames at a path, with the names to show.

    An array in an ``.npy`` file is one frame where it fits as one; else its first axis counts the frames.
    """
    from bnfold.runtime import frames, images

    if len(model.inputs) == 1 and Path(path).is_file() and Path(path).suffix.lower() == ".npy":
        array = images.read(path)
        if _is_one_frame(array, model):
            yield path, array
            return
    source = frames.read(path, inputs=[spec.name for spec in model.inputs])
    whole = len(source) == 1 and Path(path).is_file() and Path(path).suffix.lower() not in (".npy", ".npz")
    for name, frame in source:
        yield path if whole else name, frame


def _is_one_frame(array: Array, model: Model) -> bool:
    """Whether the array fits the only input as it is; (H, W, 3) could also be H small grey frames."""
    spec = model.inputs[0]
    if array.dtype.name == "uint8" and spec.dtype != "uint8":
        if array.ndim != 3:
            return array.ndim == 2
        how = model.manifest["inputs"][0]["normalisation"]
        size = tuple(spec.shape[how["layout"].index(axis)] for axis in "HW") if how else None
        return array.shape[2] in (1, 3, 4) and array.shape[1:] != size
    return spec.accepts(array.shape) or (
        len(array.shape) == len(spec.shape) - 1 and spec.accepts((spec.shape[0] or 1, *array.shape))
    )


def _answer(model: Model, name: str, frame: Any, outputs: list[str], top: int) -> list[dict[str, Any]]:
    """One entry per output."""
    try:
        answer = model.predict(frame)
        return [_describe(output, answer[output], model, top) for output in outputs]
    except InputError as error:
        if name not in error.where:
            error.where = f"{name}, {error.where}" if error.where else name
        raise


def _describe(output: str, values: Array, model: Model, top: int) -> dict[str, Any]:
    """The best scores where the output is a list of them; its range in any case."""
    import numpy as np

    from bnfold.runtime import scores

    labels = model.manifest["labels"]
    listed = values.ndim > 0 and values.size > 1 and max(values.shape) == values.size
    best = None
    if listed:
        fits = labels is not None and len(labels) == values.size
        best = [score.to_json() for score in scores.top(values, labels if fits else None, top)]
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return {
        "output": output,
        "shape": list(values.shape),
        "dtype": values.dtype.name,
        "top": best,
        "min": float(finite.min()) if finite.size else None,
        "max": float(finite.max()) if finite.size else None,
        "non_finite": int(values.size - finite.size),
        "values": values.tolist() if values.size <= _MOST_VALUES else None,
    }
