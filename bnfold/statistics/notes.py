"""What a recalibration has to tell, as findings."""

from __future__ import annotations

from bnfold.finding import Finding, by_severity
from bnfold.statistics.held_out import HeldOut
from bnfold.statistics.pooling import Pool

_SHOWN = 3


def notes(pool: Pool) -> list[Finding]:
    """What was left out, and what stays as it was."""
    found = []
    if pool.skipped:
        batches = {one.batch for one in pool.skipped if one.whole}
        frames = sum(len(one.frames) for one in pool.skipped)
        shown = "; ".join(one.describe() for one in pool.skipped[:_SHOWN])
        more = f"; and {len(pool.skipped) - _SHOWN} more" if len(pool.skipped) > _SHOWN else ""
        found.append(
            Finding(
                "BNF-A063",
                "warning",
                pool.skipped[0].frames[0],
                f"left out of all statistics: {shown}{more}",
                {
                    "frames": frames,
                    "batches": sorted(batches),
                    "skipped": [one.to_json() for one in pool.skipped],
                },
                "give larger batches (--batch)"
                if all(one.lone for one in pool.skipped)
                else "look at these frames: training may have met their like",
            )
        )
    if pool.frames == 1:
        found.append(
            Finding(
                "BNF-A072",
                "warning",
                "frames",
                "the new statistics are those of one frame, and describe no other",
                {"frames": 1},
                "give frames that differ as those of use do, hundreds rather than tens",
            )
        )
    for name, reason in {**pool.foreign, **pool.untouched}.items():
        found.append(
            Finding(
                "BNF-A064",
                "warning",
                name,
                f"not recalibrated: {reason}",
                {},
                "its statistics stay as they were: see that they fit the new ones of the others",
            )
        )
    for name in pool.entangled:
        found.append(
            Finding(
                "BNF-A065",
                "info",
                name,
                "its calls depend on each other, so that its statistics are those of calls that were "
                "normalised by their batch",
                {},
                "one BatchNorm per place has exact statistics",
            )
        )
    return found


def judged(findings: list[Finding], held_out: HeldOut | None) -> list[Finding]:
    """The findings, and what the held-out frames say, errors first."""
    found = list(findings)
    if held_out is None:
        return [*found, not_judged("no frame can be used for a comparison")]
    if held_out.worse:
        found.append(
            Finding(
                "BNF-A066",
                "error",
                "held-out frames",
                f"the network is worse than before: {held_out.worse}",
                held_out.to_json(),
                "give more frames, in larger and mixed batches, or recalibrate layer by layer (--sequential)",
            )
        )
    elif held_out.after.finite < held_out.frames:
        found.append(
            Finding(
                "BNF-A067",
                "warning",
                "held-out frames",
                f"the outputs of {held_out.frames - held_out.after.finite} of {held_out.frames} frames are "
                "not finite, as before",
                held_out.to_json(),
                "the cause is not in the running statistics, or not in them alone: bnfold diagnose names it",
            )
        )
    return by_severity(found)


def not_judged(why: str) -> Finding:
    """That nothing says whether the network is better."""
    return Finding(
        "BNF-A068",
        "info",
        "held-out frames",
        f"before and after were not compared: {why}",
        {},
        "give frames that the statistics are not taken from",
    )
