"""What can happen between training set and camera: functions of frames with values from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

Frames = torch.Tensor
Corruption = Callable[[Frames], Frames]


def noise(deviation: float) -> Corruption:
    def apply(x: Frames) -> Frames:
        generator = torch.Generator().manual_seed(1)
        return (x + deviation * torch.randn(x.shape, generator=generator)).clamp(0, 1)

    return apply


def impulse(share: float) -> Corruption:
    """Salt and pepper."""

    def apply(x: Frames) -> Frames:
        drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(2))
        return torch.where(drawn < share / 2, 0.0, torch.where(drawn > 1 - share / 2, 1.0, x))

    return apply


def brightness(by: float) -> Corruption:
    return lambda x: (x + by).clamp(0, 1)


def contrast(factor: float) -> Corruption:
    return lambda x: (x - 0.5) * factor + 0.5 if x.shape[1] == 3 else x * factor


def gamma(power: float) -> Corruption:
    return lambda x: x.clamp(0, 1) ** power


def blur(deviation: float) -> Corruption:
    def apply(x: Frames) -> Frames:
        at = torch.arange(-6, 7, dtype=x.dtype)
        kernel = torch.exp(-at * at / (2 * deviation * deviation))
        kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 13)
        y = F.conv2d(F.pad(x, (6, 6, 0, 0), "replicate"), kernel[:, :, None], groups=x.shape[1])
        return F.conv2d(F.pad(y, (0, 0, 6, 6), "replicate"), kernel[..., None], groups=x.shape[1])

    return apply


def pixelate(size: int) -> Corruption:
    return lambda x: F.interpolate(F.avg_pool2d(x, size), scale_factor=size)


def affine(degrees: float = 0, shift: float = 0, zoom: float = 1, shear: float = 0) -> Corruption:
    """Rotation, a shift to the right in pixels, magnification, shear."""

    def apply(x: Frames) -> Frames:
        a = math.radians(degrees)
        matrix = torch.tensor(
            [
                [math.cos(a) / zoom, (shear - math.sin(a)) / zoom, -2 * shift / x.shape[-1]],
                [math.sin(a) / zoom, math.cos(a) / zoom, 0],
            ]
        )
        grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    return apply


def occlusion(size: int) -> Corruption:
    """A raindrop, black, in the middle."""

    def apply(x: Frames) -> Frames:
        y, middle = x.clone(), x.shape[-1] // 2
        y[..., middle - size // 2 : middle + size // 2, middle - size // 2 : middle + size // 2] = 0
        return y

    return apply


def gradient_light(x: Frames) -> Frames:
    return (x + 0.5 * torch.linspace(0, 1, x.shape[-1])).clamp(0, 1)


def thicker(x: Frames) -> Frames:
    return F.max_pool2d(x, 3, 1, 1)


CORRUPTIONS: dict[str, Corruption] = {
    **{f"noise {s}": noise(s) for s in (0.05, 0.1, 0.2, 0.3)},
    **{f"impulse {s}": impulse(s) for s in (0.02, 0.05, 0.1)},
    **{f"brightness {s:+}": brightness(s) for s in (-0.2, -0.1, 0.05, 0.1, 0.2)},
    **{f"contrast {s}": contrast(s) for s in (0.8, 0.6, 0.4, 0.2)},
    **{f"gamma {s}": gamma(s) for s in (0.5, 2.0)},
    **{f"blur {s}": blur(s) for s in (0.7, 1.0, 1.5, 2.0)},
    **{f"pixelate {s}": pixelate(s) for s in (2, 4)},
    **{f"rotate {s}": affine(degrees=s) for s in (10, 15, 20, 30, 45)},
    **{f"shift {s}": affine(shift=s) for s in (1, 2, 3)},
    **{f"zoom {s}": affine(zoom=s) for s in (0.6, 0.8, 1.2, 1.4)},
    "shear 0.6": affine(shear=0.6),
    **{f"occlusion {s}": occlusion(s) for s in (4, 8, 12)},
    "side light": gradient_light,
    "thicker": thicker,
    "negative": lambda x: 1 - x,
}
