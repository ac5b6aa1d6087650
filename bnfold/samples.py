"""Samples -> model inputs: whatever the user has, one dictionary of arrays per call of the network.

Images and uint8 arrays are frames and are prepared as the normalisation says; floating arrays are model
inputs and are used as they are. Where there are no samples, seeded random inputs stand in.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import VerifyError
from bnfold.numerics import is_finite
from bnfold.runtime import frames as frame_files
from bnfold.runtime import preprocess
from bnfold.signature import TensorSpec

Array = NDArray[Any]
Inputs = dict[str, Array]

LABELS = "labels"
"""The key of the labels in a ``.npz`` file or a dictionary of samples."""

_CACHE_BYTES = 512 * 2**20


@dataclass
class Frames:
    """Inputs of a network, one dictionary by input name per call; iterating again gives the same ones.

    Attributes:
        inputs: what the network takes.
        source: where they are from; ``samples`` as soon as the user gave one.
        given: frames of the user's.
        labels: class numbers of the given frames, shape (given,), or None.
        size: frames per call: 1, or the network's fixed batch.
        calls: how many dictionaries there are.
        images: whether the first of the user's is an image, which was prepared.
    """

    inputs: tuple[TensorSpec, ...]
    source: Literal["samples", "random"]
    given: int
    size: int
    calls: int
    labels: Array | None
    _make: Callable[[], Iterator[Inputs]] = field(repr=False)
    images: bool = False
    _cache: list[Inputs] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.calls

    def __iter__(self) -> Iterator[Inputs]:
        if self._cache is None and self._bytes() <= _CACHE_BYTES:
            self._cache = list(self._make())
        return iter(self._cache) if self._cache is not None else self._make()

    def first(self) -> Inputs:
        """The first call's inputs."""
        return next(iter(self))

    def _bytes(self) -> int:
        per_call = sum(
            np.dtype(spec.dtype).itemsize * int(np.prod([size or 1 for size in spec.shape]))
            for spec in self.inputs
        )
        return per_call * self.calls


def random_frames(
    inputs: tuple[TensorSpec, ...], example: Mapping[str, Array], count: int, *, seed: int = 0
) -> Frames:
    """Seeded random inputs like the example.

    Floating inputs are normal with the example's mean and standard deviation, kept within its range; an
    example that is constant says nothing, and gives a standard normal. Integers are drawn from the example's
    range (they may be indices into an embedding), booleans by coin.

    Args:
        inputs: what the network takes; a symbolic batch becomes 1.
        example: one array per input name.
        count: how many calls.
        seed: the same seed gives the same inputs, for an input of the same name.
    """

    def make() -> Iterator[Inputs]:
        generators = {spec.name: _generator(seed, spec.name) for spec in inputs}
        for _ in range(count):
            yield {spec.name: _draw(generators[spec.name], spec, example[spec.name]) for spec in inputs}

    size = _fixed_batch(inputs)
    return Frames(inputs, "random", 0, size, count, None, make)


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _fixed_batch(inputs: tuple[TensorSpec, ...]) -> int:
    first = {spec.shape[0] if spec.shape else 1 for spec in inputs}
    return (first.pop() or 1) if len(first) == 1 else 1


def _draw(generator: np.random.Generator, spec: TensorSpec, example: Array) -> Array:
    shape = tuple(size or 1 for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    values = np.asarray(example)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        return generator.integers(low, high, shape, dtype=np.int64, endpoint=True).astype(dtype)
    if dtype.kind == "c":
        real, imaginary = generator.standard_normal((2, *shape))
        return np.asarray(real + 1j * imaginary).astype(dtype)
    flat = values.astype(np.float64).ravel()
    if flat.size < 2 or np.ptp(flat) == 0:
        return np.asarray(generator.standard_normal(shape)).astype(dtype)
    drawn = flat.mean() + flat.std() * generator.standard_normal(shape)
    return np.asarray(np.clip(drawn, flat.min(), flat.max())).astype(dtype)


def frames_of(
    samples: Any,
    inputs: tuple[TensorSpec, ...],
    normalisation: Mapping[str, Mapping[str, Any] | None] | None = None,
    *,
    at_least: int = 0,
    seed: int = 0,
) -> Frames:
    """The user's samples as model inputs.

    Args:
        samples: an array or a tensor (first axis: frames), a dictionary of them by input name (key
            ``labels``: class numbers), a list of frames (each an array, a dictionary, or a tuple in the order
            of the inputs), a path (a folder, ``.npy``, ``.npz``, an image), or a FrameSource.
        inputs: what the network takes. A frame without the batch axis gets one; where the network has a fixed
            batch of B, B frames go into one call, and the last call is filled up with the first frames.
        normalisation: by input name, how a uint8 frame is prepared.
        at_least: fill up to this many frames with seeded random ones in the manner of the first frame.

    Raises:
        VerifyError: no frames (BNF-V021), another number of arrays or other names than the inputs
            (BNF-V022), a shape that does not fit (BNF-V023), a dtype that does not fit (BNF-V024), a value
            that is not finite (BNF-V025), labels that do not fit (BNF-V026).
        InputError: a frame that cannot be read or prepared.
    """
    raw = _Raw.of(samples, inputs)
    if len(raw) == 0:
        raise VerifyError("BNF-V021", "there are no sample frames", where=raw.where, fix="give at least one")
    prepare = _Preparer(inputs, normalisation or {})
    first = next(iter(raw))[1]
    size = prepare.group_size(first)
    given = len(raw)
    calls = -(-given // size)
    labels = _checked_labels(raw.labels(), given, raw.where)
    extra = max(0, -(-at_least // size) - calls)

    def make() -> Iterator[Inputs]:
        prepared = (prepare(name, frame) for name, frame in raw)
        example: Inputs | None = None
        for group in _groups(prepared, size):
            call = {spec.name: _join([frame[spec.name] for frame in group], spec) for spec in inputs}
            example = example or call
            yield call
        if extra and example is not None:
            yield from random_frames(inputs, example, extra, seed=seed)

    return Frames(inputs, "samples", given, size, calls + extra, labels, make, prepare.images(first))


def named_frames(
    samples: Any,
    inputs: tuple[TensorSpec, ...],
    normalisation: Mapping[str, Mapping[str, Any] | None] | None = None,
) -> NamedFrames:
    """The user's samples one frame at a time, each under its name, finite or not.

    Args:
        samples, normalisation: as for :func:`frames_of`.
        inputs: what the network takes, with a batch of 1.

    Raises:
        VerifyError, InputError: as :func:`frames_of`, but for BNF-V025.
    """
    raw = _Raw.of(samples, inputs)
    if len(raw) == 0:
        raise VerifyError("BNF-V021", "there are no sample frames", where=raw.where, fix="give at least one")
    labels = _checked_labels(raw.labels(), len(raw), raw.where)
    return NamedFrames(raw, _Preparer(inputs, normalisation or {}, finite=False), labels)


class NamedFrames:
    """Names and frames; a frame is one array per input, with a batch axis of 1. Iterable again and again.

    Attributes:
        labels: class numbers, shape (len,), or None.
    """

    def __init__(self, raw: _Raw, prepare: _Preparer, labels: Array | None = None) -> None:
        self._raw = raw
        self._prepare = prepare
        self.labels = labels

    def __len__(self) -> int:
        return len(self._raw)

    @property
    def images(self) -> bool:
        """Whether the first frame is an image, which is prepared."""
        return self._prepare.images(self._raw.at(0)[1])

    def at(self, index: int) -> tuple[str, Inputs]:
        """The name and the arrays at a place, from 0; no other frame is read."""
        name, frame = self._raw.at(index)
        return name, self._prepare(name, frame)

    def __iter__(self) -> Iterator[tuple[str, Inputs]]:
        return (self.at(index) for index in range(len(self)))


def _groups(frames: Iterator[Inputs], size: int) -> Iterator[list[Inputs]]:
    """Lists of ``size`` frames; the last one is filled up with the first frames."""
    head: list[Inputs] = []
    group: list[Inputs] = []
    for frame in frames:
        if len(head) < size:
            head.append(frame)
        group.append(frame)
        if len(group) == size:
            yield group
            group = []
    if group:
        while len(group) < size:
            group.extend(head[: size - len(group)])
        yield group


def _join(frames: list[Array], spec: TensorSpec) -> Array:
    if frames[0].ndim == len(spec.shape):
        return frames[0]
    return np.stack(frames)


class _Raw:
    """Samples as they were given: named frames, each an array or a dictionary; iterable again and again."""

    def __init__(
        self,
        frames: frame_files.FrameSource | Sequence[tuple[str, Any]],
        count: int,
        labels: Any,
        where: str,
    ) -> None:
        self._frames = frames
        self._count = count
        self._labels = labels
        self.where = where

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._frames)

    def at(self, index: int) -> tuple[str, Any]:
        if isinstance(self._frames, frame_files.FrameSource):
            return self._frames.at(index)
        return self._frames[index]

    def labels(self) -> Any:
        return self._labels

    @classmethod
    def of(cls, samples: Any, inputs: tuple[TensorSpec, ...]) -> _Raw:
        if isinstance(samples, str | Path):
            samples = frame_files.read(samples, inputs=[spec.name for spec in inputs])
        if isinstance(samples, Mapping):
            return cls._of_mapping(samples, inputs)
        if isinstance(samples, frame_files.FrameSource):
            return cls(samples, len(samples), samples.labels, "samples")
        if hasattr(samples, "__array__"):
            array = _array(samples)
            if array.ndim == 0:
                raise VerifyError("BNF-V021", "there are no sample frames: a single number", where="samples")
            return cls(_named(array), len(array), None, "samples")
        if isinstance(samples, Iterable):
            frames_ = list(samples)
            return cls(_named(frames_), len(frames_), None, "samples")
        raise VerifyError(
            "BNF-V021",
            f"a {type(samples).__name__} is no source of frames",
            where="samples",
            fix="give an array, a dictionary of arrays by input name, a list of frames or a path",
        )

    @classmethod
    def _of_mapping(cls, samples: Mapping[str, Any], inputs: tuple[TensorSpec, ...]) -> _Raw:
        names = {spec.name for spec in inputs}
        arrays = {key: _array(value) for key, value in samples.items()}
        labels = arrays.pop(LABELS) if LABELS in arrays and LABELS not in names else None
        lengths = {key: len(array) if array.ndim else 0 for key, array in arrays.items()}
        if not lengths or len(set(lengths.values())) > 1:
            told = ", ".join(f"{key}: {length}" for key, length in lengths.items()) or "no array"
            raise VerifyError(
                "BNF-V022",
                f"the inputs have different numbers of frames ({told})",
                where="samples",
                fix="give every input the same number of frames",
            )
        count = next(iter(lengths.values()))
        frames = [{key: array[i] for key, array in arrays.items()} for i in range(count)]
        return cls(_named(frames), count, labels, "samples")


def _named(frames: Sequence[Any] | Array) -> list[tuple[str, Any]]:
    return [(f"frame {i}", frame) for i, frame in enumerate(frames)]


def _array(values: Any) -> Array:
    """A numpy array of an array, a tensor on any device, or a list."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values)


@dataclass(frozen=True)
class _Preparer:
    """One frame as it was given -> one array per input, with or without the batch axis."""

    inputs: tuple[TensorSpec, ...]
    normalisation: Mapping[str, Mapping[str, Any] | None]
    finite: bool = True

    def __call__(self, name: str, frame: Any) -> Inputs:
        return {
            spec.name: self._one(name, value, spec)
            for spec, value in zip(self.inputs, self._values(name, frame), strict=True)
        }

    def group_size(self, frame: Any) -> int:
        """How many frames go into one call."""
        sizes = set()
        for spec, array in zip(self.inputs, self("the first frame", frame).values(), strict=True):
            whole = array.ndim == len(spec.shape)
            sizes.add(1 if whole else (spec.shape[0] or 1))
        if len(sizes) > 1:
            raise VerifyError(
                "BNF-V023",
                f"the inputs have different batches: {', '.join(spec.describe() for spec in self.inputs)}",
                where="samples",
                fix="give frames in the whole shape of each input, the batch axis included",
            )
        return sizes.pop()

    def images(self, frame: Any) -> bool:
        """Whether anything of this frame is an image."""
        values = zip(self.inputs, self._values("the first frame", frame), strict=True)
        return any(_is_image(_array(value), spec) for spec, value in values)

    def _values(self, name: str, frame: Any) -> list[Any]:
        """The frame's arrays in the order of the inputs."""
        wanted = [spec.name for spec in self.inputs]
        if isinstance(frame, Mapping):
            if len(frame) == 1 and len(wanted) == 1:
                return list(frame.values())
            if set(frame) != set(wanted):
                raise VerifyError(
                    "BNF-V022",
                    f"{name} has {', '.join(map(str, frame)) or 'no arrays'}; "
                    f"the model takes {', '.join(wanted)}",
                    where="samples",
                    fix=f"name the arrays {', '.join(wanted)}",
                )
            return [frame[key] for key in wanted]
        values = list(frame) if isinstance(frame, tuple | list) and len(wanted) > 1 else [frame]
        if len(values) == 1 and isinstance(frame, tuple) and len(frame) == 1:
            values = [frame[0]]
        if len(values) != len(wanted):
            raise VerifyError(
                "BNF-V022",
                f"{name} is {len(values)} array{'s' if len(values) > 1 else ''}; "
                f"the model takes {len(wanted)}: {', '.join(wanted)}",
                where="samples",
                fix="give a dictionary by input name (as a file: .npz with these keys)",
            )
        return values

    def _one(self, name: str, value: Any, spec: TensorSpec) -> Array:
        array = _array(value)
        if _is_image(array, spec):
            array = preprocess.prepare(array, spec, self.normalisation.get(spec.name))
            if array.ndim == len(spec.shape) and array.shape[0] == 1 and (spec.shape[0] or 1) > 1:
                array = array[0]  # one of several frames of a fixed batch
        array = _as_dtype(name, array, spec)
        self._check_shape(name, array, spec)
        if self.finite and not is_finite(array):
            raise VerifyError(
                "BNF-V025",
                f"{name} holds {int((~np.isfinite(array)).sum())} values that are not finite",
                where=f"samples, input {spec.name!r}",
                fix="leave the frame out, or repair it: nothing can be compared on it",
            )
        if array.ndim == len(spec.shape) - 1 and (spec.shape[0] or 1) == 1:
            array = array[np.newaxis]
        return array

    def _check_shape(self, name: str, array: Array, spec: TensorSpec) -> None:
        without_batch = len(spec.shape) == array.ndim + 1 and all(
            want is None or want == got for want, got in zip(spec.shape[1:], array.shape, strict=True)
        )
        if not (spec.accepts(array.shape) or without_batch):
            raise VerifyError(
                "BNF-V023",
                f"{name} has shape {array.shape}; the model takes {spec.describe()}",
                where=f"samples, input {spec.name!r}",
                fix="the first axis of the samples counts the frames; a frame may leave out the batch axis",
            )


def _is_image(array: Array, spec: TensorSpec) -> bool:
    return array.dtype == np.uint8 and np.dtype(spec.dtype).kind == "f"


def _as_dtype(name: str, array: Array, spec: TensorSpec) -> Array:
    """The array in the input's dtype, where that loses nothing but float rounding."""
    want = np.dtype(spec.dtype)
    if array.dtype == want:
        return array
    floats = array.dtype.kind == "f" and want.kind in "fc"
    integers = array.dtype.kind in "iu" and want.kind in "iu" and bool((array.astype(want) == array).all())
    if floats or integers:
        return array.astype(want)
    raise VerifyError(
        "BNF-V024",
        f"{name} is {array.dtype}; the model takes {spec.describe()}",
        where=f"samples, input {spec.name!r}",
        fix=f"convert the samples to {spec.dtype} (uint8 frames are prepared, other integers are not)",
    )


def _checked_labels(labels: Any, count: int, where: str) -> Array | None:
    if labels is None:
        return None
    array = _array(labels)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise VerifyError(
            "BNF-V026",
            f"the labels are {array.dtype} {array.shape}; {count} frames need integers of shape ({count},)",
            where=where,
            fix="give one class number per frame, counted from 0",
        )
    return array.astype(np.int64)
