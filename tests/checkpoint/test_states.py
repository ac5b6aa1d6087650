"""Which state dict of a checkpoint is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bnfold.checkpoint import load, load_with_notes, read
from bnfold.checkpoint.states import is_averaged
from tests.checkpoint.files import Net, State, assert_holds, error_of, prefixed, saved, trained

A, B = trained(1), trained(2)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (A, "state_dict"),
        ({"state_dict": A, "epoch": 3, "pytorch-lightning_version": "2.4"}, "state_dict"),
        ({"model": A, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, "model"),
        ({"checkpoint": {"model_state_dict": A}}, "checkpoint/model_state_dict"),
        ((A, 17), "0"),
        ({"net": A, "normalisation": {"mean": torch.ones(3), "std": torch.ones(3)}}, "net"),
        ({"weights": A, "config": {"anchors": torch.ones(3)}}, "weights"),
        ({"backbone_only": A}, "backbone_only"),
        ({"model": A, "model_ema": B}, "model"),
        ({"state_dict_ema": B, "state_dict": A}, "state_dict"),
        ({"ema": {"state_dict": B}, "model": A}, "model"),
        ({"swa_model": B, "generator": A}, "generator"),
        ({"model": A, "stats": {"seen": torch.ones(3), "name": "x"}}, "model"),
    ],
)
def test_the_obvious_one(tmp_path: Path, content: object, name: str) -> None:
    path = saved(tmp_path / "a.pt", content)
    loaded = load_with_notes(path, Net)
    assert loaded.state == name == read(path).default
    assert_holds(loaded.module, A)
    assert not loaded.module.training


def test_averaged_weights_are_offered_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"model": A, "optimizer": {}, "model_ema": B, "epoch": 2})
    (note,) = load_with_notes(path, Net).notes
    assert note.remedy == "to use it instead: --state model_ema"
    assert note.evidence == {"used": "model", "others": ["model_ema"]}
    assert_holds(load(path, Net, state="model_ema"), B)


def test_averaged_weights_alone_are_used(tmp_path: Path) -> None:
    loaded = load_with_notes(saved(tmp_path / "a.pt", {"ema_state_dict": B}), Net)
    assert loaded.state == "ema_state_dict"
    assert [note.code for note in loaded.notes] == ["BNF-L109"]
    assert_holds(loaded.module, B)


@pytest.mark.parametrize("other", [{"ema": B}, {"extra": {"x": torch.ones(3)}}, {"ema": {"model": B}}])
def test_weights_at_the_top_are_used_and_not_what_is_nested_in_them(
    tmp_path: Path, other: dict[str, object]
) -> None:
    path = saved(tmp_path / "a.pt", {**A, **other})
    loaded = load_with_notes(path, Net)
    assert_holds(loaded.module, A)
    (note,) = loaded.notes
    assert note.code == "BNF-L101"
    assert note.evidence["others"] == [name for name in read(path).state_dicts if name != loaded.state]


def test_weights_at_the_top_beside_a_key_of_their_usual_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {**A, "state_dict": B})
    loaded = load_with_notes(path, Net)
    assert_holds(loaded.module, B)
    assert loaded.notes[0].remedy == "to use it instead: --state /"
    assert_holds(load(path, Net, state="/"), A)


def test_weights_at_the_top_that_cannot_be_used_do_not_give_way_to_an_average(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {**A, "epoch": 3, "ema": B})
    error_of(lambda: load(path, Net), "L018")
    assert_holds(load(path, Net, state="ema"), B)


def test_the_weights_of_one_layer_beside_their_average(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2, bias=False)
    content = {"weight": torch.ones(2, 2), "ema": {"weight": torch.zeros(2, 2)}}
    path = saved(tmp_path / "a.pt", content)
    assert load(path, layer).weight.equal(torch.ones(2, 2))


def test_tensors_that_are_no_weights_beside_a_state_dict(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"model": A, "epoch": torch.tensor(3), "class_weights": torch.ones(3)})
    assert list(read(path).state_dicts) == ["model"]


def test_a_mapping_that_is_referred_to_again_and_again_is_looked_at_once(tmp_path: Path) -> None:
    inner: object = {"x": 1}
    for _ in range(3):
        inner = {f"k{i}": inner for i in range(400)}
    error_of(lambda: read(saved(tmp_path / "a.pt", inner)), "L015")
    twice = {f"k{i}": A for i in range(400)}
    found = read(saved(tmp_path / "c.pt", {f"k{i}": twice for i in range(400)}))
    assert list(found.state_dicts) == [f"k0/k{i}" for i in range(400)]
    circle: dict[str, object] = dict(A)
    circle["again"] = circle
    path = saved(tmp_path / "b.pt", circle)
    error_of(lambda: load(path, Net), "L018")


def test_averaged_weights_under_a_prefix_of_the_same_state_dict(tmp_path: Path) -> None:
    content = {"state_dict": prefixed("model.", A) | prefixed("model_ema.", B)}
    path = saved(tmp_path / "a.ckpt", content)
    assert error_of(lambda: load(path, Net), "L010").fix == (
        "--strip-prefix model. (or model_ema. with the averaged (EMA) weights)"
    )
    assert_holds(load(path, Net, strip_prefix="model."), A)
    assert_holds(load(path, Net, strip_prefix="model_ema."), B)


@pytest.mark.parametrize(
    "content",
    [{"generator": A, "discriminator": B}, {"model": A, "net": B}, {"ema": A, "swa": B}, [A, B]],
)
def test_several_and_none_is_obvious(tmp_path: Path, content: object) -> None:
    path = saved(tmp_path / "a.pt", content)
    error_of(lambda: load(path, Net), "L017")
    first, second = read(path).state_dicts
    assert_holds(load(path, Net, state=first), A)
    assert_holds(load(path, Net, state=second), B)


def bare_parameter(state: State) -> object:
    return {key: torch.nn.Parameter(v) if v.is_floating_point() else v for key, v in state.items()}


def test_parameters_with_gradients_are_detached(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.pt", bare_parameter(A))).pick()
    assert not any(value.requires_grad for value in found.values())
    assert found["fc.bias"].equal(A["fc.bias"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (torch.ones(2, 3), "one tensor of shape (2, 3)"),
        ({}, "an empty mapping"),
        ([1, 2], "a list of 2 items"),
        (3, "an object of type int"),
        ({"optimizer": {"state": torch.ones(3)}}, 'a mapping with "optimizer"'),
        ({"a": {"b": {"c": {"d": A}}}}, 'a mapping with "a"'),
    ],
)
def test_no_state_dict(tmp_path: Path, content: object, told: str) -> None:
    assert told in error_of(lambda: read(saved(tmp_path / "a.pt", content)), "L015").where


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s | {"fc.bias": None}, '"fc.bias" is of type NoneType'),
        (lambda s: s | {"fc.bias": [1.0]}, '"fc.bias" is of type list'),
        (lambda s: dict(enumerate(s.values())), "int 0"),
        (lambda s: {(k, 1): v for k, v in s.items()}, "tuple ('conv.weight', 1)"),
    ],
)
def test_entries_that_are_no_named_tensors(
    tmp_path: Path, change: Callable[[State], object], told: str
) -> None:
    path = saved(tmp_path / "a.pt", {"state_dict": change(A)})
    assert told in error_of(lambda: read(path), "L018").where
    # beside a good one it is known by name, and refused when it is asked for
    both = read(saved(tmp_path / "b.pt", {"model": A, "other": change(A)}))
    assert both.default == "model"
    assert told in error_of(lambda: both.pick("other"), "L018").where


@pytest.mark.parametrize(
    "name",
    ["ema", "model_ema", "ema_model", "state_dict_ema", "swa.model", "averaged_model", "EMA", "net/ema"],
)
def test_names_of_averages(name: str) -> None:
    assert is_averaged(name)


@pytest.mark.parametrize("name", ["model", "schema", "cinema", "female_net", "swan", "state_dict"])
def test_names_that_only_look_like_it(name: str) -> None:
    assert not is_averaged(name)
