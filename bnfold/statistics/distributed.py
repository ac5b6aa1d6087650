"""Several processes, each with some of the batches: started by ``torchrun``, or by hand with its variables.

    torchrun --nproc-per-node 4 -m bnfold_cli recalibrate ...

Moments are gathered from all processes as they are, in float64, and added in the order of the ranks, by each
process for itself: so all have the same. What one process raises is raised in all of them. gloo carries it
on the CPU, nccl on GPUs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from bnfold.errors import BnfoldError, PlatformError
from bnfold.statistics.pooling import Pool
from bnfold.wording import first_line

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(minutes=30)
"""How long the fastest process waits for the slowest."""


class Group:
    """The processes that share the work.

    Attributes:
        rank: of this one, from 0; the first one writes and speaks.
        size: how many there are.
    """

    rank = 0
    size = 1

    def has(self, number: int) -> bool:
        """Whether a batch is this process's."""
        return number % self.size == self.rank

    def exchange(self, pool: Pool) -> Pool:
        """The union of the pools of all processes."""
        return pool

    def together(self, work: Callable[[], T]) -> T:
        """Do what all processes do; what is raised in one is raised in all."""
        return work()


class _Processes(Group):
    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._broken = False

    def exchange(self, pool: Pool) -> Pool:
        total = Pool()
        for number, part in enumerate(self._gather(pool)):
            total = part if not number else total + part
        return total

    def together(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except BnfoldError as error:
            self._tell(error)
            raise
        except Exception as error:
            self._tell(_failed(self.rank, error))
            raise

    def _tell(self, error: BnfoldError) -> None:
        """Say it to those who wait, unless it comes from them, or they are gone."""
        if said(error) or self._broken:
            return
        with suppress(BnfoldError):  # what is raised is what happened here
            self._gather(_mark(error))

    def _gather(self, mine: Pool | BnfoldError) -> list[Pool]:
        """What each process has, in the order of the ranks.

        Raises:
            BnfoldError: what the first process that failed has raised; BNF-P060 where one is gone.
        """
        found: list[Any] = [None] * self.size
        try:
            distributed.all_gather_object(found, mine)
        except RuntimeError as error:
            self._broken = True
            raise _gone(_how(error)) from error
        errors = [one for one in found if isinstance(one, BnfoldError)]
        if errors:
            raise _mark(errors[0])
        return found


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[Group]:
    """The group that this process is of: of one where nothing says that there are several.

    Raises:
        PlatformError: the group cannot be set up (BNF-P061), or another of its processes is gone (BNF-P060).
    """
    if not there():
        yield Group()
        return
    backend = "nccl" if device is not None and device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise PlatformError(
            "BNF-P061",
            f"the group of processes cannot be set up: {first_line(error, 150)}",
            where=", ".join(f"{name}={os.environ.get(name, '')}" for name in _VARIABLES),
            fix="torchrun --nproc-per-node N -m bnfold_cli recalibrate ...",
        ) from error
    before = signal.signal(signal.SIGTERM, _terminated)  # what torchrun sends when another process has ended
    try:
        yield _Processes()
    finally:
        signal.signal(signal.SIGTERM, before)
        distributed.destroy_process_group()


def there() -> bool:
    """Whether this process was started as one of several. Imports nothing and asks nobody."""
    return all(os.environ.get(name) for name in ("RANK", "WORLD_SIZE")) and (
        os.environ["WORLD_SIZE"] != "1" or "TORCHELASTIC_RUN_ID" in os.environ
    )


def _terminated(number: int, frame: object) -> None:
    raise _gone("this one was told to end, as torchrun does when another has ended")


def _gone(how: str) -> PlatformError:
    return PlatformError(
        "BNF-P060",
        f"another process of the group is gone: {how}",
        where=f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')}",
        fix="see what the other process said, and start all of them again; nothing was written",
    )


def _how(error: RuntimeError) -> str:
    """The transport's words without the place in its source."""
    words = str(error).lower()
    if "timed out" in words or "timeout" in words:
        return f"it did not answer for {PATIENCE.total_seconds() / 60:.0f} minutes"
    if "connection" in words:
        return "the connection to it is closed"
    return first_line(error, 100)


def _failed(rank: int, error: Exception) -> PlatformError:
    return PlatformError(
        "BNF-P062",
        f"the process of rank {rank} failed: {first_line(error, 150)}",
        fix="see what it said itself: its report stands on its own standard error",
    )


def said(error: BaseException) -> bool:
    """Whether all processes know of the error, so that the first one reports it."""
    return bool(getattr(error, "said", False))


def _mark(error: BnfoldError) -> BnfoldError:
    error.said = True  # type: ignore[attr-defined]
    return error
