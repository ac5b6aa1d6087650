"""Runs the examples in README.md and docs/, and writes what they print back into the pages.

    python docs/make_examples.py            (or: make docs)

A ``console`` block holds commands after ``$ `` and, below each, what it prints. A ``python`` block is a
program. The blocks of a page run in their order in one folder that has the sample models in it. The table
between ``<!-- rules -->`` and ``<!-- /rules -->`` lists the fold rules. tests/contracts/test_docs.py runs the
same and compares, up to numbers and digests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/audit.md",
    "docs/diagnose.md",
    "docs/recalibrate.md",
    "docs/command_line.md",
    "docs/device.md",
    "docs/precision.md",
    "sample_models/lung_ct/README.md",
    "sample_models/robot_camera/README.md",
)
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RULES = re.compile(r"(<!-- rules -->\n).*?(<!-- /rules -->)", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One command or program of a page.

    Attributes:
        source: the command after ``$ ``, or the program.
        language: ``console`` or ``python``.
        output: what the page shows below it.
        start, end: where the output stands in the page; equal for a program.
    """

    source: str
    language: str
    output: str
    start: int
    end: int


def steps(text: str) -> list[Step]:
    """The steps of a page, in order."""
    found = []
    for block in _BLOCK.finditer(text):
        language, content = block.groups()
        if language == "python":
            found.append(Step(content, language, "", block.end(), block.end()))
            continue
        command = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
        matches = list(command.finditer(content))
        for match, following in zip(matches, [*matches[1:], None], strict=True):
            end = following.start() if following else len(content)
            at = block.start(2)
            found.append(Step(match[1], language, content[match.end() : end], at + match.end(), at + end))
    return found


def run(step: Step, folder: Path) -> tuple[int, str]:
    """The exit status and what was printed, standard error after standard output."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "COLUMNS": "80",
        "PYTHONWARNINGS": "error" if step.language == "python" else "default",
    }
    command = [sys.executable, "-c", step.source] if step.language == "python" else ["sh", "-c", step.source]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode, done.stdout + done.stderr


def prepare(folder: Path) -> None:
    """The sample models and the programs, where the pages expect them."""
    for name in ("sample_models", "examples"):
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)


def rules_table() -> str:
    """The fold rules and their algebra, as the README shows them."""
    from bnfold.fold.rules import all_rules

    rows = [f"| `{rule.name}` | {rule.algebra} |" for rule in all_rules()]
    return "\n".join(["| rule | algebra |", "|---|---|", *rows]) + "\n"


def with_rules(text: str) -> str:
    """The page with the table of rules that there are."""
    return _RULES.sub(lambda match: match[1] + rules_table() + match[2], text)


def with_output(text: str) -> str:
    """The page with what its commands print now."""
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        done = [replace(step, output=run(step, Path(name))[1]) for step in steps(text)]
    for step in reversed(done):
        if step.language == "console":
            text = text[: step.start] + step.output + text[step.end :]
    return text


if __name__ == "__main__":
    for page in sys.argv[1:] or PAGES:
        path = ROOT / page
        path.write_text(with_output(with_rules(path.read_text("utf-8"))), "utf-8")
