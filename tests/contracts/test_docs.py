"""The documentation is true: commands print what it shows, tables are complete, links resolve."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

from bnfold import errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def tool(name: str) -> ModuleType:
    """A script in docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


make_errors = tool("make_errors")
make_examples = tool("make_examples")


def gist(output: str) -> str:
    """What two runs have in common: no numbers, no digests, no spacing (columns follow the numbers)."""
    text = re.sub(r"\b[0-9a-f]{12,64}\b", "#", output)
    text = re.sub(r"\d+(,\d{3})*(\.\d+)*(e[+-]?\d+)?(\+cpu)?", "#", text)
    return " ".join(text.split())


@pytest.mark.parametrize("page", make_examples.PAGES)
def test_examples_run_and_print_what_the_page_shows(page: str, tmp_path: Path) -> None:
    make_examples.prepare(tmp_path)
    steps = make_examples.steps((ROOT / page).read_text("utf-8"))
    assert steps, "the page has no examples"
    for step in steps:
        status, output = make_examples.run(step, tmp_path)
        if step.language == "python":
            assert status == 0, f"{step.source}\n{output}"
            continue
        refused = re.search(r"^error\[BNF-\w+\]:", step.output, re.MULTILINE)
        failed = step.output.endswith("FAILED\n")  # a gate, on purpose
        assert status == (2 if refused else 1 if failed else 0), f"{step.source}\n{output}"
        assert gist(output) == gist(step.output), f"$ {step.source}: run `make docs`"


def test_what_the_examples_show_fits_the_page() -> None:
    for page in make_examples.PAGES:
        for step in make_examples.steps((ROOT / page).read_text("utf-8")):
            lines = [line for line in step.output.splitlines() if not line.startswith(("error", "  "))]
            assert all(len(line) <= 80 for line in lines), step.source


def test_the_readme_lists_the_rules_that_there_are() -> None:
    from bnfold.fold.rules import all_rules

    text = (ROOT / "README.md").read_text("utf-8")
    table = text[text.index("<!-- rules -->") : text.index("<!-- /rules -->")]
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", table, re.MULTILINE)
    assert rows == [(rule.name, rule.algebra) for rule in all_rules()]


def test_the_list_of_codes_is_complete() -> None:
    """Codes and statuses; that a sentence was reworded is no reason to fail."""
    row = re.compile(r"^\| `(BNF-\w+)` \| .* \| (.*) \|$", re.MULTILINE)
    shown = row.findall((ROOT / "docs" / "errors.md").read_text("utf-8"))
    assert shown == row.findall(make_errors.page(make_errors.uses())), "run `make docs`"


def test_every_code_says_something() -> None:
    shown = (ROOT / "docs" / "errors.md").read_text("utf-8")
    rows = re.findall(r"^\| `(BNF-\w+)` \| (.*) \| (.*) \|$", shown, re.MULTILINE)
    assert len(rows) > 100
    vague = [code for code, words, _ in rows if len(re.sub(r"[^a-z]", "", words)) < 10 or "see the" in words]
    assert not vague, "name the cause in docs/make_errors.py, CAUSES"


def test_a_code_belongs_to_one_area_and_one_kind_of_error() -> None:
    kinds = {name for name in dir(errors) if name.endswith("Error") and name != "BnfoldError"}
    makers = defaultdict(set)
    for use in make_errors.uses():
        if use.maker in kinds:
            makers[use.code].add(use.maker)
    letters = {letter: kind for letter, (kind, _, _) in make_errors.AREAS.items()}
    wrong = {code: sorted(found) for code, found in makers.items() if found != {letters[code[4]]}}
    assert not wrong


def test_no_two_causes_of_findings_share_a_code() -> None:
    """A cause of the catalogue has one entry there, and a severity by how far it went."""
    catalogue = set(make_errors.catalogue().values())
    severities = defaultdict(set)
    for use in make_errors.uses():
        if use.severity and use.code not in catalogue:
            severities[use.code].add(use.severity)
    assert not {code: found for code, found in severities.items() if len(found) > 1}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_make_help_lists_every_target_that_a_page_names() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)`", page.read_text("utf-8")):
            assert target in targets, f"{page.name}: make {target}"


def test_the_configuration_that_is_shown_is_one() -> None:
    import tomllib

    from bnfold_cli import config
    from bnfold_cli.invocation import parser_of

    shown = 0
    for page in PAGES:
        for text in re.findall(r"^```toml\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            for section in (sections := tomllib.loads(text)):
                values = config.select(sections, page.name, section, parser_of)
                assert len(values) == len(sections[section])
                shown += 1
    assert shown


def test_every_extra_that_a_page_names_is_there() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for page in PAGES:
        for named in re.findall(r"bnfold\[([a-z,-]+)\]", page.read_text("utf-8")):
            assert set(named.split(",")) <= set(extras), f"{page.name}: bnfold[{named}]"


def test_every_command_that_is_built_has_its_section() -> None:
    from bnfold_cli.invocation import COMMANDS

    text = (ROOT / "docs" / "command_line.md").read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(COMMANDS)


def test_the_guide_s_rule_works(tmp_path: Path) -> None:
    """The rule in docs/writing_a_rule.md, saved where the guide says, passes the contract of every rule."""
    text = (ROOT / "docs" / "writing_a_rule.md").read_text("utf-8")
    found = re.search(r"<!-- (\w+\.py) -->\n```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    for part in ("bnfold", "tests/fold"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bnfold" / "fold" / "rules" / found[1]).write_text(found[2], "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/fold/test_rules.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "-k", "summation", "--rootdir", str(tmp_path)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
