"""What the training scripts share: their options, the data as tensors, and top-1 accuracy."""

from __future__ import annotations

import argparse
from pathlib import Path

import mnist
import numpy as np
import torch
from safetensors.torch import save
from torch import nn


def positive(text: str) -> int:
    """An option's value: a whole number from 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parser(description: str | None, output: Path) -> argparse.ArgumentParser:
    """The options that every training script has; files go to ``output`` unless told otherwise."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    options.add_argument("--output", type=Path, default=output, help="folder to write to (default: here)")
    options.add_argument("--subset", type=positive, help="only the first N images of each split")
    return options


def tensors(folder: Path, split: str, subset: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, float32 (count, 1, 28, 28), pixels divided by 255 and nothing else, and labels, int64."""
    images, labels = mnist.load(folder, split)
    pixels = images[:subset, None].astype(np.float32) / 255
    return torch.from_numpy(pixels), torch.from_numpy(labels[:subset].astype(np.int64))


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers in eval mode; the model is left in the mode it was in."""
    training = model.training
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(1) for part in images.split(500)])
    model.train(training)
    return int((answers == labels).sum()) / len(labels)


def keep(model: nn.Module, path: Path) -> None:
    """Write the state dict as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(model.state_dict()))
