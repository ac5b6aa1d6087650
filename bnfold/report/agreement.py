"""How a file of a lower precision agrees with the network, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnfold.report.style import Style
from bnfold.report.table import table

Document = Mapping[str, Any]

_SHOWN = 3


def render_agreement(rows: Sequence[Document], losses: Sequence[Document], style: Style) -> str:
    """One row per file, interpreter and output; then the layers that lose most, per file."""
    if not rows:
        return ""
    cells = [
        (
            f"{row['candidate']} {row['precision']}" + ("" if row["role"] == "clean" else f" {row['role']}"),
            row["runtime"],
            row["output"],
            f"{row['agreement']:.2%} of {row['counted']}",
            "top-1" if row["kind"] == "top-1" else "values",
            _cosine(row["cosine"]),
            "exact" if row["snr_db"] is None else f"{row['snr_db']:.1f} dB",
            "passed" if row["passed"] else "FAILED",
        )
        for row in rows
    ]
    headers = ("candidate", "runtime", "output", "agree", "in", "cosine", "SNR", "")
    lines = [
        style.paint(f"Agreement with float32, at least {_least(rows)}", "bold"),
        table(headers, cells, style, right=("agree", "cosine", "SNR")),
    ]
    shown = _losses(losses, style)
    return "\n".join(lines + ([shown] if shown else []))


def _least(rows: Sequence[Document]) -> str:
    return " and ".join(f"{least:.2%}" for least in sorted({row["min_agreement"] for row in rows}))


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def _losses(losses: Sequence[Document], style: Style) -> str:
    """The layers that add most noise, a row each."""
    if not losses:
        return ""
    cells = []
    for target in dict.fromkeys(loss["target"] for loss in losses):
        for loss in [one for one in losses if one["target"] == target][:_SHOWN]:
            cells.append(
                (target, loss["layer"], loss["operator"], f"{loss['snr_db']:.1f} dB", f"{loss['share']:.0%}")
            )
    headers = ("file", "loses most in", "operator", "SNR", "of the noise")
    return "\n" + table(headers, cells, style, right=("SNR", "of the noise"))
