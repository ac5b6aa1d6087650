"""The names that ``import bnfold`` offers, and that they stay functions whatever is imported after."""

from __future__ import annotations

import importlib
import inspect

import pytest

import bnfold

FIXED = {
    "load": "path, model, *, model_args=None, strip_prefix=None, trust_pickle=False",
    "fold": "module, example_inputs, *, dynamic_batch=False, skip=()",
    "convert": "module, example_inputs, *, to=('onnx',), output, name=None, samples=None, "
    "normalisation=None, labels=None, precision='fp32', monitor=False, dynamic_batch=False, skip=()",
    "verify": "reference, candidate, samples",
    "open": "artifact, *, threads=1",
    "audit": "module_or_state_dict",
    "recalibrate": "module, batches, *, prior=None, sequential=False",
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_signatures(name: str) -> None:
    """Every fixed parameter is there, of the same kind, with the same default; others are keyword-only."""
    namespace: dict[str, object] = {}
    exec(f"def wanted({FIXED[name]}): ...", namespace)
    wanted = inspect.signature(namespace["wanted"]).parameters  # type: ignore[arg-type]
    actual = inspect.signature(getattr(bnfold, name)).parameters
    for parameter in wanted.values():
        assert actual[parameter.name].kind == parameter.kind
        assert actual[parameter.name].default == parameter.default
    positional = [p.name for p in actual.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [p.name for p in wanted.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    for extra in actual.keys() - wanted.keys():
        assert actual[extra].kind is inspect.Parameter.KEYWORD_ONLY
        assert actual[extra].default is not inspect.Parameter.empty


@pytest.mark.parametrize("name", ["fold", "convert", "verify"])
def test_a_function_is_not_replaced_by_the_module_of_its_name(name: str) -> None:
    importlib.import_module(f"bnfold.{name}")
    assert inspect.isfunction(getattr(bnfold, name))


def test_every_public_name_is_there_and_documented() -> None:
    assert set(bnfold.__all__) <= set(dir(bnfold))
    for name in bnfold.__all__:
        assert getattr(bnfold, name).__doc__


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fodl'"):
        bnfold.fodl  # noqa: B018
