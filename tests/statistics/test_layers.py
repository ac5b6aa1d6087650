from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.statistics.layers import Layer, layers_of


class Frozen(nn.Module):
    """As detection code writes it: everything is a buffer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.ones(channels))
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.zeros(channels))


def _network() -> nn.Sequential:
    shared = nn.BatchNorm2d(3, momentum=0.2)
    network = nn.Sequential(shared, nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), shared, Frozen(4))
    network.add_module("last", nn.BatchNorm1d(2, track_running_stats=False))
    network.add_module("instance", nn.InstanceNorm2d(2, track_running_stats=True))
    return network


def test_a_module_gives_one_layer_per_batch_norm_in_order() -> None:
    layers = layers_of(_network())
    assert [layer.name for layer in layers] == ["0", "2", "4", "last"]
    assert [layer.channels for layer in layers] == [3, 4, 4, 2]
    assert layers[0].aliases == ("3",)
    assert (layers[0].momentum, layers[0].eps, layers[0].updates) == (0.2, 1e-5, 0)
    assert layers[1].weight is None
    assert layers[2].momentum is None
    assert layers[3].mean is None


def test_a_state_dict_gives_the_same_numbers() -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3))
    with torch.no_grad():
        module[1].running_var.copy_(torch.tensor([0.1, 2.0, -3.0]))
    from_module, from_state = layers_of(module)[0], layers_of(module.state_dict())[0]
    assert from_state.name == from_module.name == "1"
    assert from_state.variance is not None
    assert from_state.variance.dtype == np.float64
    assert np.array_equal(from_state.variance, from_module.variance)
    assert from_state.key("running_var") == "1.running_var"
    assert (from_module.known, from_state.known) == (True, False)


def test_the_stored_type_is_kept_in_mind() -> None:
    state = nn.BatchNorm1d(2).half().state_dict()
    (layer,) = layers_of(state)
    assert (layer.name, layer.dtype, layer.key("running_var")) == ("", "float16", "running_var")


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="not a list"):
        layers_of([1, 2])
    state = nn.BatchNorm1d(2).state_dict()
    with pytest.raises(TypeError, match="mappings: model, ema"):
        layers_of({"model": state, "ema": state, "epoch": 3})
    assert len(layers_of({**state, "_extra_state": {"any": 1}})) == 1
    assert layers_of({}) == []


def test_a_layer_without_statistics_has_no_channels() -> None:
    assert Layer("a", None, None).channels == 0
