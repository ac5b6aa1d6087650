"""Writes docs/errors.md: every code that bnfold can say, with its words and its exit status, from the source.

    python docs/make_errors.py            (or: make docs)

A code is found where it is used: as the first argument of an error, of a `Finding`, or of a function that
makes one. The words are those of its first use; what differs from case to case stands as an ellipsis. A cause
of the catalogue (bnfold/statistics/causes.py) has its title for words, and its `.code` is found as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "errors.md"
CODE = re.compile(r"BNF-([A-Z])(\d{3})")

AREAS = {
    "U": ("UsageError", "options, shapes, configuration", 2),
    "L": ("CheckpointError", "checkpoint files", 2),
    "C": ("CaptureError", "modules that torch.export cannot capture", 2),
    "A": ("StatisticsError", "population statistics", 1),
    "F": ("", "folding", 0),
    "D": ("", "drift", 0),
    "E": ("ExportError", "target formats", 2),
    "V": ("VerifyError", "comparisons", 2),
    "M": ("ArtifactError", "artifacts and manifests", 2),
    "R": ("InputError", "frames and arrays", 2),
    "P": ("PlatformError", "packages, interpreters, disk, permissions", 2),
    "X": ("InternalError", "bugs in bnfold", 3),
}

# Where one cause has many wordings, or the wording alone does not tell: the cause.
CAUSES = {
    "BNF-V040": "an output of a low-precision file agrees with float32 on fewer frames than it must",
    "BNF-U001": "the command line cannot be parsed, or something required is missing",
    "BNF-U002": "unknown command",
    "BNF-U005": "`bnfold.toml` cannot be read, or is not TOML",
    "BNF-U006": "`bnfold.toml` has an unknown section or key",
    "BNF-U007": "`bnfold.toml` has a value that does not fit its option",
    "BNF-U010": "an option's value is not of the form that the option takes",
    "BNF-U011": "`--input` does not fit the parameters of `forward`",
    "BNF-U012": "the options for frames do not fit the input, or each other",
    "BNF-U013": "the label file cannot be read, or has an empty line",
    "BNF-U014": "code that the command imported called `sys.exit`",
    "BNF-U015": "no such file or folder for the samples",
    "BNF-U016": "`--name` is no name for a file",
    "BNF-U025": "there is no rule of that name",
    "BNF-U020": "the example inputs do not fit the signature of `forward`",
    "BNF-U044": "the model's file or module has no such name",
    "BNF-U061": "fewer than one thread",
    "BNF-U073": "labels that are no names",
    "BNF-U080": "what is given as batches is none, or there are no frames in it",
    "BNF-U082": "a batch does not fit the parameters of `forward`",
    "BNF-U124": "options of `recalibrate` that do not go together, or nothing to do",
    "BNF-U125": "`recalibrate` has no name for the new checkpoint, or one that will not do",
    "BNF-U126": "no part of a recalibration (`--collect`), or a damaged one",
    "BNF-U127": "a part of a recalibration that is of other weights or of frames prepared in another way",
    "BNF-U110": "`--metric` names no file and function that can be used",
    "BNF-U130": "interrupted (Ctrl-C)",
    "BNF-L001": "no such file, or a link to one that is not there",
    "BNF-L011": "keys are missing or unexpected",
    "BNF-L012": "tensors of another shape than in the model",
    "BNF-L018": "a state dict with entries that are no named tensors",
    "BNF-L041": "the record of a recalibration in a checkpoint is damaged, or does not fit its tensors",
    "BNF-L102": "tensors were widened to the model's dtype, exactly",
    "BNF-L103": "tensors were rounded to the model's dtype",
    "BNF-L104": "`num_batches_tracked` is missing or not needed",
    "BNF-A061": "a prior needs old statistics, and these are not finite or negative",
    "BNF-A062": "a new statistic is beyond the range of the dtype that the layer stores it in",
    "BNF-A069": "an average that cannot be corrected without data (`--debias`)",
    "BNF-A063": "frames with unusable values, or their batches, were left out of all statistics",
    "BNF-C001": "forward chooses by tensor values",
    "BNF-C002": "the model fixes the size of its batch, or decides by it",
    "BNF-C003": "torch.export, or bnfold, does not know an operator",
    "BNF-C005": "forward keeps state that its answers depend on",
    "BNF-E004": "the exporter failed at an operator of the model",
    "BNF-E006": "outputs that are no tensors, such as None or a number, or no tensor at all",
    "BNF-E007": "outputs that are the same on every input",
    "BNF-E010": "an operator, or a use of it, that the format or its interpreter cannot express",
    "BNF-V001": "parity failed: an output is further from the reference than rounding explains",
    "BNF-V006": "an output is random in eval mode: the network draws random numbers",
    "BNF-V016": "the shape of an input was taken from the first frame: two checkpoints do not say it",
    "BNF-V032": "what is compared does not say what it takes, or samples do not fit that",
    "BNF-M030": "the drift reference of a monitored artifact is damaged",
    "BNF-D002": "what tier 0 says, where tier 1 decides",
    "BNF-D004": "frames that show the same scene count as one",
    "BNF-D009": "BatchNorms that the drift check cannot look at",
    "BNF-D010": "frames with values that are not finite",
    "BNF-A017": "the data in use differ from the data of training",
    "BNF-U160": "`-o` with a report that goes to standard output",
    "BNF-U161": "the folder that a report is to be written into does not exist, or is a file",
    "BNF-U162": "`--format` names a report that there is not of what was asked for",
    "BNF-U143": "an option of the drift check is out of range",
    "BNF-U187": "`--layout nhwc` with a target that takes channels first",
    "BNF-U188": "`--runtime` names no interpreter that files are made for, or makes no TFLite file",
    "BNF-U170": "there is no image input whose preparation could go into the file",
    "BNF-U147": "`clean` is not the clean file of the monitored one",
    "BNF-U149": "what is given beside `--merge`, or a state that is named twice",
    "BNF-D012": "frames that cannot be read, or that the network does not take",
    "BNF-D013": "a state that is itself of many devices: their sums, and no window",
    "BNF-R032": "a pipe of frames breaks off, or is damaged",
    "BNF-R033": "standard input holds neither frames nor paths, or frames for a model with several inputs",
    "BNF-R034": "several frames at once, where a monitor takes one",
    "BNF-D001": "too few independent frames for a verdict on drift",
    "BNF-R031": "what is given as frames is no array of numbers with the frames along its first axis",
    "BNF-V044": "`--answers` names an output that there is not, or says something of it that it cannot be",
    "BNF-V009": "few sample frames: seeded random ones were added",
    "BNF-M031": "no monitor's state, or a damaged one",
    "BNF-M007": "the bytes of the artifact were changed after bnfold wrote it",
    "BNF-M006": "the manifest is no JSON, or not what its schema says",
    "BNF-M012": "the interpreter stopped while it ran the model",
    "BNF-R002": "a file that is no frame: none of the formats that are read",
    "BNF-R004": "an image of another depth than 8 bits",
    "BNF-R006": "an image of more pixels than are decoded",
    "BNF-R021": "labels that do not fit the frames",
    "BNF-R022": "arrays of an `.npz` file that do not fit the inputs, or each other",
    "BNF-P030": "a package that the command needs is not installed",
    "BNF-P012": "no permission to write, or a read-only file system",
    "BNF-P013": "the folder to write into does not exist, or a folder and a file are mixed up",
    "BNF-P014": "the operating system refused to write, for another reason",
    "BNF-P015": "the operating system refused to read",
    "BNF-P016": "a pipe, a device or a socket where a file should be read",
    "BNF-P017": "a pipe, a device or a socket where a file should be written",
    "BNF-P090": "the operating system refused something else",
    "BNF-X000": "an exception that nobody expected",
}


@dataclass(frozen=True)
class Use:
    """One place in the source that names a code.

    Attributes:
        code: ``BNF-U001``.
        maker: what is called with it: ``UsageError``, ``Finding``, or a helper's name; empty for a constant.
        severity: of a finding; empty for an error.
        words: the sentence, with an ellipsis for what is put in; empty where it is put together elsewhere.
        place: ``cli/main.py:80``.
    """

    code: str
    maker: str
    severity: str
    words: str
    place: str


def uses() -> list[Use]:
    """Every use in bnfold/ and cli/, by file and line; docstrings and comments do not count."""
    found: list[Use] = []
    for folder in ("bnfold", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found += _uses_in(path)
    return found


def _uses_in(path: Path) -> Iterator[Use]:
    tree = ast.parse(path.read_text("utf-8"))
    place = path.relative_to(ROOT).as_posix()
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and CODE.fullmatch(str(node.value.value))
    }
    inside_calls = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        codes = [argument for argument in arguments if _code(argument, constants)]
        for argument in codes:
            inside_calls.add(argument)
            code, maker = _code(argument, constants), _name(node.func)
            words = _sentence([a for a in arguments if a is not argument], maker)
            for severity in _severities(arguments) or [""]:
                yield Use(code, maker, severity, words, f"{place}:{argument.lineno}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in inside_calls and CODE.fullmatch(str(node.value)):
            yield Use(str(node.value), "", "", "", f"{place}:{node.lineno}")


def _code(node: ast.expr, constants: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute) and node.attr == "code":
        return catalogue().get(_name(node.value), "")
    value = constants.get(node.id, "") if isinstance(node, ast.Name) else _text(node)
    return value if CODE.fullmatch(value) else ""


@cache
def catalogue() -> dict[str, str]:
    """The codes of the causes by the name of the constant: NON_FINITE is BNF-A001."""
    tree = ast.parse((ROOT / "bnfold" / "statistics" / "causes.py").read_text("utf-8"))
    return {
        target.id: _text(node.value.args[0])
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and node.value.args
        for target in node.targets
        if isinstance(target, ast.Name) and CODE.fullmatch(_text(node.value.args[0]))
    }


def _severities(arguments: list[ast.expr]) -> list[str]:
    """The severities that a finding may have: one, or both sides of a choice."""
    for argument in arguments:
        sides = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
        found = [_text(side) for side in sides if _text(side) in ("error", "warning", "info")]
        if len(found) == len(sides):
            return found
    return []


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _sentence(arguments: list[ast.expr], maker: str) -> str:
    """What is said: a finding's fourth argument is its message, an error's second its ``what``, a cause's
    third its title."""
    texts = [_template(argument) for argument in arguments]
    if maker == "Cause":
        texts = texts[1:]
    chosen = texts[2:3] if maker == "Finding" and len(texts) > 2 else texts[:1]
    return " ".join("".join(chosen).split())


def _template(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_template(part) for part in parts)
        case ast.IfExp(body=body):
            return _template(body)
        case ast.BinOp(left=left, right=right):
            return _template(left) + _template(right)
    return "…"


def page(found: list[Use]) -> str:
    """The whole of docs/errors.md."""
    lines = [
        "# Every code",
        "",
        "<!-- written by docs/make_errors.py from the source; do not edit by hand -->",
        "",
        "A code names one cause and is stable: scripts may rely on it. Errors stop a command; findings are",
        "part of its report, and only those of severity `error` fail it (exit status 1). An ellipsis stands",
        "for what differs from case to case.",
    ]
    for letter, (kind, about, _) in AREAS.items():
        codes = sorted({use.code for use in found if use.code[4] == letter})
        if not codes:
            continue
        title = f"## {letter}: {about}"
        lines += ["", title, "", "| code | what it says | exit status |", "|---|---|---|"]
        lines += [_row(code, [use for use in found if use.code == code], kind) for code in codes]
    return "\n".join(lines) + "\n"


def _row(code: str, places: list[Use], kind: str) -> str:
    titles = [use.words for use in places if use.maker == "Cause"]
    said = titles or [use.words for use in places if use.words.strip("…: ")]
    said = [CAUSES[code]] if code in CAUSES else said
    words = (said[0] if said else "(see the message)").replace("|", "\\|").replace("<", "&lt;")
    severities = sorted({use.severity for use in places if use.severity})
    status = ", ".join(f"finding: {severity}" for severity in severities)
    letter = code[4]
    named = any(
        use.maker == "Cause" for use in places
    )  # a cause is found, and stops a command only as an error
    if any(use.maker == kind for use in places) or not (severities or named):
        number = 130 if code == "BNF-U130" else AREAS[letter][2]
        status = f"{number}" + (f"; {status}" if status else "")
    return f"| `{code}` | {words} | {status} |"


if __name__ == "__main__":
    TARGET.write_text(page(uses()), "utf-8")
