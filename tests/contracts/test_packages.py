"""The wheel: every package is in it, and every file beside the code that the code reads."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]


def test_every_package_is_listed() -> None:
    there = {path.parent.relative_to(ROOT).as_posix().replace("/", ".")
             for path in (ROOT / "bnfold").rglob("__init__.py")}  # fmt: skip
    assert {*SETUP["packages"]} == {*there, "bnfold_cli"}


def test_every_file_beside_the_code_is_listed() -> None:
    listed = {path for pattern in SETUP["package-data"]["bnfold"] for path in (ROOT / "bnfold").glob(pattern)}
    there = {path for path in (ROOT / "bnfold").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path for path in there if path.suffix != ".py"} == listed
