"""Train the locator on frames of the home environment, and write frames of home and of eight new places.

    python sample_models/robot_camera/train.py

Adam with a one-cycle learning rate, batches of 64, frames mirrored at random. Seeded: on the same machine
and versions the same files come out. Writes locator.safetensors and frames/NAME.npz, and prints the error in
pixels on 512 frames of each environment that nothing has seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import camera  # noqa: E402
import training  # noqa: E402
from model import WIDTH, locator  # noqa: E402

BATCH = 64
PEAK_RATE = 4e-3
TRAINING_SEED, TEST_SEED, KEPT_SEED = 1, 2, 3
KEPT = 64
# The answers are around the middle of the frame, and tens of pixels apart.
_MIDDLE, _SPREAD = (32.0, 26.0), 16.0


def tensors(frames: camera.Frame) -> torch.Tensor:
    """Frames as the network takes them: float32 (count, 3, 48, 64), pixels divided by 255."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def mirrored(
    images: torch.Tensor, places: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half of the frames with left and right exchanged, and their places with them."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    flipped = torch.stack([WIDTH - places[:, 0], places[:, 1]], dim=1)
    return (
        torch.where(chosen[:, None, None, None], images.flip(3), images),
        torch.where(chosen[:, None], flipped, places),
    )


@torch.no_grad()
def error(model: nn.Module, frames: camera.Frame, places: np.ndarray) -> tuple[float, float]:
    """Median and 90th percentile of the distance in pixels, in eval mode."""
    training_mode = model.training
    model.eval()
    answers = torch.cat([model(part) for part in tensors(frames).split(256)])
    model.train(training_mode)
    apart = np.linalg.norm(answers.numpy() - places, axis=1)
    return float(np.median(apart)), float(np.quantile(apart, 0.9))


def trained(frames: camera.Frame, places: np.ndarray, epochs: int) -> nn.Module:
    """The network after training on these."""
    torch.manual_seed(1)
    model = locator().train()
    last = model.head[-1]  # type: ignore[index]
    with torch.no_grad():  # begin at the middle of the frame
        last.weight.mul_(_SPREAD)
        last.bias.copy_(torch.tensor(_MIDDLE))
    images, targets = tensors(frames), torch.from_numpy(places)
    steps = -(-len(images) // BATCH) * epochs
    optimizer = torch.optim.Adam(model.parameters(), PEAK_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(2)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            batch, wanted = mirrored(images[chosen], targets[chosen], generator)
            loss = F.smooth_l1_loss(model(batch), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        print(f"epoch {epoch + 1}: loss {total / len(images):.3f}", flush=True)
    return model.eval()


def main() -> None:
    """Train, save, and say how far off the answers are."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--output", type=Path, default=HERE, help="folder to write to (default: here)")
    options.add_argument("--frames", type=training.positive, default=8192, help="to train on; default: 8192")
    options.add_argument("--epochs", type=training.positive, default=24, help="default: 24")
    given = options.parse_args()
    torch.set_num_threads(1)
    model = trained(*camera.many(camera.HOME, given.frames, TRAINING_SEED), given.epochs)
    training.keep(model, given.output / "locator.safetensors")
    folder = given.output / "frames"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, environment) in enumerate(camera.ENVIRONMENTS.items()):
        frames, places = camera.many(environment, KEPT, KEPT_SEED + 10 * number)
        np.savez_compressed(folder / f"{name}.npz", image=frames)
        np.save(folder / f"{name}_places.npy", places)
        median, most = error(model, *camera.many(environment, 512, TEST_SEED))
        print(f"{name:<13} median {median:5.2f} px, 90% within {most:5.2f} px", flush=True)


if __name__ == "__main__":
    main()
