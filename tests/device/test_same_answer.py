"""The same frame gives the same answer to the last bit, whoever asks, however it lies in memory, for ever."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import bnfold
from bnfold.runtime import Model

from .conftest import Array, Case

pytestmark = pytest.mark.device


def bits(outputs: dict[str, Array]) -> str:
    """Every bit of an answer: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, values in outputs.items():
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def test_a_thousand_times_whatever_ran_between(case: Case) -> None:
    expected = [bits(case.model.predict(frame)) for frame in case.frames]
    assert len(set(expected)) > len(expected) // 2
    random = np.random.default_rng(0)
    for turn in range(1000):
        index = int(random.integers(len(case.frames)))
        assert bits(case.model.predict(case.frames[index])) == expected[index], turn
        assert bits(case.model.predict(case.frames[0])) == expected[0], turn


def test_another_model_of_the_same_file_beside_it(case: Case) -> None:
    """Neither a second session nor threads that load the machine change a bit."""
    expected = [bits(case.model.predict(frame)) for frame in case.frames]

    def answers(model: Model) -> list[str]:
        return [bits(model.predict(frame)) for _ in range(5) for frame in case.frames]

    models = [bnfold.open(case.path) for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(answers, [*models, *models]):  # each model is shared by two threads
            assert found == expected * 5


PROGRAM = """
import hashlib, json, sys
import numpy as np
import bnfold

artifact, frames, before = sys.argv[1:]
model = bnfold.open(artifact)
with np.load(frames) as archive:
    arrays = {name: archive[name] for name in archive.files if name != "labels"}
rows = [dict(zip(arrays, row)) for row in zip(*arrays.values())]
rows = [row["frames"] if "frames" in row else row for row in rows]
for index in range(int(before)):
    model.predict(rows[(7 * index + 1) % len(rows)])
found = []
for row in rows[:8]:
    digest = hashlib.sha256()
    for name, values in model.predict(row).items():
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    found.append(digest.hexdigest())
print(json.dumps(found))
"""


def test_fresh_processes(case: Case, folder: Path) -> None:
    expected = [bits(case.model.predict(frame)) for frame in case.frames[:8]]
    frames = folder / ("digits.npz" if case.best else "sensor_frames.npz")
    for seed, before in (("0", 0), ("1", 0), ("2", 50)):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, case.path, frames, str(before)],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == expected


def layouts(array: Array) -> dict[str, Array]:
    """The same values as they may come from a camera: views, odd addresses, other orders, read-only."""
    wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2), dtype=array.dtype)
    wide[..., ::2] = array
    raw = np.zeros(array.nbytes + 1, dtype=np.uint8)
    odd = raw[1:].view(array.dtype).reshape(array.shape)
    odd[...] = array
    backwards = np.ascontiguousarray(array[..., ::-1])
    frozen = array.copy()
    frozen.flags.writeable = False
    buffer = np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape)
    return {
        "strided": wide[..., ::2], "odd address": odd, "backwards": backwards[..., ::-1],
        "fortran": np.asfortranarray(array), "read-only": frozen, "a buffer of bytes": buffer,
    }  # fmt: skip


def test_frames_from_any_source(digits: Case, tmp_path: Path) -> None:
    for index in range(3):
        frame = digits.frames[index]
        expected = bits(digits.model.predict(frame))
        colour = np.repeat(frame[:, :, np.newaxis], 3, axis=2)
        large = np.kron(frame, np.ones((3, 3), dtype=np.uint8))
        for plain, answer in (
            (frame, expected),
            (colour, expected),
            (large, bits(digits.model.predict(large.copy()))),
        ):
            for name, given in layouts(plain).items():
                before = given.copy()
                assert bits(digits.model.predict(given)) == answer, name
                assert np.array_equal(given, before)
        np.save(tmp_path / "frame.npy", frame)
        assert bits(digits.model.predict(np.load(tmp_path / "frame.npy", mmap_mode="r"))) == expected


def test_model_inputs_from_any_source(case: Case) -> None:
    frame = case.frames[2]
    arrays = frame if isinstance(frame, dict) else {"image": (frame / 255).astype(np.float32)[None]}
    arrays = {name: array[np.newaxis] for name, array in arrays.items()}
    expected = bits(case.model.predict_raw(arrays))
    for kind in layouts(np.zeros((2, 2), dtype=np.float32)):
        given = {name: layouts(array)[kind] for name, array in arrays.items()}
        assert bits(case.model.predict_raw(given)) == expected, kind
        assert bits(case.model.predict(given)) == expected, kind
    swapped = {name: array.astype(array.dtype.newbyteorder()) for name, array in arrays.items()}
    assert bits(case.model.predict(swapped)) == expected
    double = {name: array.astype(np.float64) for name, array in arrays.items()}
    assert bits(case.model.predict(double)) == expected


MEMORY = """
import sys
import numpy as np
import bnfold
from bnfold.drift import Stream

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

artifact, frames, monitored = sys.argv[1:]
with np.load(frames) as archive:
    rows = list(archive["frames"])
predict = bnfold.open(artifact).predict
if monitored:
    predict = Stream(monitored, clean=artifact, every=10).predict
for index in range(2000):
    predict(rows[index % len(rows)])
before = resident()
for index in range(10000):
    predict(rows[index % len(rows)])
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc for the memory")
@pytest.mark.parametrize("watched", [False, True], ids=["alone", "watched"])
def test_ten_thousand_frames_leave_memory_flat(digits: Case, folder: Path, watched: bool) -> None:
    """A kilobyte that is kept per frame would be ten megabytes."""
    monitored = folder / f"mnist_mobilenet.monitor{digits.path.suffix}" if watched else ""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, digits.path, folder / "digits.npz", monitored],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2_000_000
