"""Prefixes are named, never stripped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bnfold.checkpoint import load, load_with_notes
from tests.checkpoint.files import KEYS, Net, assert_holds, error_of, prefixed, saved, trained


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model._orig_mod.", "net.backbone."]
)
def test_a_prefix_is_named_with_its_fix(tmp_path: Path, prefix: str) -> None:
    path = saved(tmp_path / "a.ckpt", {"state_dict": prefixed(prefix, trained())})
    error = error_of(lambda: load(path, Net), "L010")
    assert error.what == "7 keys missing and 7 unexpected; they differ by one prefix"
    assert error.fix == f"--strip-prefix {prefix}"
    assert_holds(load(path, Net, strip_prefix=prefix), trained())
    assert_holds(load(path, Net, strip_prefix=prefix.removesuffix(".")), trained())


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    module = Net()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    path = saved(tmp_path / "a.pt", prefixed("module.", trained()))
    error_of(lambda: load(path, module), "L010")
    assert_holds(module, before)


def test_an_averaged_model_of_torch(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(Net())
    averaged.module.load_state_dict(trained())
    path = saved(tmp_path / "a.pt", averaged.state_dict())
    assert "module." in error_of(lambda: load(path, Net), "L010").fix
    loaded = load_with_notes(path, Net, strip_prefix="module.")
    assert [(note.code, note.evidence) for note in loaded.notes] == [
        ("BNF-L105", {"left_out": ["n_averaged"]})
    ]
    assert_holds(loaded.module, trained())


def test_data_parallel(tmp_path: Path) -> None:
    wrapped = torch.nn.DataParallel(Net())
    wrapped.module.load_state_dict(trained())
    path = saved(tmp_path / "a.pt", wrapped.state_dict())
    assert error_of(lambda: load(path, Net), "L010").fix == "--strip-prefix module."


def test_a_prefix_and_another_network_besides(tmp_path: Path) -> None:
    """Most keys would fit without the prefix: worth saying, though it is not the whole cause."""
    state = prefixed("module.", {k: v for k, v in trained().items() if not k.startswith("fc")})
    path = saved(tmp_path / "a.pt", state)
    error = error_of(lambda: load(path, Net), "L011")
    assert error.fix == "--strip-prefix module. makes 6 keys fit; the rest needs another --model"
    stripped = error_of(lambda: load(path, Net, strip_prefix="module."), "L011")
    assert stripped.where == 'missing "fc.weight", "fc.bias"'


def test_a_prefix_shared_by_chance_is_not_suggested(tmp_path: Path) -> None:
    state = {"other.conv.weight": torch.ones(1), "other.x": torch.ones(1)}
    assert error_of(lambda: load(saved(tmp_path / "a.pt", state), Net), "L011").fix == (
        "is it the right --model?"
    )


@pytest.mark.parametrize("key", KEYS)
def test_one_key_missing(tmp_path: Path, key: str) -> None:
    path = saved(tmp_path / "a.pt", {k: v for k, v in trained().items() if k != key})
    error = error_of(lambda: load(path, Net), "L011")
    assert error.what == "1 key missing and 0 unexpected: a.pt shares 7 of the model's 8 keys"
    assert error.where == f'missing "{key}"'


def test_unexpected_keys(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", trained() | {f"aux.{i}": torch.ones(1) for i in range(5)})
    error = error_of(lambda: load(path, Net), "L011")
    assert error.where == 'unexpected "aux.0", "aux.1" and 3 more'


def test_a_very_long_key_does_not_flood_the_terminal(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", trained() | {"x" * 100_000: torch.ones(1), "\x1b[2J": torch.ones(1)})
    assert "\x1b" not in str(error_of(lambda: load(path, Net), "L011"))


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_a_wrapper_inside_the_keys(tmp_path: Path, wrapper: str) -> None:
    state = {key.replace("bn.", f"bn.{wrapper}."): value for key, value in trained().items()}
    error = error_of(lambda: load(saved(tmp_path / "a.pt", state), Net), "L037")
    assert f'replace("{wrapper}.", "")' in error.fix
