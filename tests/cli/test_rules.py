"""``bnfold rules``: the list is what the engine has, and a page is the rule's own docstring."""

from __future__ import annotations

import inspect

from bnfold.fold.rules import all_rules

from .conftest import Cli


def test_the_list_is_the_engines_own(cli: Cli) -> None:
    result = cli("rules", "--format", "json")
    assert (result.status, result.err) == (0, "")
    assert result.document == {
        "schema": 1,
        "passed": True,
        "rules": [{"name": rule.name, "algebra": rule.algebra} for rule in all_rules()],
    }
    text = cli("rules").out
    for rule in all_rules():
        assert rule.name in text


def test_one_rule_in_full(cli: Cli) -> None:
    for rule in all_rules():
        document = cli("rules", rule.name, "--format", "json").document
        (shown,) = document["rules"]
        assert shown["name"] == rule.name
        assert shown["text"] == inspect.getdoc(inspect.getmodule(type(rule)))
        lines = cli("rules", rule.name).out.splitlines()
        assert lines[0] == rule.name
        assert max(map(len, lines)) <= 80
        # the words are the docstring's, however the lines are broken
        assert "".join(" ".join(lines[1:]).split()) == "".join(shown["text"].split())


def test_an_unknown_rule(cli: Cli) -> None:
    result = cli("rules", "linear-forwards")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("error[BNF-U025]: there is no rule 'linear-forwards'")
    assert "did you mean linear-forward or " in result.err
    assert "bnfold rules lists them" in cli("rules", "zzz").err
