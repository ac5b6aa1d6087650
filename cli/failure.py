"""Whatever can be raised, as an error with a code: so nothing ends in a traceback or in silence."""

from __future__ import annotations

import traceback

from bnfold.errors import BnfoldError, InternalError, PlatformError, UsageError

from . import interrupts

INTERRUPTED = "BNF-U130"

# The extra of bnfold that brings a package. A device has few of them, and needs few.
_EXTRA = {
    "torch": "convert",
    "onnx": "convert",
    "onnxscript": "convert",
    "safetensors": "convert",
    "rich": "convert",
    "litert_torch": "tflite",
    "onnxruntime": "edge-onnx",
    "tflite_runtime": "edge-tflite",
    "ai_edge_litert": "edge-tflite",
    "PIL": "images",
    "jinja2": "report",
    "matplotlib": "report",
}


def as_bnfold_error(exception: BaseException, command: str) -> BnfoldError:
    """The error that the user is told about.

    Codes given here: BNF-U130 interrupted, BNF-U014 the model's code ended the program, BNF-P030 a
    package is missing, BNF-P090 the operating system refused, BNF-P091 out of memory, BNF-X000 a bug.
    """
    if interrupts.SEEN or isinstance(exception, KeyboardInterrupt):
        return UsageError(INTERRUPTED, "interrupted; no unfinished artifact was left behind")
    match exception:
        case BnfoldError():
            return exception
        case SystemExit():
            return UsageError(
                "BNF-U014",
                f"code that the command imported called sys.exit({exception.code!r})",
                where=_place(exception),
                fix='guard it with: if __name__ == "__main__":',
            )
        case ModuleNotFoundError() if (exception.name or "").partition(".")[0] in _EXTRA:
            package = (exception.name or "").partition(".")[0]
            return PlatformError(
                "BNF-P030",
                f"{command} needs {package}, which is not installed",
                fix=f"pip install 'bnfold[{_EXTRA[package]}]'   (bnfold doctor shows what is there)",
            )
        case MemoryError():
            return _out_of_memory(command)
        case RuntimeError() if "not enough memory" in str(exception) or "alloc" in str(exception):
            return _out_of_memory(command)
        case OSError():
            return PlatformError(
                "BNF-P090",
                f"{command or 'bnfold'}: {exception.strerror or exception}",
                where=str(exception.filename or ""),
                fix="check the path, its permissions and the space left there",
            )
    return InternalError(
        "BNF-X000",
        f"bug in bnfold {command}: {type(exception).__name__}: {exception}",
        where=_place(exception),
        fix="run it again with --traceback and report what it prints",
    )


def _out_of_memory(command: str) -> PlatformError:
    return PlatformError(
        "BNF-P091", f"{command} ran out of memory", fix="give a smaller --input or fewer --samples"
    )


def _place(exception: BaseException) -> str:
    """Module and line where it was raised, without the paths of this machine."""
    frames = list(traceback.walk_tb(exception.__traceback__))
    if not frames:
        return ""
    frame, line = frames[-1]
    ours = [(f, n) for f, n in frames if str(f.f_globals.get("__name__", "")).startswith("bnfold")]
    place = f"{frame.f_globals.get('__name__', '?')}:{line}"
    if ours and ours[-1][0] is not frame:
        place += f", called from {ours[-1][0].f_globals['__name__']}:{ours[-1][1]}"
    return place
