"""``bnfold audit``: files in, one document or one page out, and the exit status."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bnfold.report import html
from tests.report.html.reading import read
from tests.statistics.networks import STEPS, Twice, healthy, trained

from .conftest import Cli

MODEL = """
import torch
from torch import nn

from tests.statistics.networks import Twice

def net():
    network = nn.Sequential()
    before = 3
    for number, width in enumerate((4, 4, 6), start=1):
        network.add_module(f"conv{number}", nn.Conv2d(before, width, 3))
        network.add_module(f"bn{number}", nn.BatchNorm2d(width))
        network.add_module(f"relu{number}", nn.ReLU())
        before = width
    return network

class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        return nn.functional.batch_norm(self.bn(self.conv(x)), None, None, training=True)
"""
NET = ("--model", "net.py:net")
INPUT = (*NET, "--input", "1x3x12x12")


@pytest.fixture(autouse=True)
def _model(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)


def poisoned(seed: int = 0) -> Any:
    network = healthy(seed)
    network.bn2.running_mean[1] = math.nan
    network.bn2.running_var[1] = math.nan
    for tensor in (network.bn3.running_mean, network.bn3.running_var):
        tensor.fill_(math.nan)
    return network


def codes(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(found["code"], found["severity"], found["where"]) for found in document["findings"]]


def test_a_healthy_checkpoint_passes(cli: Cli) -> None:
    save_file(healthy().state_dict(), "net.safetensors")
    for options in ((), NET, INPUT, ("--steps", STEPS), ("--momentum", "0.1")):
        result = cli("audit", "net.safetensors", *options, "--format", "json")
        assert (result.status, result.err) == (0, "")
        document = result.document
        assert (document["schema"], document["passed"], document["findings"]) == (1, True, [])
        assert [layer["name"] for layer in document["layers"]] == ["bn1", "bn2", "bn3"]
    text = cli("audit", "net.safetensors")
    assert "net.safetensors: 3 BatchNorms" in text.out
    assert "No layer stands out among 3" in text.out
    assert text.out.endswith("\npassed\n")


def test_what_is_assumed_is_said(cli: Cli) -> None:
    torch.save(trained(healthy(), steps=10).state_dict(), "net.pt")
    result = cli("audit", "net.pt", "--format", "json")
    assert result.status == 1
    assert result.document["assumed"] == {"momentum": 0.1, "eps": 1e-5}
    assert codes(result.document) == [("BNF-A004", "error", "bn1.num_batches_tracked")]
    known = cli("audit", "net.pt", *NET, "--format", "json")
    assert known.document["assumed"] == {}
    fast = cli("audit", "net.pt", "--momentum", "0.9", "--format", "json")
    assert (fast.status, fast.document["findings"]) == (0, [])


def test_the_origin_first_and_what_follows_in_a_line(cli: Cli) -> None:
    torch.save(poisoned().state_dict(), "net.pt")
    result = cli("audit", "net.pt", *INPUT, "--format", "json")
    assert result.status == 1
    assert codes(result.document) == [
        ("BNF-A001", "error", "bn2.running_mean[1]"),
        ("BNF-A001", "error", "bn3.running_mean[0, 1, 2, 3, 4, 5]"),
    ]
    assert result.document["states"] == [
        {"name": "state_dict", "batch_norms": 3, "source": "module", "order": "execution"}
    ]
    text = cli("audit", "net.pt").out
    places = [
        text.index(words) for words in ("bn2.running_mean[1]", "then   bn3.running_mean", "1 layer of 3")
    ]
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith("\nFAILED\n")


def test_a_file_with_several_state_dicts_is_examined_whole(cli: Cli) -> None:
    torch.save({"model": healthy().state_dict(), "ema": poisoned().state_dict(), "epoch": 3}, "both.pt")
    result = cli("audit", "both.pt", "--format", "json")
    assert result.status == 1
    document = result.document
    assert [state["name"] for state in document["states"]] == ["model", "ema"]
    assert codes(document) == [
        ("BNF-A002", "error", "bn2.running_mean[1]"),
        ("BNF-A002", "error", "bn3.running_mean[0, 1, 2, 3, 4, 5]"),
    ]
    assert [found["evidence"]["state"] for found in document["findings"]] == ["ema", "ema"]
    layers = [(layer["state"], layer["name"]) for layer in document["layers"]]
    assert layers[2:4] == [("model", "bn3"), ("ema", "bn1")]
    assert document["findings"][0]["message"].startswith('in "ema": ')
    assert cli("audit", "both.pt", "--state", "model").status == 0
    alone = cli("audit", "both.pt", "--state", "ema", "--format", "json")
    assert [code for code, _, _ in codes(alone.document)] == ["BNF-A002", "BNF-A002"]
    assert "ema: bn2" in cli("audit", "both.pt").out


def test_the_same_network_twice_is_told_once(cli: Cli) -> None:
    state = poisoned().state_dict()
    torch.save({"model": state, "best": {key: value.clone() for key, value in state.items()}}, "both.pt")
    document = cli("audit", "both.pt", "--format", "json").document
    assert len(document["findings"]) == 2
    assert document["findings"][0]["evidence"]["states"] == ["model", "best"]
    assert document["findings"][0]["message"].startswith('in "model" and "best": ')


def test_the_module_takes_the_place_of_its_state_dict(cli: Cli) -> None:
    torch.save({"model": healthy().state_dict(), "ema": healthy(1).state_dict()}, "both.pt")
    document = cli("audit", "both.pt", *NET, "--state", "ema", "--format", "json").document
    assert [(state["name"], state["source"]) for state in document["states"]] == [("ema", "module")]
    document = cli("audit", "both.pt", *INPUT, "--format", "json").document
    assert [(state["name"], state["source"]) for state in document["states"]] == [
        ("model", "module"), ("ema", "state dict"),
    ]  # fmt: skip
    assert [found["code"] for found in document["findings"]] == ["BNF-L101"]


def test_against_another_file(cli: Cli) -> None:
    network = healthy()
    save_file(network.state_dict(), "rank0.safetensors")
    network.bn1.running_mean += 0.01
    save_file(network.state_dict(), "rank1.safetensors")
    result = cli("audit", "rank1.safetensors", "--against", "rank0.safetensors", "--format", "json")
    assert result.status == 0
    assert codes(result.document) == [("BNF-A013", "warning", "bn1.running_mean")]
    torch.save(poisoned().state_dict(), "ema.pt")
    result = cli("audit", "ema.pt", "--against", "rank0.safetensors", "--format", "json")
    assert (result.status, codes(result.document)[0][0]) == (1, "BNF-A002")


def test_against_a_file_with_a_prefix(cli: Cli) -> None:
    state = healthy().state_dict()
    torch.save(state, "plain.pt")
    network = healthy()
    network.bn1.running_mean += 0.01
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, "wrapped.pt")
    assert cli("audit", "plain.pt", "--against", "wrapped.pt").status == 2
    options = ("--against", "wrapped.pt", "--strip-prefix", "module.", "--format", "json")
    assert codes(cli("audit", "plain.pt", *options).document) == [("BNF-A013", "warning", "bn1.running_mean")]


def test_numbers_by_channel_only_when_asked_for(cli: Cli) -> None:
    network = healthy().requires_grad_(False)
    network.bn1.running_var[2] = math.inf
    torch.save(network.state_dict(), "net.pt")
    plain = cli("audit", "net.pt", *INPUT, "--format", "json").document
    assert "by_channel" not in plain["layers"][0]
    full = cli("audit", "net.pt", *INPUT, "--channels", "--format", "json").document
    by_channel = full["layers"][0]["by_channel"]
    assert by_channel["mean"] == pytest.approx(network.bn1.running_mean.tolist())
    assert by_channel["variance"][2] is None
    assert by_channel["scale"] is None
    scale = network.bn3.weight / (network.bn3.running_var + 1e-5).sqrt()
    assert full["layers"][2]["by_channel"]["scale"] == pytest.approx(scale.tolist())
    assert full["layers"][2]["gain"]["max"] == pytest.approx(float(scale.abs().max()))


def test_folded_weights_need_the_network(cli: Cli) -> None:
    network = healthy().requires_grad_(False)
    torch.save(network.state_dict(), "net.pt")
    assert cli("audit", "net.pt", *NET, "--format", "json").document["folded_weights"] == []
    rows = cli("audit", "net.pt", *INPUT, "--channels", "--format", "json").document["folded_weights"]
    assert [(row["layer"], row["folded"]) for row in rows] == [(f"conv{i}", True) for i in (1, 2, 3)]
    scale = network.bn1.weight / (network.bn1.running_var + 1e-5).sqrt()
    size = (network.conv1.weight * scale.reshape(-1, 1, 1, 1)).abs().flatten(1).amax(1)
    assert rows[0]["by_channel"] == pytest.approx(size.tolist(), rel=1e-5)
    assert rows[0]["channel_range"] == pytest.approx(float(size.max() / size.min()), rel=1e-5)


def test_folded_weights_that_half_precision_cannot_hold(cli: Cli) -> None:
    network = healthy()
    with torch.no_grad():
        network.bn2.running_var[3] = 1e-9
        network.conv2.weight[3] *= 1000
    torch.save(network.state_dict(), "net.pt")
    document = cli("audit", "net.pt", *INPUT, "--format", "json").document
    assert ("BNF-A008", "warning", "conv2.weight[3]") in codes(document)
    text = cli("audit", "net.pt", *INPUT).out
    assert "Folded weights: how max|w| differs" in text
    assert max(map(len, text.splitlines())) <= 80


def test_calls_tell_a_shared_batch_norm(cli: Cli) -> None:
    network = trained(Twice())
    network.bn.num_batches_tracked.fill_(2 * STEPS)
    torch.save(network.state_dict(), "net.pt")
    twice = ("--model", "net.py:Twice")
    assert codes(cli("audit", "net.pt", *twice, "--format", "json").document)[0][0] == "BNF-A031"
    result = cli("audit", "net.pt", *twice, "--input", "1x3x4x4", "--format", "json")
    assert (result.status, codes(result.document)) == (1, [("BNF-A010", "error", "bn.num_batches_tracked")])


def test_a_functional_batch_norm_shows_when_the_network_runs(cli: Cli) -> None:
    network = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 1), "bn": nn.BatchNorm2d(4)})
    torch.save(trained(network).state_dict(), "net.pt")
    model = ("--model", "net.py:Functional")
    assert cli("audit", "net.pt", *model).status == 0
    result = cli("audit", "net.pt", *model, "--input", "2x3x4x4", "--format", "json")
    assert (result.status, codes(result.document)) == (1, [("BNF-A015", "error", "batch_norm")])


def test_the_order_of_a_file_that_sorts_its_names(cli: Cli) -> None:
    network = nn.Sequential()
    for name in ("stem", *(f"block{i}" for i in range(1, 12)), "head"):
        network.add_module(name, nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    trained(network)
    save_file(network.state_dict(), "net.safetensors")
    document = cli("audit", "net.safetensors", "--format", "json").document
    assert [layer["name"] for layer in document["layers"]] == [
        f"{name}.1" for name, _ in network.named_children()
    ]
    assert document["states"][0]["order"] == "name"
    for name, child in network.named_children():
        if name not in ("stem", "block1"):
            child[1].running_mean.fill_(math.nan)
    network.block1[1].running_mean[2] = math.nan
    save_file(network.state_dict(), "net.safetensors")
    result = cli("audit", "net.safetensors")
    assert "error[BNF-A001] block1.1.running_mean[2]" in result.out
    assert "in the order of their names" in result.out


def test_nothing_to_audit_is_said(cli: Cli) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, "net.pt")
    result = cli("audit", "net.pt", "--format", "json")
    assert result.status == 0
    assert codes(result.document) == [("BNF-A028", "info", "")]
    assert "0 BatchNorms" in cli("audit", "net.pt").out


def test_every_layer_with_verbose(cli: Cli) -> None:
    torch.save(healthy().state_dict(), "net.pt")
    text = cli("audit", "net.pt", "--verbose").out
    assert f"3 layers, each updated {STEPS} times" in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith("  bn")] == ["bn1", "bn2", "bn3"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("audit", "net.pt", "--input", "1x3x8x8"), "BNF-U032"),
        (("audit", "net.pt", "--steps", "0"), "BNF-U010"),
        (("audit", "net.pt", "--momentum", "0"), "BNF-U010"),
        (("audit", "net.pt", "--momentum", "1.5"), "BNF-U010"),
        (("audit", "net.pt", "--state", "ema"), "BNF-L014"),
        (("audit", "net.pt", "--against", "other.pt"), "BNF-U031"),
        (("audit", "net.pt", "--against", "none.pt"), "BNF-L001"),
        (("audit", "none.pt"), "BNF-L001"),
    ],
)
def test_what_cannot_be_used_is_refused(cli: Cli, arguments: tuple[str, ...], code: str) -> None:
    torch.save(healthy().state_dict(), "net.pt")
    torch.save({"fc.weight": torch.zeros(2, 2)}, "other.pt")
    result = cli(*arguments, "--format", "json")
    assert (result.status, result.document["error"]["code"]) == (2, code)
    assert result.document["findings"] == []


def test_an_artifact_is_sent_to_inspect(cli: Cli, halves: Path) -> None:
    result = cli("audit", halves)
    assert result.status == 2
    assert "BNF-U030" in result.err


def test_convert_refuses_what_the_audit_refuses_and_says_it_once(cli: Cli) -> None:
    torch.save(poisoned().state_dict(), "net.pt")
    audited = cli("audit", "net.pt", *INPUT, "--format", "json")
    converted = cli("convert", "net.pt", *INPUT, "-o", "out", "--format", "json")
    assert (audited.status, converted.status) == (1, 1)
    of_statistics = [found for found in converted.document["findings"] if found["code"].startswith("BNF-A")]
    assert of_statistics == audited.document["findings"]
    assert converted.document["artifacts"] == []
    assert not Path("out").exists()


def test_a_page_on_standard_output(cli: Cli) -> None:
    torch.save(poisoned().state_dict(), "net.pt")
    result = cli("audit", "net.pt", *INPUT, "--format", "html")
    assert (result.status, result.err) == (1, "")
    found = read(result.out)
    head = found.text[: found.text.index("Findings")]
    assert "Audit of net.pt" in head
    assert "BNF-A001" in head
    assert [row[0] for row in found.rows[1:4]] == ["bn1", "bn2", "bn3"]
    assert result.out == cli("audit", "net.pt", *INPUT, "--format", "html").out


def test_a_page_in_a_file_and_the_text_on_standard_output(cli: Cli, tmp_path: Path) -> None:
    save_file(healthy().state_dict(), "net.safetensors")
    text = cli("audit", "net.safetensors").out
    result = cli("audit", "net.safetensors", "--format", "html", "-o", "page.html")
    written = (tmp_path / "page.html").read_bytes()
    assert result.status == 0
    assert result.out == f"{text}\npage.html: {len(written) / 1000:.1f} kB\n"
    assert written.decode() == cli("audit", "net.safetensors", "--format", "html").out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.py", "net.safetensors", "page.html"]


def test_a_page_that_cannot_be_made_is_refused_before_the_work(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    for options, code in (
        (("-o", "page.html"), "BNF-U160"),
        (("--format", "json", "-o", "page.json"), "BNF-U160"),
        (("--format", "html", "-o", "gone/page.html"), "BNF-U161"),
        (("--format", "html", "-o", "taken/page.html"), "BNF-U161"),
        (("--format", "html", "-o", "."), "BNF-P013"),
    ):
        result = cli("audit", "gone.safetensors", *options)
        assert result.status == 2
        assert code in result.err
        assert ("mkdir" in result.err) == ("gone/page.html" in options)  # no use where a file is in the way
    assert "mkdir -p 'a b'" in cli("audit", "x.pt", "--format", "html", "-o", "a b/page.html").err
    monkeypatch.setattr(html, "find_spec", lambda name: None)
    result = cli("audit", "gone.safetensors", "--format", "html")
    assert (result.status, result.out) == (2, "")
    assert "error[BNF-P030]: --format html needs jinja2 and matplotlib" in result.err
    assert "pip install 'bnfold[report]'" in result.err
