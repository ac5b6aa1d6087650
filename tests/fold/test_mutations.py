"""A wrong rule cannot hide: every way of getting the algebra wrong is caught by its replay, and undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from bnfold.affine import Affine, Array
from bnfold.fold import fold
from bnfold.fold.rules import Answer, Case, Move, Operator, Pending, Refusal, Rule, all_rules
from tests.fold.networks import draw_statistics

Mutation = Callable[[Move], Move]


def _weights(change: Callable[[str, Array], Array]) -> Mutation:
    return lambda move: replace(move, weights={k: change(k, v) for k, v in move.weights.items()})


def _affines(change: Callable[[Affine], Affine], *, both: bool = False) -> Mutation:
    """Change what is pending after the move: before the operator, else behind it, or on both sides."""

    def one(pending: Pending) -> Pending:
        return Pending(change(pending.affine), pending.axis)

    def mutate(move: Move) -> Move:
        before = {node: one(pending) for node, pending in move.before.items()}
        if before and not both:  # two wrong signs would make a right one
            return replace(move, before=before)
        return replace(move, before=before, after=None if move.after is None else one(move.after))

    return mutate


def _no_shift(move: Move) -> Move:
    """Forget the shift: of the bias, and of what is pending."""
    weights = {name: value for name, value in move.weights.items() if name != "bias"}
    without = _affines(lambda a: replace(a, shift=np.zeros_like(a.shift), map=None), both=True)
    return without(replace(move, weights=weights))


def _rolled(affine: Affine) -> Affine:
    return Affine(np.roll(affine.scale, 1), np.roll(affine.shift, 1), affine.map)


def _second_axis(name: str, value: Array) -> Array:
    return np.roll(value, 1, 1) if value.ndim > 1 and value.shape[1] > 1 else value


MUTATIONS: dict[str, Mutation] = {
    "the sign of the weight": _weights(lambda name, value: value if name == "bias" else -value),
    "the sign of the bias": _weights(lambda name, value: -value if name == "bias" else value),
    "the order of the rows": _weights(lambda name, value: value if name == "bias" else np.roll(value, 1, 0)),
    "the order of the second axis": _weights(_second_axis),
    "single precision": _weights(lambda name, value: value.astype(np.float32).astype(np.float64)),
    "the shift": _no_shift,
    "the sign of what moves on": _affines(lambda a: Affine(-a.scale, a.shift, a.map)),
    "the channels of what moves on": _affines(_rolled),
    "the map": _affines(lambda a: replace(a, map=None if a.map is None else -a.map), both=True),
    "a setting": lambda move: replace(move, settings={k: v + 1 for k, v in move.settings.items()}),
}

# Where a rule has more than one form, the cases of the others, besides its first that moves something.
_FORMS = {
    "conv-transpose-backward": ("2 groups of 3",),
    "linear-backward": ("over the edges of a graph",),
    "linear-forward": ("over the edges of a graph",),
    "normalisation-backward": ("layer, over all axes",),
    "average-forward": ("a map, then its mean",),
    "rearrange-forward": ("flatten a map",),
    "homogeneous-backward": ("prelu",),
    "homogeneous-forward": ("leaky relu, both signs", "leaky relu, a dead channel among positive ones"),
    "pad-backward": ("ones", "ones around a single channel"),
    "pad-forward": ("ones", "ones, sizes equal"),
}


def _cases(rule: Rule) -> list[Case]:
    by_name = {case.name: case for case in rule.cases()}
    plain = next(case for case in by_name.values() if case.statuses[0] in ("folded", "reduced"))
    return [plain, *(by_name[name] for name in _FORMS.get(rule.name, ()))]


CASES = [(rule, case) for rule in all_rules() for case in _cases(rule)]


@pytest.mark.parametrize("what", MUTATIONS)
@pytest.mark.parametrize(("rule", "case"), CASES, ids=[f"{rule.name}: {case.name}" for rule, case in CASES])
def test_a_wrong_rule_is_caught_and_undone(
    rule: Rule, case: Case, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, mutate, changed = type(rule).match, MUTATIONS[what], []

    def wrong(self: Rule, operator: Operator, pending: Pending) -> Answer:
        answer = right(self, operator, pending)
        if isinstance(answer, Refusal):
            return answer
        answers = answer if isinstance(answer, tuple) else (answer,)
        mutants = tuple(mutate(one) for one in answers)
        changed.extend(_differs(one, mutant) for one, mutant in zip(answers, mutants, strict=True))
        return mutants

    monkeypatch.setattr(type(rule), "match", wrong)
    torch.manual_seed(0)
    module, x = draw_statistics(case.build(), seed=7), torch.randn(case.shape)
    result = fold(module, (x,))
    if not any(changed):
        pytest.skip("this rule computes nothing of the kind")
    assert "BNF-X002" in [finding.code for finding in result.report.findings]
    assert result.report.max_rel_error is not None
    assert result.report.max_rel_error <= 1e-10


def _differs(right: Move, mutant: Move) -> bool:
    if right.settings != mutant.settings:
        return True
    if right.weights.keys() != mutant.weights.keys():
        return True
    if any((right.weights[k] != mutant.weights[k]).any() for k in right.weights):
        return True
    pairs = [(right.after, mutant.after), *((right.before[n], mutant.before[n]) for n in right.before)]
    return any(a is not None and b is not None and _other_affine(a.affine, b.affine) for a, b in pairs)


def _other_affine(a: Affine, b: Affine) -> bool:
    maps = [np.zeros(1) if affine.map is None else affine.map for affine in (a, b)]
    return bool(
        (a.shift != b.shift).any() or (a.scale != b.scale).any() or (maps[0] != maps[1]).any()
    )
