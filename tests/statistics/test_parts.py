from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold.errors import UsageError
from bnfold.statistics import parts
from bnfold.statistics.batches import Batches
from bnfold.statistics.forward import Forward
from bnfold.statistics.parts import Origin
from bnfold.statistics.pooling import Pool, one_pass

from .mixed_networks import Mixed, drawn, frames

ORIGIN = Origin("0" * 64, "model", {"inputs": [1]})


def pool(*sizes: int, seed: int = 1) -> Pool:
    module = drawn(Mixed())
    return one_pass(Forward(module), Batches(frames(*sizes, seed=seed), module))[0]


def written(path: Path, content: Pool, origin: Origin = ORIGIN) -> Path:
    path.write_bytes(parts.to_bytes(content, origin))
    return path


def test_a_part_reads_back_to_the_same_numbers(tmp_path: Path) -> None:
    bad = frames(4)[0]
    bad[2] = float("nan")
    module = drawn(Mixed())
    original = one_pass(Forward(module), Batches([*frames(6, 3), bad], module), guard="frame")[0]
    part = parts.read(written(tmp_path / "a.json", original))
    assert part.origin == ORIGIN
    assert (part.pool.frames, part.pool.batches, part.pool.sites) == (12, 3, original.sites)
    assert [one.to_json() for one in part.pool.skipped] == [one.to_json() for one in original.skipped]
    for target, moments in original.moments.items():
        assert part.pool.moments[target].mean.tolist() == moments.mean.tolist()
        assert part.pool.moments[target].m2.tolist() == moments.m2.tolist()


def test_parts_are_the_whole(tmp_path: Path) -> None:
    whole = pool(6, 3, 5)
    batches = frames(6, 3, 5)
    module = drawn(Mixed())
    halves = [one_pass(Forward(module), Batches(some, module))[0] for some in (batches[:1], batches[1:])]
    read = [parts.read(written(tmp_path / f"{i}.json", half)) for i, half in enumerate(halves)]
    merged = parts.merge(read, ORIGIN)
    assert (merged.frames, merged.batches) == (14, 3)
    for target, moments in whole.moments.items():
        assert merged.moments[target].count == moments.count
        np.testing.assert_allclose(merged.moments[target].mean, moments.mean, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(merged.moments[target].m2, moments.m2, rtol=1e-12)


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        (Origin("1" * 64, "model", {"inputs": [1]}), "another checkpoint"),
        (Origin("0" * 64, "ema", {"inputs": [1]}), "another state dict"),
        (Origin("0" * 64, "model", {"inputs": [2]}), "frames that were prepared in another way"),
    ],
)
def test_parts_of_something_else(tmp_path: Path, origin: Origin, told: str) -> None:
    read = [
        parts.read(written(tmp_path / "a.json", pool(6))),
        parts.read(written(tmp_path / "b.json", pool(5), origin)),
    ]
    with pytest.raises(UsageError) as caught:
        parts.merge(read, ORIGIN)
    assert caught.value.code == "BNF-U127"
    assert caught.value.what == f"b.json is of {told}"


def test_a_part_twice(tmp_path: Path) -> None:
    read = [parts.read(written(tmp_path / name, pool(6))) for name in ("a.json", "b.json")]
    with pytest.raises(UsageError) as caught:
        parts.merge(read, ORIGIN)
    assert caught.value.code == "BNF-U128"


@pytest.mark.parametrize("change", ["frames", "checksum", "kind", "schema", "layers", "not json", "a list"])
def test_a_damaged_part(tmp_path: Path, change: str) -> None:
    path = written(tmp_path / "a.json", pool(6))
    content: Any = json.loads(path.read_text())
    if change in ("frames", "checksum", "kind", "schema"):
        content[change] = 5
    elif change == "layers":
        content["layers"][0]["moments"]["m2"][0] = -1.0
        content.pop("checksum")
        content["checksum"] = parts._checksum(content)  # right, and still no moments
    text = {"not json": "{", "a list": "[]"}.get(change, json.dumps(content))
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        parts.read(path)
    assert caught.value.code == "BNF-U126"
