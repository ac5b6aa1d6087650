"""One process of several is tested in tests/cli/test_recalibrate.py; here, what a process can say alone."""

from __future__ import annotations

import os
import signal
import socket

import pytest
from torch import distributed

from bnfold.errors import PlatformError, UsageError
from bnfold.statistics.distributed import joined, said, there
from bnfold.statistics.pooling import Pool


def test_one_process_is_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not there()
    pool = Pool(frames=3)
    with joined() as group:
        assert (group.rank, group.size) == (0, 1)
        assert group.exchange(pool) is pool
        assert all(group.has(number) for number in range(5))
        assert group.together(lambda: 7) == 7
    assert not distributed.is_initialized()


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one, set up as one of several is."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    variables = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in {**variables, "TORCHELASTIC_RUN_ID": "test"}.items():
        monkeypatch.setenv(name, value)


def test_errors_and_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)
    assert there()
    before = signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        raise UsageError("BNF-U120", "no")

    with joined() as group:
        pool = Pool(frames=3)
        assert group.exchange(pool).frames == 3
        with pytest.raises(UsageError) as caught:
            group.together(fail)
        assert said(caught.value)
        with pytest.raises(ZeroDivisionError):
            group.together(lambda: 1 / 0)
        with pytest.raises(PlatformError) as ended:
            os.kill(os.getpid(), signal.SIGTERM)
        assert ended.value.code == "BNF-P060"
        assert not said(ended.value)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not distributed.is_initialized()


def test_a_group_that_cannot_be_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PlatformError) as caught, joined():
        pass
    assert caught.value.code == "BNF-P061"
    assert "WORLD_SIZE=2" in caught.value.where
