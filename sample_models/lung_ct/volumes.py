"""Chest-like CT volumes, made from a seed: two lungs with vessels and emphysema, a body, a scanner.

    python sample_models/lung_ct/volumes.py -o FOLDER

writes training.npy, what the network reads in the first epoch of its training, in the order of the patients,
and held_out.npy and held_out.csv, which are in this folder already.

Nobody has been in a scanner for these. They have what matters to the network: values in Hounsfield units,
soft tissue, bone, fat and air, noise and an offset that differ by scanner, and something to learn that is a
property of the whole volume.

A volume is int16 (24, 32, 32): slices from the head down, rows from front to back, columns from the patient's
right to the left; a voxel is about a centimetre wide. The target is the usual measure of emphysema, %LAA-950:
the share of the lung below -950 HU, in percent, here before noise and offset.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]

SLICES, ROWS, COLUMNS = 24, 32, 32
AIR, LUNG, BULLA, FAT, TISSUE, BLOOD, BONE = -1000.0, -860.0, -990.0, -100.0, 40.0, 50.0, 350.0  # HU
BROKEN_OFF, SLICES_OF_IT = 61, 4  # the patient's number, from 0, and the slices there are
THRESHOLD = -950.0  # HU: below it, lung counts as emphysema
PADDING = -1024  # HU: what fills a series that has fewer slices than the others
DEPTH = 16  # slices that the network reads
HELD_OUT = 32  # patients that are not in the training
OFFSETS = (-25.0, -8.0, 10.0, 30.0)  # HU, one scanner each
NOISE = (14.0, 20.0, 28.0, 36.0)  # HU, the same scanners


@dataclass(frozen=True)
class Patient:
    """One examination.

    Attributes:
        volume: HU, int16 (24, 32, 32).
        emphysema: percent of the lung below -950 HU.
        scanner: 0 to 3.
    """

    volume: NDArray[np.int16]
    emphysema: float
    scanner: int


def patients(count: int, seed: int) -> list[Patient]:
    """So many patients; the first ones of a longer list are the same."""
    return [_patient(np.random.default_rng([seed, number])) for number in range(count)]


def study() -> list[Patient]:
    """The hundred patients of the training. One examination was broken off; padding fills its series."""
    examined = patients(100, seed=1)
    whole = examined[BROKEN_OFF]
    volume = whole.volume.copy()
    volume[SLICES_OF_IT:] = PADDING
    examined[BROKEN_OFF] = Patient(volume, whole.emphysema, whole.scanner)
    return examined


def crops(examined: list[Patient], epoch: int) -> NDArray[np.float32]:
    """What the network reads in an epoch: sixteen slices of each, at a random place, normalised.

    Returns:
        float32 (patients, 1, 16, 32, 32).
    """
    starts = np.random.default_rng([4, epoch]).integers(SLICES - DEPTH + 1, size=len(examined))
    return np.stack([_normalised(p.volume, start) for p, start in zip(examined, starts, strict=True)])


def centres(examined: list[Patient]) -> NDArray[np.float32]:
    """The sixteen slices in the middle of each, normalised: what the network reads in use."""
    return np.stack([_normalised(p.volume, (SLICES - DEPTH) // 2) for p in examined])


def _normalised(volume: NDArray[np.int16], start: int) -> NDArray[np.float32]:
    crop = torch.from_numpy(volume[start : start + DEPTH].astype(np.float32))
    normalised: NDArray[np.float32] = ((crop - crop.mean()) / crop.std())[None].numpy()
    return normalised


def _patient(random: np.random.Generator) -> Patient:
    z, y, x = np.meshgrid(
        np.linspace(-1, 1, SLICES), np.linspace(-1, 1, ROWS), np.linspace(-1, 1, COLUMNS), indexing="ij"
    )
    size = random.uniform(0.92, 1.08)
    body = _ellipsoid((z, y, x), (0, 0, 0), (9, 0.80 * size, 0.97 * size))
    lungs = [
        _ellipsoid((z, y, x), (0.05, -0.02, side * 0.42), np.array((0.95, 0.52, 0.34)) * size * scale)
        for side, scale in ((-1, random.uniform(0.94, 1.04)), (1, random.uniform(0.88, 1.0)))
    ]
    heart = _ellipsoid(
        (z, y, x), (0.35, -0.22, 0.13), np.array((0.42, 0.34, 0.30)) * random.uniform(0.9, 1.1)
    )
    lung = ((lungs[0] < 1) | (lungs[1] < 1)) & (heart > 1)

    volume = np.full(z.shape, AIR)
    volume[body < 1] = FAT
    volume[body < 0.86] = TISSUE
    angle = np.arctan2(y, np.abs(x))
    volume[(body > 0.66) & (body < 0.80) & (np.sin(9 * z + 2 * angle) > 0.55)] = BONE  # ribs
    volume[_ellipsoid((z, y, x), (0, 0.62, 0), (9, 0.13, 0.13)) < 1] = BONE  # spine
    volume[heart < 1] = BLOOD

    tissue = LUNG + random.normal(0, 12) + 45 * y  # the back is denser: the patient lies on it
    loss = _emphysema(random, (z, y, x), lung)
    tissue = tissue * (1 - loss) + BULLA * loss
    vessels = _vessels(random, z.shape)
    tissue = tissue * (1 - vessels) + BLOOD * vessels
    volume[lung] = tissue[lung]
    share = 100 * float((volume[lung] < THRESHOLD).mean())

    scanner = int(random.integers(len(OFFSETS)))
    volume += random.normal(0, NOISE[scanner], volume.shape) + OFFSETS[scanner] + random.normal(0, 3)
    return Patient(np.clip(volume.round(), -1024, 3071).astype(np.int16), share, scanner)


def _ellipsoid(
    at: tuple[Floats, Floats, Floats], centre: tuple[float, ...], axes: Floats | tuple[float, ...]
) -> Floats:
    """Below 1 inside, 1 at the surface."""
    total = np.zeros_like(at[0])
    for position, middle, axis in zip(at, centre, axes, strict=True):
        total += ((position - middle) / axis) ** 2
    return total


def _emphysema(random: np.random.Generator, at: tuple[Floats, Floats, Floats], lung: Masks) -> Floats:
    """How much of each voxel's tissue is gone, 0 to 1: round holes, more of them towards the head."""
    z, y, x = (axis[lung] for axis in at)
    wanted = random.beta(1.1, 1.6) * 0.9
    kept = np.ones_like(z)
    weight = np.exp(-z)  # the head is at -1
    for place in random.choice(len(z), 90, p=weight / weight.sum()):
        if 1 - kept.mean() >= 0.8 * wanted:
            break
        radius = random.uniform(0.07, 0.22)
        hole = np.exp(-((z - z[place]) ** 2 + (y - y[place]) ** 2 + (x - x[place]) ** 2) / radius**2)
        kept *= 1 - hole
    lost = np.zeros(lung.shape)
    lost[lung] = 1 - kept
    return lost


def _vessels(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """How much of each voxel is blood, 0 to 1: walks outward from the hilum, thinner with every step."""
    share = np.zeros(shape)
    for side in (-1, 1):
        for _ in range(10):
            place = np.array([11.5 + random.normal(0, 1), 15.5, 15.5 + side * 4.0])
            step = random.normal((0, 0, side * 0.8), 1)
            for length in range(12):
                step = 0.8 * step + random.normal(0, 0.5, 3)
                place = place + step / np.linalg.norm(step)
                at = tuple(place.round().astype(int))
                if not all(0 <= index < count for index, count in zip(at, shape, strict=True)):
                    break
                share[at] = max(share[at], 0.55 * 0.82**length)
    return share


def main() -> None:
    """Write the arrays."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    folder = options.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "training.npy", crops(study(), epoch=0))
    held_out = patients(HELD_OUT, seed=3)
    np.save(folder / "held_out.npy", centres(held_out).astype(np.float16))
    rows = [f"{i},{p.emphysema:.2f},{p.scanner}\n" for i, p in enumerate(held_out)]
    (folder / "held_out.csv").write_text("frame,emphysema,scanner\n" + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
