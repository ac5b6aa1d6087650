"""Statistics that were collected in one place, as a file, and merged exactly in another.

A part says which weights it is of and how its frames were prepared, and has a checksum over all of it. JSON
holds the numbers as they are: a float64 is written so that the same float64 is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnfold._version import __version__
from bnfold.errors import PlatformError, UsageError
from bnfold.files import refuse_special
from bnfold.statistics.forward import Site
from bnfold.statistics.moments import Moments
from bnfold.statistics.pooling import Pool
from bnfold.statistics.skipped import Skipped
from bnfold.statistics.targets import Target
from bnfold.wording import clip, clip_path

KIND = "bnfold.recalibration.part"
_SCHEMA = 1


@dataclass(frozen=True)
class Origin:
    """What parts must have in common.

    Attributes:
        sha256: of the checkpoint file.
        state: the state dict in it.
        prepared: how frames became inputs: JSON types.
    """

    sha256: str
    state: str
    prepared: Any


@dataclass(frozen=True)
class Part:
    """One part, as it was read.

    Attributes:
        path: the file.
        origin: what it is of.
        pool: its statistics.
        checksum: of its content; the same for a copy.
    """

    path: Path
    origin: Origin
    pool: Pool
    checksum: str


def to_bytes(pool: Pool, origin: Origin) -> bytes:
    """A part as a file."""
    content = {
        "kind": KIND,
        "schema": _SCHEMA,
        "bnfold": __version__,
        "checkpoint": {"sha256": origin.sha256, "state": origin.state},
        "prepared": origin.prepared,
        "frames": pool.frames,
        "batches": pool.batches,
        "layers": [
            {
                "name": target.name,
                "mean": target.mean,
                "variance": target.variance,
                "calls": pool.sites[target].calls,
                "eps": pool.sites[target].eps,
                "moments": moments.to_json(),
            }
            for target, moments in pool.moments.items()
        ],
        "skipped": [one.to_json() for one in pool.skipped],
        "foreign": pool.foreign,
        "untouched": pool.untouched,
    }
    return (json.dumps({**content, "checksum": _checksum(content)}, indent=1) + "\n").encode()


def read(path: Path) -> Part:
    """One part.

    Raises:
        UsageError: it is no part, or a damaged one (BNF-U126).
        PlatformError: it cannot be read (BNF-P015, BNF-P016).
    """
    refuse_special(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlatformError("BNF-P015", f"cannot read the file: {error.strerror}", where=str(path)) from error
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise ValueError("it is not what --collect writes")
        if content.get("schema") != _SCHEMA:
            raise ValueError(f"its schema is {content.get('schema')!r}, and this version reads {_SCHEMA}")
        checksum = content.pop("checksum", None)
        if checksum != _checksum(content):
            raise ValueError("its checksum differs: it was changed after it was written")
        checkpoint = content["checkpoint"]
        origin = Origin(str(checkpoint["sha256"]), str(checkpoint["state"]), content["prepared"])
        return Part(path, origin, _pool(content), str(checksum))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            "BNF-U126",
            f"{clip_path(path.name)} is no part, or a damaged one",
            where=clip(told, 150),
            fix="collect it again: bnfold recalibrate CKPT --samples DIR --collect part.json",
        ) from error


def merge(parts: Sequence[Part], origin: Origin) -> Pool:
    """The union, in the order given.

    Args:
        parts: at least one.
        origin: what the checkpoint at hand is; how frames are prepared is taken from the first part.

    Raises:
        UsageError: parts of other weights or of frames prepared in another way (BNF-U127); the same part
            twice (BNF-U128).
    """
    first = parts[0]
    seen: dict[str, Part] = {}
    for part in parts:
        for what, have, want in (
            ("another checkpoint", part.origin.sha256, origin.sha256),
            ("another state dict", part.origin.state, origin.state),
            ("frames that were prepared in another way", part.origin.prepared, first.origin.prepared),
        ):
            if have != want:
                raise UsageError(
                    "BNF-U127",
                    f"{clip_path(part.path.name)} is of {what}",
                    where=f"{clip(_short(have), 60)}, not {clip(_short(want), 60)}",
                    fix="merge parts that were collected with the same checkpoint and the same options",
                )
        if part.checksum in seen:
            raise UsageError(
                "BNF-U128",
                f"{clip_path(part.path.name)} is given twice: its frames would count twice",
                where=f"the same content as {clip_path(seen[part.checksum].path)}",
                fix="give each part once",
            )
        seen[part.checksum] = part
    total = first.pool
    for part in parts[1:]:
        total = total + part.pool
    return total


def _pool(content: Mapping[str, Any]) -> Pool:
    pool = Pool(
        frames=_whole(content["frames"]),
        batches=_whole(content["batches"]),
        skipped=[_skipped(entry) for entry in content["skipped"]],
        foreign=dict(content["foreign"]),
        untouched=dict(content["untouched"]),
    )
    for layer in content["layers"]:
        target = Target(str(layer["name"]), str(layer["mean"]), str(layer["variance"]))
        pool.moments[target] = Moments.from_json(layer["moments"])
        pool.sites[target] = Site([str(call) for call in layer["calls"]], float(layer["eps"]))
    return pool


def _skipped(entry: Mapping[str, Any]) -> Skipped:
    return Skipped(
        _whole(entry["batch"]),
        tuple(map(str, entry["frames"])),
        tuple(map(_whole, entry["index"])),
        bool(entry["whole_batch"]),
        str(entry["where"]),
        str(entry["reason"]),
    )


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: Any) -> str:
    return value[:16] if isinstance(value, str) else json.dumps(value)
