"""What a planter gives: the evidence that a user would hold, and what is really the matter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from bnfold import modelspec

State = dict[str, torch.Tensor]

WHOLE = "state_dict"
"""The name of a state dict that is a whole file."""

Remedy = Literal[
    "recalibrate",  # reset, then estimate anew from data
    "plain_weights",  # use the state dict beside the averaged one
    "debias",  # divide the initial value out; needs no data
    "floor_variance",  # or take the channel out
    "float32",  # keep single precision, fold in double, cast last
    "one_norm_per_call",
    "momentum",  # 1 - sqrt(1 - m)
    "restore",  # the statistics of the file before
    "merge",  # by counts
    "population_statistics",  # give the layer buffers, export again
    "adapt",  # the frames changed: collect and adapt, or mend the camera
]


@dataclass(frozen=True)
class Files:
    """Evidence on disk.

    Attributes:
        checkpoint: safetensors, or torch's format where the file has several state dicts.
        against: the second checkpoint.
        frames: ``.npy``, float32, the first axis counts the frames.
        deployment: the same of frames from the device.
        options: ``--model`` and what else the command line needs to build the network.
    """

    checkpoint: Path
    against: Path | None
    frames: Path
    deployment: Path | None
    options: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """What is at hand to find a fault with.

    Attributes:
        sample: name of the sample model.
        model: the network, as ``FILE.py:NAME``.
        model_args: keyword arguments of NAME.
        states: the state dicts in the checkpoint, by name; a file that is one state dict has the name WHOLE.
        against: the state dict of a second file (pretrained, another rank), or None.
        steps: optimiser steps of the whole training, where known.
        frames: training-like frames that no statistics have seen, float32 (count, ...).
        deployment: frames from the device, or None.
    """

    sample: str
    model: str
    states: dict[str, State]
    frames: torch.Tensor
    model_args: Mapping[str, Any] = field(default_factory=dict)
    against: State | None = None
    steps: int | None = None
    deployment: torch.Tensor | None = None

    def module(self, state: str | None = None) -> nn.Module:
        """The network with the state dict of that name (default: the first), in eval mode."""
        module = modelspec.build(self.model, dict(self.model_args))
        module.load_state_dict(self.states[state or next(iter(self.states))])
        return module.eval()

    def write(self, folder: Path) -> Files:
        """Write the files into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        if list(self.states) == [WHOLE]:
            checkpoint = folder / "model.safetensors"
            _save(self.states[WHOLE], checkpoint)
        else:
            checkpoint = folder / "model.pt"
            torch.save(self.states, checkpoint)
        against = deployment = None
        if self.against is not None:
            against = folder / "against.safetensors"
            _save(self.against, against)
        frames = folder / "frames.npy"
        np.save(frames, self.frames.numpy())
        if self.deployment is not None:
            deployment = folder / "deployment.npy"
            np.save(deployment, self.deployment.numpy())
        options = ["--model", self.model]
        if self.model_args:
            options += ["--model-args", json.dumps(dict(self.model_args))]
        return Files(checkpoint, against, frames, deployment, tuple(options))


def _save(state: State, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, path)


@dataclass(frozen=True)
class PlantedFault:
    """One cause of the catalogue, planted.

    Attributes:
        cause: 1 to 17, as the catalogue counts.
        seed: what it was planted with.
        evidence: what the user holds.
        state: which of the evidence's state dicts is broken.
        layer: path of the first BatchNorm to blame, in order of execution.
        channels: the channels of it to blame, or None where it is no matter of single channels.
        remedy: what helps.
        how: what happened, in a sentence.
        effects: for causes 9, 12, 14 and 17, how far each layer's statistics are from the right ones, as they
            run (see ``norms.effect``); `layer` is the first one where that is clearly too much. For 17, how
            far what the layer reads of the deployment frames is from its statistics.
    """

    cause: int
    seed: int
    evidence: Evidence
    state: str
    layer: str
    channels: tuple[int, ...] | None
    remedy: Remedy
    how: str
    effects: Mapping[str, float] = field(default_factory=dict)

    def module(self) -> nn.Module:
        """The broken network, in eval mode."""
        return self.evidence.module(self.state)
