"""One file per rule. Every module in this folder that defines a :class:`Rule` is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from bnfold.fold.rules._base import Answer, Case, Move, Operator, Pending, Refusal, Rule


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule in this folder, sorted by name.

    Raises:
        ValueError: two rules share a name.
    """
    rules: dict[str, Rule] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Rule) and kind.__module__ == module.__name__:
                if kind.name in rules:
                    raise ValueError(f"two rules are named {kind.name!r}")
                rules[kind.name] = kind()
    return tuple(rules[name] for name in sorted(rules))


__all__ = ["Answer", "Case", "Move", "Operator", "Pending", "Refusal", "Rule", "all_rules"]
