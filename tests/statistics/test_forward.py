from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, batch_norm, nn

import bnfold
from bnfold.statistics import observe
from bnfold.statistics.batches import Batches
from bnfold.statistics.forward import Forward

from .mixed_networks import Mixed, drawn, frames, statistics_of


class ByName(nn.Module):
    """Reaches the operator by a name of its own, and not in the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(2)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("variance", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return batch_norm(x + 1, None, None, self.mean, self.variance, False, 0.1, 1e-5, False)


@pytest.mark.parametrize("sequential", [False, True])
def test_no_call_is_missed_for_speed(sequential: bool) -> None:
    batches = frames(4, 5, 6, 3)
    result = bnfold.recalibrate(ByName(), batches, sequential=sequential)
    assert [(layer.name, layer.values) for layer in result.layers] == [("first", 18 * 81), ("mean", 18 * 81)]
    mean, _ = statistics_of(batches)
    torch.testing.assert_close(result.module.first.running_mean, torch.tensor(mean).float())
    if sequential:
        torch.testing.assert_close(result.module.mean, torch.ones(2), rtol=1e-4, atol=1e-4)


class Branching(nn.Module):
    """Large frames take another way."""

    def __init__(self) -> None:
        super().__init__()
        self.every, self.large = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.every(x)
        return self.large(x) if x.shape[-1] > 5 else x


def test_batches_may_take_different_ways() -> None:
    small, large = frames(4, 5, 2, size=5), frames(3, 6, size=9)
    batches = [small[0], large[0], small[1], large[1], small[2]]
    result = bnfold.recalibrate(Branching(), batches)
    assert {layer.name: layer.values for layer in result.layers} == {
        "every": 11 * 25 + 9 * 81,
        "large": 9 * 81,
    }
    mean, variance = statistics_of([x.transpose(0, 1).reshape(1, 2, -1) for x in batches])
    torch.testing.assert_close(result.module.every.running_mean, torch.tensor(mean).float())
    torch.testing.assert_close(result.module.every.running_var, torch.tensor(variance).float())
    assert result.not_recalibrated == {}


def test_torch_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an exception, and for other threads while it lasts."""
    import threading

    original, answers = torch.batch_norm, []
    module = drawn(Mixed())
    x = frames(3)[0]

    def answer(call: observe.Call) -> Tensor:
        thread = threading.Thread(target=lambda: answers.append(module(x)))
        thread.start()
        thread.join()
        return call.as_called()

    with torch.no_grad(), observe.answering(module, answer, named=False):
        inside = module(x)
    assert torch.batch_norm is original
    assert len(answers) == 5
    assert all(torch.equal(inside, other) for other in answers)

    def fail(call: observe.Call) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), observe.answering(module, fail, named=False):
        module(x)
    assert torch.batch_norm is original


def test_passes_with_and_without_names_see_the_same() -> None:
    module = drawn(Mixed())
    forward = Forward(module)
    batch: Any
    (batch,) = Batches(frames(5), module)
    first, second = (forward.pool(batch, guard="batch")[0] for _ in range(2))
    assert first.targets == second.targets
    assert first.moments.both.tolist() == second.moments.both.tolist()


def test_batches_are_not_kept() -> None:
    """Memory does not depend on how many there are."""
    import weakref

    alive: list[weakref.ref[Tensor]] = []

    def source() -> Any:
        for index in range(12):
            batch = frames(3, seed=index)[0]
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            assert sum(ref() is not None for ref in alive) <= 2

    bnfold.recalibrate(drawn(Mixed()), source())
    assert len(alive) == 12
