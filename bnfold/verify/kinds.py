"""What an output holds: the scores of classes, of which only the largest counts, or numbers that count each.

Nothing in a row of three floats says whether they are classes or a place in space. So it is asked, in
this order: what the user says, labels, a softmax at the end of the network. Where none of them tells, a
row of three and more is taken for scores, and a finding says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from bnfold import graph as g
from bnfold.errors import VerifyError
from bnfold.finding import Finding
from bnfold.signature import TensorSpec
from bnfold.verify.agreement import Kind, is_scores
from bnfold.verify.parity import is_exact

aten = torch.ops.aten

SCORES, NUMBERS = "scores", "numbers"
_SOFTMAXES = frozenset(
    {aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten._log_softmax.default}
)


def of_network(
    body: fx.GraphModule,
    outputs: Sequence[TensorSpec],
    labels: Sequence[str] | None,
    said: Mapping[str, str] | None,
) -> dict[str, Kind]:
    """What is known of the outputs, by name; what nobody tells is left out.

    Args:
        body: flat tensors in, a flat tuple of tensors out.
        outputs: of ``body``.
        labels: of classes.
        said: by output name (or ``""`` for the only one), ``scores`` or ``numbers``: the user's word.

    Raises:
        VerifyError: BNF-V044 the user names an output or a kind that there is not, or scores that are no row.
    """
    made = next(node for node in body.graph.nodes if node.op == "output").args[0]
    known: dict[str, Kind] = {}
    for spec, node in zip(outputs, made, strict=True):
        if not _is_row(spec):
            continue
        softmax = node.target in _SOFTMAXES and int(g.arguments(node)["dim"]) in (1, -1)
        if softmax or (labels is not None and len(labels) == spec.shape[1]):
            known[spec.name] = "top-1"
    return {**known, **_said(outputs, said or {})}


def _said(outputs: Sequence[TensorSpec], said: Mapping[str, str]) -> dict[str, Kind]:
    specs = {spec.name: spec for spec in outputs}
    told: dict[str, Kind] = {}
    for given, kind in said.items():
        name = outputs[0].name if given == "" and len(outputs) == 1 else given
        if name not in specs:
            what = f"there is no output {name!r}" if name else f"the network has {len(outputs)} outputs"
            raise _unusable(what, f"name one of {', '.join(specs)}")
        if kind not in (SCORES, NUMBERS):
            raise _unusable(f"{kind!r} is no kind of output", f"{name}={SCORES} or {name}={NUMBERS}")
        if kind == SCORES and not _is_row(specs[name]):
            raise _unusable(
                f"{specs[name].describe()} is no row of scores for each frame",
                f"{name}={NUMBERS}, or leave it out: an output of another form is held to its values",
            )
        told[name] = "top-1" if kind == SCORES else "values"
    return told


def recorded(manifest: Mapping[str, Any]) -> dict[str, Kind]:
    """What an artifact of a lower precision was held to when it was made."""
    rows = (manifest.get("quantisation") or {}).get("agreement", ())
    return {row["output"]: row["kind"] for row in rows if row["kind"] in ("top-1", "values")}


def doubtful(outputs: Sequence[TensorSpec], known: Collection[str | None], size: int) -> list[Finding]:
    """A warning for each output that is only taken for scores."""
    return [
        Finding(
            "BNF-V043",
            "warning",
            spec.name,
            f"output {spec.name!r} is taken for the scores of {spec.shape[1]} classes, so only which is the "
            "largest is compared; nothing says that it is that",
            {"output": spec.name, "values": spec.shape[1]},
            f"say which: --labels FILE, or --answers {spec.name}={SCORES} or {spec.name}={NUMBERS}",
        )
        for spec in outputs
        if spec.name not in known and is_scores(spec, size, None)
    ]


def _is_row(spec: TensorSpec) -> bool:
    return len(spec.shape) == 2 and spec.shape[1] is not None and not is_exact(spec.dtype)


def _unusable(what: str, fix: str) -> VerifyError:
    return VerifyError("BNF-V044", what, where="answers", fix=fix)
