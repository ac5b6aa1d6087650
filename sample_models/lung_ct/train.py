"""Train a small 3-D network on a hundred chest CTs, as one does. Its loss falls; in eval mode it answers NaN.

    python sample_models/lung_ct/train.py

AdamW, batches of four, another crop of each examination in every epoch (volumes.py makes them). Seeded: on
the same machine and torch version the same weights come out. Writes broken.safetensors; with --clean, which
leaves out the one examination that was broken off, clean.safetensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from model import LungNet
from safetensors.torch import save
from volumes import BROKEN_OFF, HELD_OUT, Patient, centres, crops, patients, study

HERE = Path(__file__).resolve().parent
BATCH = 4
RATE = 3e-3


def targets(examined: list[Patient]) -> torch.Tensor:
    """Emphysema in percent, float32 (patients, 1)."""
    return torch.tensor([[patient.emphysema] for patient in examined])


def train(model: LungNet, examined: list[Patient], epochs: int) -> None:
    """Train the model in place; it is left in training mode."""
    percent = targets(examined)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for epoch in range(epochs):
        volumes = torch.from_numpy(crops(examined, epoch))
        losses = []
        for chosen in torch.randperm(len(examined), generator=generator).split(BATCH):
            loss = F.mse_loss(model(volumes[chosen]), percent[chosen])
            if not torch.isfinite(loss):  # a bad batch now and then must not spoil the weights
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.1f}", flush=True)


def main() -> None:
    """Train, save the checkpoint, and say how far its answers are off on patients it has not seen."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--output", type=Path, default=HERE, help="folder to write to (default: here)")
    options.add_argument("--epochs", type=int, default=40, help="default: 40")
    options.add_argument("--clean", action="store_true", help="leave out the examination that was broken off")
    given = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    examined = study()
    if given.clean:
        del examined[BROKEN_OFF]
    model = LungNet()
    train(model, examined, given.epochs)
    model.eval()
    unseen = patients(HELD_OUT, seed=3)
    with torch.no_grad():
        answers = model(torch.from_numpy(centres(unseen)))
    error = (answers - targets(unseen)).abs().mean()
    print(f"patients it has not seen: off by {error:.1f} percentage points on average")
    given.output.mkdir(parents=True, exist_ok=True)
    name = "clean" if given.clean else "broken"
    (given.output / f"{name}.safetensors").write_bytes(save(model.state_dict()))


if __name__ == "__main__":
    main()
