"""``bnfold.toml``: the command line wins, and nothing in it is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Cli


def test_values_come_from_the_file_and_flags_win(
    cli: Cli, halves: Path, left_bright: Path, tmp_path: Path
) -> None:
    (tmp_path / "bnfold.toml").write_text('[run]\ntop = 1\nformat = "json"\n')
    document = cli("run", halves, left_bright).document
    assert len(document["frames"][0]["outputs"][0]["top"]) == 1
    document = cli("run", halves, left_bright, "--top", "2").document
    assert len(document["frames"][0]["outputs"][0]["top"]) == 2


def test_c_names_another_file(cli: Cli, halves: Path, left_bright: Path, tmp_path: Path) -> None:
    (tmp_path / "bnfold.toml").write_text("[run]\ntop = 1\n")
    (tmp_path / "other.toml").write_text('[run]\ntop = 2\nformat = "json"\n')
    for arguments in (["-c", "other.toml", "run", halves], ["run", halves, "--config=other.toml"]):
        document = cli(*arguments, left_bright).document
        assert len(document["frames"][0]["outputs"][0]["top"]) == 2


@pytest.mark.parametrize("value", ['["ab.state", "cd.state"]', '"ab.state"'])
def test_an_option_of_several_values_takes_a_list_or_one(cli: Cli, tmp_path: Path, value: str) -> None:
    (tmp_path / "bnfold.toml").write_text(f"[drift]\nmerge = {value}\n")
    result = cli("drift")
    assert (result.status, result.err.splitlines()[1]) == (2, "  where  ab.state")


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("[run\n", "BNF-U005", "not TOML"),
        ("[runn]\ntop = 1\n", "BNF-U006", "[runn] is no command"),
        ("top = 1\n", "BNF-U006", "in no section"),
        ("[run]\ntpo = 1\n", "BNF-U006", "did you mean top"),
        ("[convert]\nimput = '1x2'\n", "BNF-U006", "did you mean input"),
        ("[run]\ntop = 'few'\n", "BNF-U010", "'few'"),
        ("[run]\ntop = true\n", "BNF-U007", "True"),
        ("[convert]\nsamples = ''\n[run]\noutput = ''\n", "BNF-U007", "empty"),
        ("[run]\nself-test = 1\n", "BNF-U007", "neither true nor false"),
        ("[run]\nformat = 'xml'\n", "BNF-U007", "text, json"),
    ],
)
def test_mistakes_in_the_file(
    cli: Cli, halves: Path, left_bright: Path, tmp_path: Path, text: str, code: str, says: str
) -> None:
    (tmp_path / "bnfold.toml").write_text(text)
    result = cli("run", halves, left_bright)
    assert result.status == 2
    assert result.err.startswith(f"error[{code}]")
    assert says in result.err
    assert "bnfold.toml" in result.err


def test_a_file_that_is_not_there(cli: Cli, halves: Path) -> None:
    result = cli("run", halves, "x.png", "-c", "nowhere.toml")
    assert result.status == 2
    assert result.err.startswith("error[BNF-U005]: no such configuration file\n  where  nowhere.toml")


def test_a_required_option_may_stand_in_the_file(cli: Cli, tmp_path: Path) -> None:
    text = '[convert]\nmodel = "net.py:Net"\ninput = ["a=1x2", "b=1x3:int64"]\n'
    (tmp_path / "bnfold.toml").write_text(text)
    (tmp_path / "w.pt").write_bytes(b"")
    result = cli("convert", "w.pt")
    assert result.status == 2
    assert not result.err.startswith("error[BNF-U001]")
    assert "w.pt" in result.err or "net.py" in result.err
