from __future__ import annotations

import pickle

import pytest

from bnfold import errors
from bnfold.errors import BnfoldError, CheckpointError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BnfoldError)]


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = CheckpointError("BNF-L010", "12 keys missing", where="checkpoint", fix="--strip-prefix m.")
    assert str(error).splitlines() == [
        "[BNF-L010] 12 keys missing",
        "  where  checkpoint",
        "  fix    --strip-prefix m.",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_cross_process_borders_whole(kind: type[BnfoldError]) -> None:
    error = pickle.loads(pickle.dumps(kind("BNF-X999", "what", where="where", fix="fix")))
    assert type(error) is kind
    assert (error.code, error.what, error.where, error.fix) == ("BNF-X999", "what", "where", "fix")


def test_exit_statuses() -> None:
    assert {kind.__name__: kind.exit_status for kind in KINDS if kind.exit_status != 2} == {
        "StatisticsError": 1,
        "InternalError": 3,
    }
