"""Shapes, dtypes, shared and special tensors; a model is filled whole or left as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bnfold.checkpoint import load, load_with_notes
from tests.checkpoint.files import KEYS, Net, State, assert_holds, error_of, saved, trained


def clones(module: nn.Module) -> State:
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("change", ["one more", "one less", "an axis more", "a scalar"])
def test_a_wrong_shape_is_refused_and_nothing_is_written(tmp_path: Path, key: str, change: str) -> None:
    good = trained()[key]
    bad = {
        "one more": torch.cat([good, good[:1]]),
        "one less": good[1:],
        "an axis more": good[None],
        "a scalar": good.sum(),
    }[change]
    module = Net()
    before = clones(module)
    path = saved(tmp_path / "a.pt", trained() | {key: bad})
    error = error_of(lambda: load(path, module), "L012")
    sizes = "x".join(map(str, bad.shape)) or "scalar"
    assert error.where == f'checkpoint "{key}" {sizes}, model {"x".join(map(str, good.shape))}'
    assert_holds(module, before)


@pytest.mark.parametrize(
    "kind", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64]
)
@pytest.mark.parametrize("key", ["conv.weight", "bn.running_var"])
def test_a_dtype_of_another_kind_is_refused(tmp_path: Path, key: str, kind: torch.dtype) -> None:
    path = saved(tmp_path / "a.pt", trained() | {key: trained()[key].to(kind)})
    error = error_of(lambda: load(path, Net), "L013")
    assert error.what.startswith(f'"{key}" is {str(kind)[6:]} in a.pt and float32')


FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2, torch.float8_e4m3fn]


@pytest.mark.parametrize("have", FLOATS)
@pytest.mark.parametrize("want", FLOATS)
def test_floats_are_converted_and_it_is_said_whether_exactly(
    tmp_path: Path, have: torch.dtype, want: torch.dtype
) -> None:
    weight = torch.tensor([[1.0, -0.5], [0.3, 200.0]], dtype=torch.float64).to(have)
    path = saved(tmp_path / "a.pt", {"weight": weight})
    model = nn.Linear(2, 2, bias=False).to(want)
    loaded = load_with_notes(path, model)
    assert torch.equal(loaded.module.weight.double(), weight.to(want).double())
    exact = {
        torch.float64: FLOATS,
        torch.float32: FLOATS[1:],
        torch.bfloat16: [torch.bfloat16, *FLOATS[4:]],
        torch.float16: FLOATS[3:],
        torch.float8_e5m2: [torch.float8_e5m2],
        torch.float8_e4m3fn: [torch.float8_e4m3fn],
    }
    expected = [] if have == want else ["BNF-L102" if have in exact[want] else "BNF-L103"]
    assert [note.code for note in loaded.notes] == expected


@pytest.mark.parametrize(
    ("value", "want", "fits"),
    [
        (65504.0, torch.float16, True),
        (65520.0, torch.float16, False),
        (float("inf"), torch.float16, True),
        (float("nan"), torch.float16, True),
        (3.4e38, torch.bfloat16, False),
        (448.0, torch.float8_e4m3fn, True),
        (1e4, torch.float8_e4m3fn, False),
    ],
)
def test_what_would_overflow_is_refused(tmp_path: Path, value: float, want: torch.dtype, fits: bool) -> None:
    path = saved(tmp_path / "a.pt", {"weight": torch.tensor([[value, 1.0]])})
    model = nn.Linear(2, 1, bias=False).to(want)
    if fits:
        got = float(load(path, model).weight[0, 0].detach().double())
        assert got == value or (got != got and value != value)
    else:
        assert f"ends at {torch.finfo(want).max:.3g}" in error_of(lambda: load(path, model), "L019").where


def test_not_a_number_loads_bit_for_bit(tmp_path: Path) -> None:
    """That it cannot be deployed is for the audit to say."""
    state = trained()
    state["bn.running_var"][0] = float("nan")
    state["bn.running_mean"][1] = float("-inf")
    state["conv.weight"].view(-1)[0] = -0.0
    assert_holds(load(saved(tmp_path / "a.pt", state), Net), state)


@pytest.mark.parametrize(
    "counter",
    [torch.tensor([7]), torch.tensor(7.0), torch.tensor(7, dtype=torch.int32), torch.tensor([[7.0]])],
)
def test_counters_of_averaging_scripts_and_of_old_torch(tmp_path: Path, counter: Tensor) -> None:
    path = saved(tmp_path / "a.pt", trained() | {"bn.num_batches_tracked": counter})
    assert_holds(load(path, Net), trained())


def test_a_legacy_file_without_counters(tmp_path: Path) -> None:
    module = Net()
    module.bn.num_batches_tracked.fill_(42)
    state = {key: value for key, value in trained().items() if not key.endswith("num_batches_tracked")}
    load(saved(tmp_path / "a.pt", state), module)
    assert int(module.bn.num_batches_tracked) == 42
    assert module.bn.running_var.equal(trained()["bn.running_var"])


def test_a_counter_that_the_model_lacks(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", nn.Linear(2, 2).state_dict() | {"num_batches_tracked": torch.tensor(3)})
    (note,) = load_with_notes(path, nn.Linear(2, 2)).notes
    assert (note.code, note.evidence) == ("BNF-L104", {"missing": 0, "superfluous": 1})


def test_integers_that_fit_are_taken(tmp_path: Path) -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("index", torch.zeros(3, dtype=torch.int64))

    path = saved(tmp_path / "a.pt", {"index": torch.tensor([1, 2, 300], dtype=torch.int32)})
    assert load(path, Table).index.tolist() == [1, 2, 300]
    small = Table()
    small.index = small.index.to(torch.int8)
    error_of(lambda: load(path, small), "L013")


class Tied(nn.Module):
    """One weight under two names; `late` puts the stored name first or last."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3, bias=False)
        self.b = nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight


@pytest.mark.parametrize("stored", [("a",), ("b",), ("a", "b")])
def test_a_shared_parameter_gets_the_stored_value_whatever_its_name(
    tmp_path: Path, stored: tuple[str, ...]
) -> None:
    weight = torch.arange(9.0).reshape(3, 3)
    module = load(saved(tmp_path / "a.pt", {f"{name}.weight": weight.clone() for name in stored}), Tied)
    assert module.a.weight is module.b.weight
    assert module.a.weight.equal(weight)


def test_a_shared_parameter_with_not_a_number_in_it(tmp_path: Path) -> None:
    weight = torch.full((3, 3), float("nan"))
    path = saved(tmp_path / "a.pt", {"a.weight": weight, "b.weight": weight.clone()})
    assert load(path, Tied).a.weight.isnan().all()


def test_a_module_used_under_two_names(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.BatchNorm1d(2)
            self.second = self.first

    state = {f"first.{key}": value for key, value in nn.BatchNorm1d(2).state_dict().items()}
    state["first.running_var"] = torch.tensor([2.0, 3.0])
    assert load(saved(tmp_path / "a.pt", state), Twice).second.running_var.tolist() == [2.0, 3.0]


class Grid(nn.Module):
    """A buffer that is not saved, beside a weight."""

    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("grid", torch.tensor([1.0, 2.0]), persistent=persistent)


def test_buffers_that_are_not_saved_keep_their_values(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"weight": torch.ones(2)})
    module = load(path, Grid)
    assert module.grid.tolist() == [1.0, 2.0]
    assert module.weight.tolist() == [1.0, 1.0]
    # saved when it still was: used nowhere, so it is refused and named
    old = saved(tmp_path / "b.pt", {"weight": torch.ones(2), "grid": torch.zeros(2)})
    assert error_of(lambda: load(old, Grid), "L011").where == 'unexpected "grid"'
    assert error_of(lambda: load(path, Grid(persistent=True)), "L011").where == 'missing "grid"'


def test_a_lazy_layer_takes_the_shape_of_the_file(tmp_path: Path) -> None:
    source = nn.Linear(3, 4)
    module = load(saved(tmp_path / "a.pt", source.state_dict()), nn.LazyLinear(4))
    assert module.weight.equal(source.weight)


def test_a_model_without_data_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", trained())
    with torch.device("meta"):
        module = Net()
    assert "to_empty" in error_of(lambda: load(path, module), "L038").fix


class Stumbles(Net):
    """Its last layer's loading fails after the others are written."""

    def __init__(self) -> None:
        super().__init__()
        self.fc.register_load_state_dict_pre_hook(self.stumble)

    @staticmethod
    def stumble(*_: object) -> None:
        raise OSError("no such device")


def test_a_module_that_refuses_midway_is_left_as_it_was(tmp_path: Path) -> None:
    module = Stumbles()
    before = clones(module)
    error = error_of(lambda: load(saved(tmp_path / "a.pt", trained()), module), "L039")
    assert error.where == "OSError: no such device"
    assert_holds(module, before)


def test_views_and_strides_of_the_file_do_not_matter(tmp_path: Path) -> None:
    state = trained()
    state["conv.weight"] = state["conv.weight"].to(memory_format=torch.channels_last)
    state["fc.weight"] = state["fc.weight"].t().contiguous().t()
    big = torch.zeros(100)
    big[40:43] = state["fc.bias"]
    state["fc.bias"] = big[40:43]
    module = load(saved(tmp_path / "a.pt", state), Net)
    assert_holds(module, trained())
    assert module.fc.weight.is_contiguous()


def test_the_caller_keeps_gradients_and_its_file_apart(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", trained())
    module = load(path, Net)
    assert module.conv.weight.requires_grad
    with torch.no_grad():
        module.conv.weight.zero_()
    assert_holds(load(path, Net), trained())


def test_names_of_before_go_through_the_hooks_of_the_model(tmp_path: Path) -> None:
    """``weight_g`` and ``weight_v``: what torch.nn.utils.weight_norm called them."""
    from torch.nn.utils.parametrizations import weight_norm

    def built() -> nn.Module:
        return nn.Sequential(weight_norm(nn.Conv1d(3, 4, 2)), nn.BatchNorm1d(4))

    source = built()
    nn.init.uniform_(source[0].parametrizations.weight.original0)  # type: ignore[union-attr, arg-type]
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    old = dict(source.state_dict())
    for new, before in names.items():
        old[f"0.{before}"] = old.pop(f"0.{new}")
    module = load(saved(tmp_path / "a.pt", old), built)
    assert torch.equal(module[0].weight, source[0].weight)  # type: ignore[index]
    del old["0.weight_g"]
    assert "weight_v" in error_of(lambda: load(saved(tmp_path / "b.pt", old), built), "L011").where


class Rewritten(nn.Module):
    """Its hook takes ``w`` for ``weight``; ``change`` is what else it does to it."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.change = nn.Parameter(torch.zeros(2)), change
        self.register_load_state_dict_pre_hook(self._before)

    @staticmethod
    def _before(module: Rewritten, state: State, prefix: str, *_: object) -> None:
        if f"{prefix}w" in state:
            state[f"{prefix}weight"] = module.change(state.pop(f"{prefix}w"))


def test_a_hook_that_computes_is_not_run_twice(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"w": torch.tensor([1.0, 2.0])})
    assert load(path, lambda: Rewritten(lambda w: w)).weight.tolist() == [1.0, 2.0]
    for change in (lambda w: w * 2, lambda w: w[3]):
        assert error_of(lambda: load(path, lambda: Rewritten(change)), "L011").where  # noqa: B023
