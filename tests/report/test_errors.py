"""Errors: what, where, fix; five lines at the most."""

from __future__ import annotations

from bnfold.errors import CheckpointError
from bnfold.report import Style, render_error

PLAIN = Style()


def test_the_documented_form() -> None:
    error = CheckpointError(
        "BNF-L010",
        "12 keys missing and 12 unexpected; they differ by one prefix",
        where='checkpoint "module.conv1.weight", model "conv1.weight"',
        fix="--strip-prefix module.",
    )
    assert render_error(error, PLAIN).splitlines() == [
        "error[BNF-L010]: 12 keys missing and 12 unexpected; they differ by one prefix",
        '  where  checkpoint "module.conv1.weight", model "conv1.weight"',
        "  fix    --strip-prefix module.",
    ]


def test_never_more_than_five_lines() -> None:
    error = CheckpointError("BNF-L001", "one\ntwo", where="\n".join("abcdef"), fix="\n".join("uvwxyz"))
    assert render_error(error, PLAIN).splitlines() == [
        "error[BNF-L001]: one two", "  where  a", "         b", "  fix    u", "         v",
    ]  # fmt: skip


def test_pages_of_a_tensor_are_cut_off_and_escapes_are_shown() -> None:
    text = render_error(CheckpointError("BNF-L001", "x" * 10_000, where="\x1b]0;evil\x07"), PLAIN)
    assert len(text.splitlines()[0]) < 450
    assert text.splitlines()[0].endswith(" ...")
    assert "\x1b" not in text


def test_a_line_with_a_command_is_not_wrapped() -> None:
    fix = "bnfold convert " + "very/long/path/" * 20
    assert fix in render_error(CheckpointError("BNF-L001", "x", fix=fix), PLAIN)
