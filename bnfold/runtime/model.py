"""An opened artifact: prepare a frame, run it, read the answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bnfold import manifest as manifest_file
from bnfold.errors import ArtifactError, BnfoldError, UsageError
from bnfold.numerics import is_finite
from bnfold.runtime import interpreters, opening
from bnfold.runtime.feeds import Feeds
from bnfold.runtime.session import Array, Binding, Run
from bnfold.signature import TensorSpec

if TYPE_CHECKING:  # what opening and answering do not need is imported where it is
    from bnfold.runtime.opening import Held
    from bnfold.runtime.scores import Score
    from bnfold.runtime.self_test import OutputCheck

Outputs: TypeAlias = dict[str, Array]


def open(
    artifact: str | os.PathLike[str],
    *,
    threads: int = 1,
    runtime: str | None = None,
    in_memory: bool = False,
) -> Model:
    """Opens an ONNX or TFLite artifact in the interpreter that is installed.

    Args:
        artifact: a file written by ``bnfold convert``. Its checksum is verified.
        threads: how many threads one answer may use.
        runtime: ``onnxruntime``, ``ai-edge-litert`` or ``tflite-runtime``; None: the first there is.
        in_memory: read the whole file, so that it may be written over while the model is in use. That takes
            longer and, in onnxruntime, more memory; TFLite files of up to 8 MiB are read anyway. See
            :mod:`bnfold.runtime.opening`.

    Raises:
        ArtifactError: BNF-M001 to BNF-M007 as :func:`bnfold.manifest.read`; BNF-M010 the interpreter does not
            take the file; BNF-M011 the file has other tensors than its manifest says.
        PlatformError: BNF-P020 no interpreter is installed; BNF-P021 it is, and does not load.
        UsageError: BNF-U060 the runtime does not run this format; BNF-U061 ``threads`` is below 1.
    """
    if threads < 1:
        raise UsageError("BNF-U061", f"threads is {threads}", fix="give 1 or more")
    try:
        held = None if in_memory else opening.hold(artifact)
        model = None if held is None else _from_path(held, threads, runtime)
        if model is None:
            data = manifest_file.read_bytes(artifact)
            manifest = manifest_file.parse(data, where=str(artifact))
            model = Model(data, manifest, threads=threads, runtime=runtime)
        return model
    except BnfoldError as error:
        error.where = error.where or str(artifact)
        raise


def _from_path(held: Held, threads: int, runtime: str | None) -> Model | None:
    """The model, opened by its path; None where the file's bytes must decide."""
    manifest = held.read()
    try:
        model = Model(held, manifest, threads=threads, runtime=runtime)
    except ArtifactError:  # it may be the path that the interpreter does not take, or another file by now
        return None
    return model if held.in_place() else None


class Model:
    """An artifact, ready to answer. Made by :func:`open`.

    The same frame gives the same answer every time: nothing is kept from one call to the next. Calls from
    several threads are safe.

    Attributes:
        manifest: what the artifact says of itself.
        inputs, outputs: the tensors, by bnfold's names.
    """

    def __init__(
        self,
        source: bytes | Held,
        manifest: Mapping[str, Any],
        *,
        threads: int = 1,
        runtime: str | None = None,
    ) -> None:
        inputs, outputs = Binding.of(manifest, "inputs"), Binding.of(manifest, "outputs")
        self.manifest = manifest
        self.inputs: tuple[TensorSpec, ...] = inputs.specs
        self.outputs: tuple[TensorSpec, ...] = outputs.specs
        self._interpreter, self._session = interpreters.start(
            source if isinstance(source, bytes) else source.path,
            manifest,
            inputs,
            outputs,
            threads=threads,
            runtime=runtime,
        )
        self._run: Run = self._session.run
        if isinstance(source, opening.Held) and manifest["target"] == "tflite":
            # onnxruntime has copied all of the file by now, TFLite interpreters keep it mapped
            self._run = source.watched(self._run)
        self._names = outputs.names
        self._feeds = Feeds(
            self.inputs, {entry["name"]: entry["normalisation"] for entry in manifest["inputs"]}
        )
        self._dtype, self._shape = self._feeds.only

    def __repr__(self) -> str:
        return f"<bnfold Model {self.manifest['name']!r} on {self.runtime}>"

    @property
    def runtime(self) -> str:
        """Name and version of the interpreter: ``onnxruntime 1.32.0``."""
        return f"{self._interpreter.name} {interpreters.version(self._interpreter)}"

    @property
    def answers(self) -> tuple[TensorSpec, ...]:
        """The outputs of the network itself: a monitored artifact also gives what its layers see."""
        recorded = self.manifest.get("drift_reference") or {}
        taps = {layer.get("tap") for layer in recorded.get("layers", [])}
        return tuple(spec for spec in self.outputs if spec.name not in taps)

    def predict(self, frame: Any) -> Outputs:
        """The answer to one frame.

        Args:
            frame: for a model with one input, one of
                - a uint8 array (H, W), (H, W, 3) RGB or (H, W, 4), or the path of an image: a frame, which is
                  prepared as the manifest's normalisation says;
                - an array of floats (or of the integers that the input takes): a model input, used as it is.
                  A missing batch axis is added; float64 is rounded to the input's dtype;
                - the path of an ``.npy`` file with either.
                For several inputs, a dictionary of these by input name.

        Returns:
            The outputs by name, each with its batch axis.

        Raises:
            InputError: what is given does not fit (BNF-R010 shape, R011 dtype, R012 names, R013 several
                frames for a batch of another size, R014 no normalisation, R015 not an image, R018 values
                that are not finite); as :func:`bnfold.runtime.images.read` for a path.
            ArtifactError: BNF-M012 the interpreter stopped.
            PlatformError: BNF-P080 the artifact's file was written into since it was opened.
        """
        return self._run(self._feeds.of_frame(frame))

    def prepare(self, frame: Any, *, finite: bool = True) -> dict[str, Array]:
        """One frame as the model inputs that `predict` would run on: what `predict_raw` takes.

        Args:
            frame: as for `predict`.
            finite: False lets NaN and infinity pass, for whoever wants to count such frames.

        Raises:
            InputError: as `predict`.
        """
        arrays = self._feeds.of_frame(frame, finite=finite)
        return {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}

    def predict_raw(self, arrays: Array | Mapping[str, Array]) -> Outputs:
        """The answer to model inputs that are ready: exact dtype and shape, batch axis included.

        Args:
            arrays: by input name, or the array itself for a model with one input.

        Returns:
            The outputs by name, each with its batch axis.

        Raises:
            InputError: BNF-R010 shape, BNF-R011 dtype, BNF-R012 names, BNF-R013 another batch, BNF-R018
                values that are not finite: many networks swallow NaN and answer as if nothing were wrong.
            ArtifactError: BNF-M012 the interpreter stopped.
            PlatformError: BNF-P080 the artifact's file was written into since it was opened.
        """
        # The one input of most models, as it should be, goes through as few calls as can be: behind each
        # frame the network has put Python out of the cache, and then a call takes some microseconds
        if (
            type(arrays) is np.ndarray
            and arrays.shape == self._shape
            and arrays.dtype is self._dtype
            and is_finite(arrays)
        ):
            return self._run((arrays,))
        return self._run(self._feeds.of_arrays(arrays))

    def top(self, outputs: Outputs | Array, k: int = 5, *, output: str | None = None) -> list[Score]:
        """The k largest scores of one answer, the largest first; ties in the order of the classes.

        Scores are the model's raw outputs: what they mean (logits, probabilities) is up to the model.

        Args:
            outputs: what :meth:`predict` gave, or one of its arrays.
            k: how many; all where there are fewer.
            output: which one, where the model has several.

        Raises:
            InputError: BNF-R016 the scores are not finite; BNF-R017 several answers (a batch), a single
                number, or as many scores as labels are not there.
            UsageError: BNF-U062 the model has several outputs and ``output`` names none of them.
        """
        from bnfold.runtime import scores

        return scores.top(self._pick(outputs, output), self.manifest["labels"], k)

    def self_test(self) -> list[OutputCheck]:
        """Replays the golden frame: does the file give here what it gave at conversion?

        Returns:
            One result per output; the artifact passes where all have.

        Raises:
            ArtifactError: BNF-M009 the artifact carries no golden frame; BNF-M008 it is damaged.
        """
        from bnfold.runtime import self_test

        return self_test.replay(self)

    def _pick(self, outputs: Outputs | Array, output: str | None) -> Array:
        if not isinstance(outputs, Mapping):
            return outputs
        name = output or (self._names[0] if len(self._names) == 1 else None)
        if name is None or name not in outputs:
            raise UsageError(
                "BNF-U062",
                f"the model has {len(self._names)} outputs" if name is None else f"no output {name!r}",
                fix=f"name one of {', '.join(self._names)}",
            )
        return outputs[name]
