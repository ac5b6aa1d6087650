"""``bnfold bench`` where there is no torch."""

from __future__ import annotations

import pytest

from .conftest import Case, Cli

pytestmark = pytest.mark.device


def test_bench_measures_here(digits: Case, cli: Cli) -> None:
    result = cli("bench", digits.path, "--count", 100, "--p90-max", "10s", "--format", "json")
    assert (result.status, result.err) == (0, "")
    document = result.document
    assert document["runtime"] == digits.model.runtime
    assert document["latency"]["with_preprocessing"]["p90_ms"] > 0
    assert document["cold_start"]["peak_memory_bytes"] > 10e6


def test_bench_starts_a_fresh_process_in_every_interpreter(digits: Case, cli: Cli) -> None:
    name = digits.model.runtime.rpartition(" ")[0]
    result = cli("bench", digits.path, "--count", 1, "--runtime", name, "--threads", 2, "--format", "json")
    assert result.status == 0
    assert result.document["threads"] == 2
    assert result.document["latency"]["with_preprocessing"]["p90_ms"] is None
