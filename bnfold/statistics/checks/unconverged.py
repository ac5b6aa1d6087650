"""An exponential average that still holds its initial value: mean 0 and variance 1.

    after T updates with momentum m, the initial value weighs w = (1 - m)^T

With m = 0.1: T = 10 gives 0.35, T = 22 gives 0.10, T = 44 gives 0.01. At fixed weights it can be taken out
without data: mean / (1 - w) and (variance - w) / (1 - w).
"""

from __future__ import annotations

from collections.abc import Iterable

from bnfold.finding import Finding
from bnfold.statistics.causes import UNCONVERGED
from bnfold.statistics.checks._base import Check, evidence, in_layers
from bnfold.statistics.layers import UPDATES, Layer
from bnfold.statistics.subject import Subject

_ERROR, _MATTERS = 0.3, 0.01


class Unconverged(Check):
    """The weight of the initial value by the layer's own count."""

    causes = (UNCONVERGED,)

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """One finding for all layers of a severity."""
        weights = [(layer, subject.initial_weight(layer)) for layer in subject.layers if not layer.is_initial]
        known = [
            (layer, weight) for layer, weight in weights if weight is not None and layer.mean is not None
        ]
        errors = [(layer, weight) for layer, weight in known if weight >= _ERROR]
        warnings = [(layer, weight) for layer, weight in known if _MATTERS <= weight < _ERROR]
        yield from (self._found(found, subject) for found in (errors, warnings) if found)

    def _found(self, found: list[tuple[Layer, float]], subject: Subject) -> Finding:
        layers = [layer for layer, _ in found]
        worst = max(weight for _, weight in found)
        first = found[0][0]
        momentum, assumed = subject.momentum_of(first)
        updates = subject.updates_of(first)
        message = (
            f"after {updates} update{'' if updates == 1 else 's'} with momentum {momentum}"
            f"{' (assumed: a file does not say)' if assumed else ''}, the initial mean 0 and variance 1 "
            f"still weigh {worst:.2g} {in_layers(layers, subject)}"
        )
        # v = w + (1 - w) v' with v' >= 0: anything below w had another beginning
        below = sum(
            int((layer.variance < w * 0.999).sum()) for layer, w in found if layer.variance is not None
        )
        if below:
            message += (
                f"; but {below} variance{' is' if below == 1 else 's are'} below that weight, so the average "
                "may have begun from other statistics"
            )
        return Finding(
            UNCONVERGED.code,
            "error" if worst >= _ERROR else "warning",
            first.key(UPDATES),
            message,
            evidence(
                first,
                layers=[layer.name for layer in layers],
                weight=worst,
                updates=updates,
                momentum=momentum,
                assumed=assumed,
                below=below,
            ),
            "bnfold recalibrate --debias takes the initial value out without data; bnfold recalibrate "
            f"--samples measures anew{'; give --momentum where it was another' if assumed else ''}",
        )
