"""What a caller gives -> the arrays that the interpreter takes, in the order of the inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.errors import InputError
from bnfold.numerics import is_finite
from bnfold.runtime.session import Array
from bnfold.signature import TensorSpec

if TYPE_CHECKING:
    from bnfold.runtime.preprocess import Preprocessor


class Feeds:
    """The inputs of one model, and how to fill them.

    Args:
        inputs: what the model takes.
        normalisations: by input name, the manifest's normalisation or None.

    Attributes:
        only: dtype and shape of the one input: an array of these needs no more than a look for NaN. The
            shape is None where an axis is symbolic, and both are None where the model has several inputs.
    """

    def __init__(
        self, inputs: tuple[TensorSpec, ...], normalisations: Mapping[str, Mapping[str, Any] | None]
    ) -> None:
        self._inputs = inputs
        self._normalisations = normalisations
        self._preprocessors: dict[str, Preprocessor] = {}
        # what a call compares with: the shape is None where an axis is symbolic
        self._exact = [(np.dtype(spec.dtype), None if None in spec.shape else spec.shape) for spec in inputs]
        self.only: tuple[np.dtype[Any] | None, tuple[int | None, ...] | None] = (
            self._exact[0] if len(inputs) == 1 else (None, None)
        )

    def of_frame(self, frame: Any, *, finite: bool = True) -> list[Array]:
        """See :meth:`bnfold.runtime.model.Model.predict`."""
        values = self._by_input(frame)
        return self._checked([self._prepared(spec, values[spec.name]) for spec in self._inputs], finite)

    def of_arrays(self, arrays: Array | Mapping[str, Array]) -> list[Array]:
        """See :meth:`bnfold.runtime.model.Model.predict_raw`."""
        values = self._by_input(arrays)
        return self._checked([_as_array(values[spec.name], spec) for spec in self._inputs])

    def _checked(self, arrays: list[Array], finite: bool = True) -> list[Array]:
        for index, array in enumerate(arrays):
            self._check(index, array, finite)
        return arrays

    def _check(self, index: int, array: Array, finite: bool = True) -> None:
        dtype, shape = self._exact[index]
        if array.shape != shape or array.dtype != dtype:
            _check(array, self._inputs[index])
        # Max pooling and ReLU swallow NaN: the answer would look like any other
        if finite and not is_finite(array):
            raise _not_finite(array, self._inputs[index])

    def _by_input(self, values: Any) -> Mapping[str, Any]:
        """What was given, by input name."""
        names = [spec.name for spec in self._inputs]
        if not isinstance(values, Mapping):
            if len(names) == 1:
                return {names[0]: values}
            raise InputError(
                "BNF-R012",
                f"the model has {len(names)} inputs ({', '.join(names)}), and one array was given",
                fix="give a dictionary by input name (as a file: .npz with these keys)",
            )
        missing = [name for name in names if name not in values]
        unknown = [str(name) for name in values if name not in names]
        if missing or unknown:
            parts = [
                *([f"missing: {', '.join(missing)}"] if missing else []),
                *([f"unknown: {', '.join(unknown)}"] if unknown else []),
            ]
            raise InputError("BNF-R012", "; ".join(parts), where="inputs", fix=f"give {', '.join(names)}")
        return values

    def _prepared(self, spec: TensorSpec, value: Any) -> Array:
        if isinstance(value, str | os.PathLike):
            from bnfold.runtime import images

            try:
                return self._prepared(spec, images.read(value))
            except InputError as error:
                if str(value) not in error.where:
                    error.where = f"{value}, {error.where}" if error.where else str(value)
                raise
        array = _as_array(value, spec)
        want = np.dtype(spec.dtype)
        if array.dtype == np.uint8 and want.kind == "f":
            return self._frames(spec, array)
        if array.dtype != want:
            array = _cast(array, spec)
        if array.ndim == len(spec.shape) - 1 and spec.shape[0] in (1, None):
            return array[np.newaxis]
        return array

    def _frames(self, spec: TensorSpec, array: Array) -> Array:
        """One frame or, with four axes, a stack of them."""
        preprocessor = self._preprocessors.get(spec.name)
        if preprocessor is None:
            from bnfold.runtime.preprocess import Preprocessor

            preprocessor = Preprocessor(spec, self._normalisations[spec.name])
            self._preprocessors[spec.name] = preprocessor
        if array.ndim == 4:
            if spec.shape[0] not in (None, len(array)):
                raise _other_batch(array, spec)
            return np.concatenate([preprocessor(frame) for frame in array])
        return preprocessor(array)


def _check(array: Array, spec: TensorSpec) -> None:
    """Raises where ``array`` is not exactly what the input takes."""
    where = f"input {spec.name!r}"
    if array.dtype != spec.dtype:
        raise InputError(
            "BNF-R011",
            f"the array is {array.dtype}; the model takes {spec.describe()}",
            where=where,
            fix=f"convert it: array.astype({spec.dtype!r})",
        )
    if not spec.accepts(array.shape):
        any_batch = TensorSpec(spec.name, (None, *spec.shape[1:]), spec.dtype)
        if len(spec.shape) > 1 and any_batch.accepts(array.shape):
            raise _other_batch(array, spec)
        raise InputError(
            "BNF-R010",
            f"the array has shape {array.shape}; the model takes {spec.describe()}",
            where=where,
            fix="check the order of the axes: the batch axis comes first",
        )


def _not_finite(array: Array, spec: TensorSpec) -> InputError:
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    return InputError(
        "BNF-R018",
        f"{bad} of {array.size} values are not finite (NaN or infinite): no answer to them means anything",
        where=f"input {spec.name!r}",
        fix="leave the frame out, or repair what makes it",
    )


def _as_array(value: Any, spec: TensorSpec) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:  # nested lists of different lengths
        raise InputError(
            "BNF-R011",
            f"no array: {error}; the model takes {spec.describe()}",
            where=f"input {spec.name!r}",
            fix="give a numpy array, or a path",
        ) from error


def _other_batch(array: Array, spec: TensorSpec) -> InputError:
    return InputError(
        "BNF-R013",
        f"{len(array)} frames were given; the model takes {spec.shape[0]} per call",
        where=f"input {spec.name!r}",
        fix="loop over the frames, or convert to ONNX with --dynamic-batch",
    )


def _cast(array: Array, spec: TensorSpec) -> Array:
    """The array in the input's dtype, where that loses nothing but float rounding."""
    want = np.dtype(spec.dtype)
    if array.dtype.kind == "f" and want.kind == "f":
        with np.errstate(over="ignore"):
            cast = array.astype(want)
        if np.array_equal(np.isinf(cast), np.isinf(array)):
            return cast
        what = f"values up to {np.nanmax(np.abs(array)):g} do not fit in {want}"
    elif array.dtype.kind in "iu" and want.kind in "iu":
        cast = array.astype(want)
        if np.array_equal(cast, array):
            return cast
        what = f"values from {array.min()} to {array.max()} do not fit in {want}"
    else:
        what = f"{array.dtype} is neither a frame (uint8) nor a model input"
    raise InputError(
        "BNF-R011",
        f"{what}; the model takes {spec.describe()}",
        where=f"input {spec.name!r}",
        fix=f"convert it: array.astype({spec.dtype!r})",
    )
