"""The catalogue: why a network that trained well is wrong in eval mode, one code per cause.

A finding of any command names its cause by these codes. Where the evidence at hand cannot tell causes apart,
they share the code of a group, and `Cause.separated_by` says what would tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """One cause, or a group of causes that the evidence cannot tell apart.

    Attributes:
        code: stable; what findings carry.
        numbers: of the causes in the catalogue; several for a group, none for what is not in it.
        title: what went wrong, in a few words.
        separated_by: for a group, the evidence that would name the one; else empty.
    """

    code: str
    numbers: tuple[int, ...]
    title: str
    separated_by: str = ""


NON_FINITE = Cause("BNF-A001", (1,), "a batch that was not finite entered the running statistics")
POISONED_COPY = Cause("BNF-A002", (2,), "an averaged copy of the weights kept statistics that are not finite")
ONE_VALUE = Cause("BNF-A003", (3,), "a training batch had one value per channel: its variance is 0 / 0")
UNCONVERGED = Cause("BNF-A004", (4,), "the running average still holds its initial value")
NEVER_UPDATED = Cause("BNF-A005", (5,), "the running statistics were never updated")
VANISHING = Cause("BNF-A006", (6,), "a channel's variance has all but vanished, and its gain is huge")
NEGATIVE = Cause("BNF-A007", (7,), "a variance is negative")
HALF_OVERFLOW = Cause("BNF-A008", (8,), "a value is out of the range of half precision")
TINY_BATCHES = Cause("BNF-A009", (9,), "training batches were too small or too alike to stand for the data")
SHARED = Cause("BNF-A010", (10,), "one BatchNorm is used at several places whose data differ")
UPDATED_TWICE = Cause("BNF-A011", (11,), "activation checkpointing updated the statistics twice per step")
DRIFTED = Cause("BNF-A012", (12,), "a frozen layer's statistics went on moving")
RANKS = Cause("BNF-A013", (13,), "the processes of a distributed training kept statistics of their own")
STALE = Cause("BNF-A014", (14,), "weights were averaged or pruned without new statistics")
BATCH_DEPENDENT = Cause("BNF-A015", (15,), "batch statistics are used in eval mode")
MISASSIGNED = Cause("BNF-A016", (16,), "the statistics are those of something else: a wrong assignment")
SHIFTED = Cause("BNF-A017", (17,), "the data in use differ from the data of training")

DIVERGED = Cause("BNF-A021", (), "a parameter is not finite: training diverged")
UNREADABLE = Cause("BNF-A027", (), "statistics are stored as no plain numbers")
NO_BATCH_NORM = Cause("BNF-A028", (), "there is no BatchNorm")

TOO_FEW = Cause("BNF-A040", (), "too few frames, or too small batches, to judge statistics by")
BROKEN = Cause("BNF-A041", (), "an operator's output is not finite, and no statistics are to blame")
LEFT_OUT = Cause("BNF-A042", (), "frames with values that no statistics survive")
NOT_COMPARED = Cause("BNF-A044", (), "the deployment frames were not compared")

UPDATED_MORE_OFTEN = Cause(
    "BNF-A031",
    (10, 11),
    "the statistics were updated more often than the network was trained",
    "the module (a BatchNorm that is used at several places), or --steps",
)
UNREPRESENTATIVE = Cause(
    "BNF-A032",
    (9, 12, 14),
    "the statistics do not describe these weights on training-like data",
    "the checkpoint that training began from (--against) tells 12; the batches of training in their order "
    "tell 9; the weights before they were averaged or pruned tell 14",
)

MOVED_APART = Cause(
    "BNF-A033",
    (12, 13),
    "the same weights with other statistics",
    "num_batches_tracked in both files: equal counts tell 13, a count that went on tells 12",
)

CATALOGUE: tuple[Cause, ...] = (
    NON_FINITE, POISONED_COPY, ONE_VALUE, UNCONVERGED, NEVER_UPDATED, VANISHING, NEGATIVE, HALF_OVERFLOW,
    TINY_BATCHES, SHARED, UPDATED_TWICE, DRIFTED, RANKS, STALE, BATCH_DEPENDENT, MISASSIGNED, SHIFTED,
    UPDATED_MORE_OFTEN, UNREPRESENTATIVE, MOVED_APART,
)  # fmt: skip
"""Every cause in the order of its number, then the groups."""
