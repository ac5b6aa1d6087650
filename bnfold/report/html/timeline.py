"""How far each frame is from training, in the order of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bnfold.drift import Evidence
from bnfold.report.html import plots
from bnfold.report.html.page import Plot
from bnfold.report.style import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 400  # frames that are drawn one by one; of more, groups
_HEIGHT = 190.0
_BAND = (5, 95)  # percent of the held-out frames


def timeline(evidence: Evidence, block: int) -> Plot:
    """The course of time, with the band of the held-out frames where there are any.

    Args:
        evidence: with at least one tested frame.
        block: frames of one scene.
    """
    distances, held = evidence.distances, evidence.held_out_distances

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        if len(held):
            low, high = np.percentile(held, _BAND)
            axes.axhspan(low, high, color=plots.MAIN, alpha=0.25, linewidth=0, label="90% of held-out frames")
        _course(axes, evidence)
        axes.set_ylim(0, 1.1 * max(float(distances.max()), float(held.max(initial=0.0)), 1e-6))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("frame, in order")
        axes.set_ylabel("distance from training")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        plots.legend(figure, axes)

    beyond = float((distances > np.percentile(held, _BAND[1])).mean()) if len(held) else None
    said = f"; {beyond:.0%} are beyond 95% of the held-out ones" if beyond is not None else ""
    svg = plots.draw(
        _HEIGHT,
        paint,
        alt=f"Distance from training of {plural(len(distances), 'frame')} in order, from "
        f"{distances.min():.2f} to {distances.max():.2f}{said}",
    )
    unit = (
        "in deviations between the held-out frames"
        if len(held)
        else "in deviations of the population statistics, which are larger than those between frames"
    )
    scenes = f" {block} successive frames count as one scene." if block > 1 else ""
    return Plot(
        "In the order of time",
        f"The root mean square over a layer's channels of how far a frame's means lie from training, "
        f"averaged over the layers; {unit}.{scenes}",
        svg,
    )


def _course(axes: Axes, evidence: Evidence) -> None:
    distances, frames = evidence.distances, evidence.tested
    if len(frames) > _MOST:
        groups = np.array_split(np.arange(len(frames)), _MOST // 2)
        at = [float(frames[group].mean()) for group in groups]
        axes.fill_between(
            at, [distances[g].min() for g in groups], [distances[g].max() for g in groups],
            color=plots.SECOND, alpha=0.35, linewidth=0, label="smallest to largest",
        )  # fmt: skip
        axes.plot(at, [np.median(distances[g]) for g in groups], color=plots.SECOND, label="median")
        return
    axes.plot(frames, distances, color=plots.SECOND, linewidth=0.8)
    kept = np.zeros(len(frames), dtype=bool)
    kept[evidence.kept] = True
    axes.plot(frames[kept], distances[kept], "o", color=plots.SECOND, markersize=3, label="these frames")
    if not kept.all():
        axes.plot(
            frames[~kept], distances[~kept], "o", color=plots.SECOND, markersize=3, markerfacecolor="none",
            label="repeats",
        )  # fmt: skip
