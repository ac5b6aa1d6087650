"""Every micro-graph reaches exactly what is written of it, and computes what the network computes."""

from __future__ import annotations

import re

import pytest

from tests.fold.micro_graphs import (
    activations,
    borders,
    joins,
    linears,
    moves,
    pooling,
    sharing,
    transposed,
)
from tests.fold.micro_graphs.micro import RUNS, Micro, check
from tests.fold.micro_graphs.the_25 import TABLE

FAMILIES = (transposed, linears, sharing, borders, activations, pooling, joins, moves)
THROUGH = [(family.__name__.rpartition(".")[2], graph) for family in FAMILIES for graph in family.THROUGH]


def test_all_25_are_there() -> None:
    numbers = [int(re.sub(r"[a-z]", "", number)) for number in TABLE]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 26))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("number", TABLE)
def test_the_25(number: str, run: str) -> None:
    check(TABLE[number], run)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("graph", [pytest.param(one, id=f"{family}: {one.name}") for family, one in THROUGH])
def test_through(graph: Micro, run: str) -> None:
    check(graph, run)
