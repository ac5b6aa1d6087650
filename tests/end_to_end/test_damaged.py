"""200 damaged inputs through the command line: a code each, no traceback, no artifact, no foreign code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from bnfold_cli.main import main
from safetensors.torch import save_file

from tests import damaged
from tests.verify.networks import Small, built

ROOT = Path(__file__).parents[2] / "sample_models" / "mnist_mlp"
CODE = re.compile(r"BNF-[A-Z]\d{3}")


def source_of(folder: Path) -> tuple[Path, str, str]:
    """A good checkpoint, its model and its input: a trained sample where there is one."""
    sample = ROOT / "after.safetensors"
    if sample.exists() and (ROOT / "model.py").exists():
        return sample, f"{ROOT / 'model.py'}:after", "1x1x28x28"
    path = folder / "small.safetensors"
    save_file(built(Small).state_dict(), path)
    return path, f"{Path(__file__).parents[1] / 'verify' / 'networks.py'}:Small", "1x3x8x8"


def test_200_damaged_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    source, model, shape = source_of(tmp_path)
    sentinel = tmp_path / "foreign_code_ran"
    items = damaged.make_all(tmp_path / "damaged", source, model, sentinel)
    assert len(items) == 200
    wrong: list[str] = []
    seen: dict[str, int] = {}
    for number, item in enumerate(items):
        out = tmp_path / f"out{number}"
        status = main(
            [
                *("convert", str(item.path), "--model", item.model, "--input", shape),
                *("-o", str(out), "--format", "json"),
            ]
        )
        captured = capsys.readouterr()
        document = json.loads(captured.out)
        text = captured.out + captured.err
        told = CODE.findall(text)
        complaints = {
            "status": status != {"error": 2, "finding": 1}[item.outcome],
            "passed": document["passed"] is not False,
            "code": not told,
            "traceback": "Traceback (most recent call last)" in text,
            "artifact": out.exists() and any(out.iterdir()),
            "foreign code": sentinel.exists(),
        }
        wrong += [f"{item.name}: {what} ({status} {told[:2]})" for what, is_so in complaints.items() if is_so]
        for code in set(told):
            seen[code] = seen.get(code, 0) + 1
    assert wrong == []
    assert len(seen) >= 15, seen  # a cause each, not one code for all


def test_the_good_one_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, model, shape = source_of(tmp_path)
    out = tmp_path / "out"
    status = main(
        ["convert", str(source), "--model", model, "--input", shape, "-o", str(out), "--format", "json"]
    )
    document = json.loads(capsys.readouterr().out)
    assert (status, document["passed"]) == (0, True)
    assert [path.suffix for path in out.iterdir()] == [".onnx"]


def test_a_flip_that_no_check_of_values_can_see_is_found_by_its_sha256(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    source, model, shape = source_of(tmp_path)
    good = source.read_bytes()
    flipped = tmp_path / "flipped.safetensors"
    flipped.write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
    arguments = ["convert", str(flipped), "--model", model, "--input", shape, "-o", str(tmp_path / "out")]
    status = main([*arguments, "--sha256", hashlib.sha256(good).hexdigest()])
    assert status == 2
    assert "BNF-L009" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
