"""What the user gives as frames, as arguments of ``forward``, one batch at a time.

A batch may be a tensor, a tuple or a list of forward's arguments, or a dictionary by the names of its
parameters: what a DataLoader gives. The targets that a DataLoader gives along with them are left out.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.errors import UsageError
from bnfold.samples import LABELS, named_frames
from bnfold.signature import TensorSpec
from bnfold.wording import clip, count

LARGEST = math.sqrt(float(np.finfo(np.float32).max))
"""1.8e19: the square of anything larger is no float32, so it would make a variance infinite."""

_FIX = "give batches as forward takes them: a tensor, a tuple of its arguments, or a dictionary by name"


@dataclass(frozen=True)
class Unusable:
    """A frame with a value that no statistics survive.

    Attributes:
        frame: its name: ``scan_012.npy``, ``frame 37``.
        batch: the number of its batch, from 0.
        index: its place in the batch, from 0.
        input: the parameter of forward that it is given for.
        values: how many of its values are not finite, or beyond `LARGEST`.
        worst: one of them.
    """

    frame: str
    batch: int
    index: int
    input: str
    values: int
    worst: float

    def describe(self) -> str:
        """``scan_012.npy (batch 3, frame 4): 1 value of x is nan``."""
        verb = "is" if self.values == 1 else "are"
        size = (
            f"{self.worst:.3g}" if self.values == 1 else f"not finite or too large, such as {self.worst:.3g}"
        )
        place = f"batch {self.batch}, frame {self.index}"
        return f"{self.frame} ({place}): {count(self.values, 'value')} of {self.input} {verb} {size}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; a value that is not finite is its name."""
        worst = self.worst if math.isfinite(self.worst) else str(self.worst)
        return {
            "frame": self.frame,
            "batch": self.batch,
            "index": self.index,
            "input": self.input,
            "values": self.values,
            "worst": worst,
        }


@dataclass(frozen=True)
class Batch:
    """One batch as arguments of forward.

    Attributes:
        number: from 0, in the order that they were given.
        arguments: positional.
        keywords: by name.
        names: of its frames; one name for the whole where the tensors have no first axis in common.
        batched: whether the first axis of every tensor counts the frames.
        parameters: the names of the positional arguments.
        labels: class numbers, shape (frames,), where they came with the frames; no argument of forward's.
    """

    number: int
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    names: Sequence[str]
    batched: bool
    parameters: tuple[str, ...] = ()
    labels: Tensor | None = None

    @property
    def frames(self) -> int:
        """How many frames; 1 where the first axis does not count them."""
        return len(self.names)

    def run(self, module: nn.Module) -> Any:
        """What the module gives for it."""
        return module(*self.arguments, **self.keywords)

    def tensors(self) -> list[tuple[str, Tensor]]:
        """The tensors among the arguments, with the name of the parameter."""
        named = list(zip(self.parameters, self.arguments, strict=False)) + list(self.keywords.items())
        return [
            (name, leaf)
            for name, value in named
            for leaf in _leaves(value)
        ]

    def select(self, frames: Sequence[int]) -> Batch:
        """Some of its frames, in the order given; a frame may be taken again.

        Raises:
            ValueError: the first axis does not count the frames.
        """
        if not self.batched:
            raise ValueError("the tensors of this batch have no first axis in common")
        rows = list(frames)

        def pick(value: Any) -> Any:
            return value[rows] if isinstance(value, Tensor) else value

        return replace(
            self._map(pick),
            names=tuple(self.names[row] for row in rows),
            labels=None if self.labels is None else self.labels[rows],
        )

    def scaled(self, frames: Sequence[int], factor: float) -> Batch:
        """A copy with all floating values of some frames multiplied."""
        rows = list(frames)

        def louder(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            changed = value.clone()
            changed[rows] *= factor
            return changed

        return self._map(louder)

    def unusable(self) -> list[Unusable]:
        """The frames with a value that is not finite, or whose square is no float32."""
        found = []
        for name, tensor in self.tensors():
            if not tensor.is_floating_point() or tensor.numel() == 0 or _within(tensor):
                continue
            rows = tensor.detach().reshape(self.frames if self.batched else 1, -1)
            rows = rows.float() if rows.element_size() < 4 else rows  # float16 has no such number
            # NaN fails the comparison too
            bad = ~(rows.abs() <= LARGEST)
            for index in torch.nonzero(bad.any(dim=1)).flatten().tolist():
                values = rows[index][bad[index]]
                found.append(
                    Unusable(
                        self.names[index], self.number, index, name, int(bad[index].sum()), float(values[0])
                    )
                )
        return sorted(found, key=lambda one: one.index)

    def without(self, unusable: Sequence[Unusable]) -> Batch | None:
        """The batch without these frames; None where nothing is left of it."""
        bad = {one.index for one in unusable}
        if not bad:
            return self
        rows = [row for row in range(self.frames) if row not in bad]
        return self.select(rows) if rows and self.batched else None

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors there; labels stay where they are."""
        if all(tensor.device == device for _, tensor in self.tensors()):
            return self
        return self._map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf)

    def _map(self, change: Callable[[Any], Any]) -> Batch:
        return replace(
            self,
            arguments=pytree.tree_map(change, self.arguments),
            keywords=pytree.tree_map(change, dict(self.keywords)),
        )


class _Numbered(Sequence[str]):
    """``frame 37``, ``frame 38``: every batch has names, and few are read, so they are written on demand."""

    def __init__(self, first: int, count: int) -> None:
        self._numbers = range(first, first + count)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(f"frame {number}" for number in self._numbers[index])
        return f"frame {self._numbers[index]}"


class Batches:
    """Batches as arguments of forward; iterating again goes over the source again.

    Args:
        source: an iterable of batches (each a tensor, an array, a tuple or list of arguments, a dictionary
            by parameter, or a `Batch`), or one tensor, array or dictionary: a single batch.
        module: tells the parameters, and the device that tensors are moved to.
        again: whether the source has to be iterable more than once.

    Raises:
        UsageError: the source is no iterable of batches (BNF-U080), or can be read only once (BNF-U081).
            While iterating: there are no batches (BNF-U080), or a batch does not fit forward (BNF-U082).
    """

    def __init__(self, source: Any, module: nn.Module, *, again: bool = False) -> None:
        if isinstance(source, Tensor | np.ndarray | Mapping | Batch):
            source = [source]
        if isinstance(source, str) or not isinstance(source, Iterable):
            raise UsageError(
                "BNF-U080", f"a {type(source).__name__} is no batches", where="batches", fix=_FIX
            )
        if again and iter(source) is source:
            raise UsageError(
                "BNF-U081",
                f"a {type(source).__name__} gives its batches once, and they are needed several times",
                where="batches",
                fix="give a list or a DataLoader, or an object whose __iter__ begins anew",
            )
        self._source = source
        self._signature = _signature(module)
        self._positional = [parameter.name for parameter in _positional(self._signature)]
        self._device = device_of(module)

    def __iter__(self) -> Iterator[Batch]:
        given = 0
        number = -1
        for number, item in enumerate(self._source):
            batch = item if isinstance(item, Batch) else self._batch(item, number, given)
            given += batch.frames
            yield batch.to(self._device)
        if number < 0:
            raise UsageError(
                "BNF-U080", "there are no batches", where="batches", fix="give at least one frame"
            )

    def _batch(self, item: Any, number: int, given: int) -> Batch:
        arguments, keywords, labels = self._arguments(_tensors(item), number)
        values = (*arguments, *keywords.values())
        sizes = [leaf.shape[0] if leaf.ndim else None for value in values for leaf in _leaves(value)]
        if not sizes:
            raise _misfit("there is no tensor in it", number)
        batched = len(set(sizes)) == 1 and sizes[0] is not None
        if batched and sizes[0] == 0:
            raise _misfit("it has no frames", number)
        names = _Numbered(given, sizes[0] or 1 if batched else 1)
        labels = labels if _is_labels(len(names), labels) else None
        return Batch(number, arguments, keywords, names, batched, self._names(arguments), labels)

    def _arguments(self, item: Any, number: int) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Positional arguments, keywords, and the targets that came with them."""
        if isinstance(item, Tensor):
            return (item,), {}, None
        if isinstance(item, Mapping):
            return (), *self._keywords(item, number)
        if not isinstance(item, tuple | list):
            raise _misfit(f"it is a {type(item).__name__}", number)
        values = tuple(item)
        if self._signature is None:
            return values, {}, None
        required, most = _capacity(self._signature)
        if len(values) == 2 and required <= 1 and (most == 1 or _is_labels(_length(values[0]), values[1])):
            return values[:1], {}, values[1]  # (inputs, targets), as a DataLoader gives them
        if most == 1 and len(values) > 2:
            raise _misfit(f"it has {len(values)} items, and forward takes one argument", number)
        if not required <= len(values) <= most:
            takes = f"{required}" if required == most else f"{required} to {most}"
            raise _misfit(f"it has {count(len(values), 'item')}; forward takes {takes}", number)
        return values, {}, None

    def _keywords(self, item: Mapping[Any, Any], number: int) -> tuple[dict[str, Any], Any]:
        values = {str(key): value for key, value in item.items()}
        if self._signature is None:
            return values, None
        labels = values.pop(LABELS, None) if LABELS not in self._signature.parameters else None
        try:
            self._signature.bind(**values)
        except TypeError as error:
            raise _misfit(f"{clip(error)}; its keys are {', '.join(values)}", number) from error
        return values, labels

    def _names(self, arguments: tuple[Any, ...]) -> tuple[str, ...]:
        names = list(self._positional)
        names += [f"argument {index}" for index in range(len(names), len(arguments))]
        return tuple(names[: len(arguments)])


class SampleBatches:
    """Samples as the command line takes them, in batches of ``size`` frames: iterable again and again.

    Which frames make a batch depends on ``size`` and ``spread`` alone: a process that takes only some of the
    batches reads no frame of the others. The last batch may be smaller, but is no frame by itself where there
    are more.

    Args:
        samples: as for :func:`bnfold.samples.frames_of`: a path, arrays, a list of frames.
        inputs: what the network takes, with a batch of 1.
        normalisation: by input name, how a uint8 frame is prepared.
        size: frames per batch.
        spread: deal the frames out, one to each batch by turns, so that each batch is of the whole: samples
            are often in the order of their classes or patients. By default a batch is of neighbours.
        only: whether to take a batch, by its number; all by default.
        device: where tensors are put.

    Raises:
        VerifyError, InputError: as :func:`bnfold.samples.frames_of`. Values that are not finite are none of
            its business: see `Batch.unusable`.
    """

    def __init__(
        self,
        samples: Any,
        inputs: tuple[TensorSpec, ...],
        normalisation: Mapping[str, Mapping[str, Any] | None] | None = None,
        *,
        size: int = 32,
        spread: bool = False,
        only: Callable[[int], bool] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._frames = named_frames(samples, inputs, normalisation)
        self._names = tuple(spec.name for spec in inputs)
        self._only = only
        self._device = device
        total = len(self._frames)
        starts = list(range(0, total, size))
        if len(starts) > 1 and total - starts[-1] == 1:
            starts.pop()
        if spread:
            self._groups = [range(first, total, len(starts)) for first in range(len(starts))]
        else:
            ends = [*starts[1:], total]
            self._groups = [range(start, end) for start, end in zip(starts, ends, strict=True)]

    def __len__(self) -> int:
        """How many batches there are in all."""
        return len(self._groups)

    @property
    def frames(self) -> int:
        """How many frames there are in all."""
        return len(self._frames)

    @property
    def images(self) -> bool:
        """Whether the first frame is an image, which is prepared."""
        return self._frames.images

    def select(self, only: Callable[[int], bool]) -> SampleBatches:
        """The same batches under the same numbers, but only some of them."""
        chosen = copy.copy(self)
        chosen._only = only
        return chosen

    def __iter__(self) -> Iterator[Batch]:
        for number, group in enumerate(self._groups):
            if self._only is None or self._only(number):
                yield self._batch(group, number)

    def _batch(self, group: range, number: int) -> Batch:
        frames = [self._frames.at(index) for index in group]
        stacked = {
            name: torch.from_numpy(np.concatenate([inputs[name] for _, inputs in frames]))
            for name in self._names
        }
        labels = self._frames.labels
        batch = Batch(
            number,
            (),
            stacked,
            tuple(name for name, _ in frames),
            batched=True,
            labels=None if labels is None else torch.from_numpy(labels[list(group)]),
        )
        return batch if self._device is None else batch.to(self._device)


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of the frames of several.

    Raises:
        ValueError: their frames are not of one shape, or the first axis does not count them.
    """
    first = batches[0]
    if len(batches) == 1:
        return first
    flat = [pytree.tree_flatten((batch.arguments, dict(batch.keywords))) for batch in batches]
    if not all(batch.batched for batch in batches) or any(spec != flat[0][1] for _, spec in flat):
        raise ValueError("batches of different structure")
    leaves = []
    for column in zip(*(leaves for leaves, _ in flat), strict=True):
        if not isinstance(column[0], Tensor):
            leaves.append(column[0])
            continue
        if any(leaf.shape[1:] != column[0].shape[1:] for leaf in column):
            raise ValueError("frames of different shapes")
        leaves.append(torch.cat(column))
    arguments, keywords = pytree.tree_unflatten(leaves, flat[0][1])
    names = tuple(name for batch in batches for name in batch.names)
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return replace(
        first,
        arguments=arguments,
        keywords=keywords,
        names=names,
        labels=torch.cat(labels) if len(labels) == len(batches) else None,
    )


def device_of(module: nn.Module) -> torch.device:
    """Where its first tensor is."""
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _signature(module: nn.Module) -> inspect.Signature | None:
    """Forward's parameters; None where Python cannot tell them (a compiled function)."""
    try:
        return inspect.signature(module.forward)
    except (TypeError, ValueError):
        return None


def _capacity(signature: inspect.Signature) -> tuple[int, float]:
    """How many positional arguments are required, and how many are taken."""
    positional = _positional(signature)
    required = sum(p.default is p.empty for p in positional)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    return required, math.inf if variadic else len(positional)


def _positional(signature: inspect.Signature | None) -> list[inspect.Parameter]:
    """The parameters that can be given by place."""
    parameters = signature.parameters.values() if signature is not None else ()
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _is_labels(frames: int, values: Any) -> bool:
    """Whether something is a vector of class numbers, one per frame."""
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        return False
    return values.ndim == 1 and len(values) == frames


def _length(values: Any) -> int:
    return len(values) if isinstance(values, Tensor) and values.ndim else -1


def _within(tensor: Tensor) -> bool:
    """Whether all values are numbers up to `LARGEST`, where one operator can tell."""
    if tensor.dtype not in (torch.float32, torch.float64):
        return False
    low, high = torch.aminmax(tensor)
    return float(low) >= -LARGEST and float(high) <= LARGEST  # NaN fails the comparison


def _leaves(value: Any) -> Sequence[Tensor]:
    """The tensors in it."""
    if isinstance(value, Tensor):
        return (value,)
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _tensors(item: Any) -> Any:
    """The same with tensors in place of arrays."""
    if isinstance(item, Tensor):
        return item
    return pytree.tree_map(lambda leaf: torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf, item)


def _misfit(what: str, number: int) -> UsageError:
    return UsageError("BNF-U082", f"a batch does not fit forward: {what}", where=f"batch {number}", fix=_FIX)
