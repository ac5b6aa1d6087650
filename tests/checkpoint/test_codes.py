"""Every code of checkpoints and model specs, once: what gives it, and that the fix says what to do."""

from __future__ import annotations

import io
import logging
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import bnfold.checkpoint
import bnfold.modelspec
from bnfold.checkpoint import load, load_with_notes, read, saving
from tests.checkpoint.files import Net, error_of, prefixed, saved, torchscript, trained
from tests.damaged import torch_bytes

Case = Callable[[Path], object]
CASES: dict[str, tuple[Case, str, str]] = {}


def case(code: str, told: str, fix: str) -> Callable[[Case], Case]:
    """Registers the call that gives the code; `told` is in its what or where, `fix` in its fix."""

    def register(call: Case) -> Case:
        assert code not in CASES
        CASES[code] = (call, told, fix)
        return call

    return register


class Namespace:
    """Hyperparameters as training scripts pickle them."""


class Fails:
    """Unpickling it asks for a module that is nowhere."""

    def __reduce__(self) -> tuple[object, ...]:
        return __import__, ("no_such_package_at_all",)


@case("L001", "there is no file bests.pt", "best.pt")
def not_there(folder: Path) -> object:
    saved(folder / "best.pt", trained())
    return read(folder / "bests.pt")


@case("L002", "Namespace", "--trust-pickle")
def needs_a_class(folder: Path) -> object:
    return read(saved(folder / "a.ckpt", {"state_dict": trained(), "hyper_parameters": Namespace()}))


@case("L003", "folder", "best.pt")
def is_a_folder(folder: Path) -> object:
    saved(folder / "best.pt", trained())
    return read(folder)


@case("L004", "too long", "permissions")
def cannot_be_opened(folder: Path) -> object:
    return read(folder / ("a" * 300))


@case("L005", "0 bytes", "again")
def empty(folder: Path) -> object:
    (folder / "a.pt").touch()
    return read(folder / "a.pt")


@case("L006", "1,234,567 bytes", "git lfs pull --include a.pt")
def lfs_pointer(folder: Path) -> object:
    oid = "ab" * 32
    (folder / "a.pt").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 1234567\n"
    )
    return read(folder / "a.pt")


@case("L007", "Sign in", "download the file itself")
def web_page(folder: Path) -> object:
    (folder / "a.pt").write_text("\n<!DOCTYPE HTML><html><head><title>Sign in</title></head></html>")
    return read(folder / "a.pt")


@case("L008", "a zip archive", "torch.save")
def another_kind(folder: Path) -> object:
    with zipfile.ZipFile(folder / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "the weights are elsewhere")
    return read(folder / "a.pt")


@case("L009", "expected 0000000000000000", "digest")
def another_digest(folder: Path) -> object:
    return read(saved(folder / "a.pt", trained()), sha256="0" * 64)


@case("L010", 'checkpoint "module.conv.weight", model "conv.weight"', "--strip-prefix module.")
def one_prefix(folder: Path) -> object:
    return load(saved(folder / "a.pt", prefixed("module.", trained())), Net)


@case("L011", 'missing "fc.bias"; unexpected "head"', "--model-args")
def other_keys(folder: Path) -> object:
    state = trained()
    state["head"] = state.pop("fc.bias")
    return load(saved(folder / "a.pt", state), Net)


@case("L012", '"fc.weight" 3x2, model 5x2; "fc.bias" 3, model 5', "--model-args")
def other_shapes(folder: Path) -> object:
    return load(saved(folder / "a.pt", trained()), Net, model_args={"classes": 5})


@case("L013", '"fc.weight" is int8 in a.pt and float32 in the model', "dequantize")
def other_kind_of_dtype(folder: Path) -> object:
    return load(saved(folder / "a.pt", trained() | {"fc.weight": torch.ones(3, 2, dtype=torch.int8)}), Net)


@case("L014", '"model_ema"', "--state model_ema")
def no_such_state(folder: Path) -> object:
    return load(saved(folder / "a.pt", {"model": trained(), "model_ema": trained(2)}), Net, state="ema")


@case("L015", '"epoch", "loss"', "torch.save(m.state_dict()")
def no_state_dict(folder: Path) -> object:
    return load(saved(folder / "a.pt", {"epoch": 3, "loss": 0.5}), Net)


@case("L016", '"conv.weight"', "leave --strip-prefix out")
def no_such_prefix(folder: Path) -> object:
    return load(saved(folder / "a.pt", trained()), Net, strip_prefix="module.")


@case("L017", '"generator", "discriminator"', "--state generator")
def several_states(folder: Path) -> object:
    return load(saved(folder / "a.pt", {"generator": trained(), "discriminator": trained(2)}), Net)


@case("L018", '"fc.bias" is of type float', "torch.save")
def no_tensor(folder: Path) -> object:
    return load(saved(folder / "a.pt", {**trained(), "fc.bias": 0.5}), Net)


@case("L019", "1 value of", "repair")
def overflows(folder: Path) -> object:
    state = {key: v.double() if v.is_floating_point() else v for key, v in trained().items()}
    state["fc.bias"][1] = 1e39
    return load(saved(folder / "a.pt", state), Net)


@case("L020", "5 bytes are missing", "again")
def safetensors_cut(folder: Path) -> object:
    save_file(trained(), folder / "a.safetensors")
    content = (folder / "a.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes(content[:-5])
    return read(folder / "a.safetensors")


@case("L021", "header", "again")
def safetensors_header(folder: Path) -> object:
    save_file(trained(), folder / "a.safetensors")
    content = (folder / "a.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes(content.replace(b'"F32"', b'"F31"'))
    return read(folder / "a.safetensors")


@case("L022", "truncated or damaged zip", "again")
def zip_cut(folder: Path) -> object:
    (folder / "a.pt").write_bytes(torch_bytes(trained())[:-40])
    return read(folder / "a.pt")


@case("L023", "archive/data/0", "again")
def zip_flipped(folder: Path) -> object:
    weight = trained()["conv.weight"].numpy().tobytes()
    flipped = bytes([weight[0] ^ 1]) + weight[1:]
    (folder / "a.pt").write_bytes(torch_bytes(trained()).replace(weight, flipped))
    return read(folder / "a.pt")


@case("L024", "archive/data/0: 33,554,432 bytes", "do not use")
def zip_bomb(folder: Path) -> object:
    with zipfile.ZipFile(folder / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(32 << 20))
    return read(folder / "a.pt")


@case("L025", "TorchScript", 'torch.jit.load("a.pt").state_dict()')
def compiled(folder: Path) -> object:
    return read(torchscript(folder / "a.pt"))


@case("L026", "tar archive", "tar xf")
def tar(folder: Path) -> object:
    import tarfile

    with tarfile.open(folder / "a.pt", "w") as archive:
        entry = tarfile.TarInfo("storages")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    return read(folder / "a.pt")


@case("L027", "pickle is damaged", "cut short")
def pickle_cut(folder: Path) -> object:
    (folder / "a.pt").write_bytes(torch_bytes(trained(), legacy=True)[:-10])
    return read(folder / "a.pt")


@case("L028", "protocol 4", "without pickle_protocol=")
def other_protocol(folder: Path) -> object:
    return read(saved(folder / "a.pt", trained(), protocol=4))


@case("L029", "torch.nn.modules", "torch.save(m.state_dict()")
def whole_module(folder: Path) -> object:
    return read(saved(folder / "a.pt", nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))


@case("L030", "no_such_package_at_all", "can be imported")
def trusted_code_fails(folder: Path) -> object:
    return read(saved(folder / "a.pt", {"state_dict": trained(), "args": Fails()}), trust_pickle=True)


@case("L032", "plain pickle", "torch.save(state_dict")
def plain_pickle(folder: Path) -> object:
    (folder / "a.pt").write_bytes(pickle.dumps({"fc.bias": [1.0, 2.0]}, protocol=2))
    return read(folder / "a.pt")


@case("L034", "changed while it was read", "wait")
def changed(folder: Path) -> object:
    path = saved(folder / "a.pt", trained())
    from bnfold.checkpoint import pickles

    real = pickles.unpickle

    def slow(*args: object, **options: object) -> object:
        content = real(*args, **options)  # type: ignore[arg-type]
        os.utime(path, (1, 1))
        return content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickles, "unpickle", slow)
        return read(path)


class Tied(nn.Module):
    """An encoder and a decoder with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2, bias=False)
        self.decoder = nn.Linear(2, 2, bias=False)
        self.decoder.weight = self.encoder.weight


@case("L035", '"decoder.weight" and "encoder.weight" differ', "separate in training")
def tied_apart(folder: Path) -> object:
    state = {"encoder.weight": torch.eye(2), "decoder.weight": torch.ones(2, 2)}
    return load(saved(folder / "a.pt", state), Tied)


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Net()


@case("L036", 'checkpoint "conv.weight", model "backbone.conv.weight"', '"backbone"')
def model_has_prefix(folder: Path) -> object:
    return load(saved(folder / "a.pt", trained()), Wrapper)


@case("L037", 'checkpoint "conv._orig_mod.weight", model "conv.weight"', 'replace("_orig_mod."')
def wrapper_inside(folder: Path) -> object:
    state = trained()
    state["conv._orig_mod.weight"] = state.pop("conv.weight")
    return load(saved(folder / "a.pt", state), Net)


@case("L038", '"fc.weight" in a.pt is sparse', "to_dense")
def sparse(folder: Path) -> object:
    return load(saved(folder / "a.pt", trained() | {"fc.weight": torch.ones(3, 2).to_sparse()}), Net)


class Picky(Net):
    def load_state_dict(self, *args: object, **options: object) -> object:
        raise KeyError("scale")


@case("L039", "KeyError", "load_state_dict")
def model_rejects(folder: Path) -> object:
    return load(saved(folder / "a.pt", trained()), Picky)


def spec(folder: Path, source: str, name: str = "make", args: object = None) -> object:
    """Loads into what a model file defines."""
    (folder / "net.py").write_text(source)
    return bnfold.modelspec.build(f"{folder / 'net.py'}:{name}", args)  # type: ignore[arg-type]


@case("U040", '"net.py"', "FILE.py:NAME")
def no_name(folder: Path) -> object:
    return load(saved(folder / "a.pt", trained()), "net.py")


@case("U041", "there is no model file nets.py", "net.py")
def no_model_file(folder: Path) -> object:
    (folder / "net.py").touch()
    return bnfold.modelspec.build(f"{folder / 'nets.py'}:make")


@case("U042", "there is no module no_such_package", "FILE.py:NAME")
def no_package(folder: Path) -> object:
    return bnfold.modelspec.build("no_such_package.nets:make")


@case("L041", "schema 9", "before it was recalibrated")
def damaged_record(folder: Path) -> object:
    checkpoint = read(saved(folder / "a.pt", trained()))
    path = folder / "b.pt"
    path.write_bytes(saving.to_bytes(checkpoint, checkpoint.pick(), {"schema": 9, "old": {}}))
    return saving.read_record(path)


@case("L040", "tuples inside each other", "do not load the file")
def bomb(folder: Path) -> object:
    nested: object = ()
    for _ in range(200):
        nested = (nested,)
    return read(saved(folder / "a.pt", {"state_dict": trained(), nested: 1}))


@case("U043", "net.py:2  import no_such_package", "install no_such_package")
def import_fails(folder: Path) -> object:
    return spec(folder, "import math\nimport no_such_package\n")


@case("U044", "has no mak", "net.py:make")
def no_such_attribute(folder: Path) -> object:
    return spec(folder, "def make(): ...\n", "mak")


@case("U045", "is a int", "class or a function")
def not_callable(folder: Path) -> object:
    return spec(folder, "make = 3\n")


@case("U046", "ZeroDivisionError", "--model-args")
def constructor_fails(folder: Path) -> object:
    return spec(folder, "def make():\n    return 1 / 0\n")


@case("U047", "returned a tuple", "returns an nn.Module")
def no_module(folder: Path) -> object:
    return spec(folder, "def make():\n    return (1, 2)\n")


@case("U048", "missing a required argument: 'width'", "--model-args")
def arguments_missing(folder: Path) -> object:
    return spec(folder, "def make(width, depth=2): ...\n")


@case("U049", "no JSON", "--model-args '{")
def arguments_no_json(folder: Path) -> object:
    return spec(folder, "def make(width): ...\n", args="{width: 3}")


@case("U050", "10 characters", "sha256sum a.pt")
def no_digest(folder: Path) -> object:
    return read(saved(folder / "a.pt", trained()), sha256="0123456789")


@pytest.mark.parametrize("code", sorted(CASES))
def test_error(code: str, tmp_path: Path) -> None:
    call, told, fix = CASES[code]
    error = error_of(lambda: call(tmp_path), code)
    assert told in f"{error.what} {error.where}"
    assert fix in error.fix


def legacy_counter(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if "num_batches" not in key}


def without_checksums(path: Path, content: object) -> Path:
    torch.serialization.set_crc32_options(False)
    try:
        return saved(path, content)
    finally:
        torch.serialization.set_crc32_options(True)


NOTES: dict[str, tuple[Callable[[Path], Path], Callable[[], nn.Module], dict[str, object], str]] = {
    "L101": (
        lambda f: saved(f / "a.pt", {"model": trained(), "model_ema": trained(2)}),
        Net,
        {},
        '"model" is used; the file also has averaged (EMA) weights: "model_ema"',
    ),
    "L102": (
        lambda f: saved(f / "a.pt", {k: v.bfloat16() if v.ndim else v for k, v in trained().items()}),
        Net,
        {},
        "7 tensors of a.pt widened exactly from bfloat16 to float32",
    ),
    "L103": (
        lambda f: saved(f / "a.pt", trained() | {"fc.bias": torch.ones(3).double()}),
        Net,
        {},
        "1 tensor of a.pt rounded from float64 to float32",
    ),
    "L104": (
        lambda f: saved(f / "a.pt", legacy_counter(trained())),
        Net,
        {},
        "1 num_batches_tracked counter is not in a.pt; inference does not use them",
    ),
    "L105": (
        lambda f: saved(f / "a.pt", {**prefixed("model.", trained()), "loss.weight": torch.ones(3)}),
        Net,
        {"strip_prefix": "model."},
        '1 key of a.pt outside model. left out: "loss.weight"',
    ),
    "L106": (
        lambda f: saved(f / "a.pt", {"encoder.weight": torch.eye(2)}),
        Tied,
        {},
        "1 shared parameter stored once: decoder.weight is encoder.weight",
    ),
    "L107": (
        lambda f: without_checksums(f / "a.pt", trained()),
        Net,
        {},
        "the file was saved without checksums, so damage to its weights cannot be seen",
    ),
    "L108": (
        lambda f: saved(f / "a.pt", trained()),
        Net,
        {"trust_pickle": True},
        "the pickle was trusted: code that it names may have run",
    ),
    "L109": (
        lambda f: saved(f / "a.pt", {"ema": trained()}),
        Net,
        {},
        '"ema" is used: averaged (EMA) weights are all that the file has',
    ),
}


@pytest.mark.parametrize("code", sorted(NOTES))
def test_note(code: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write, model, options, message = NOTES[code]
    path = write(tmp_path)
    loaded = load_with_notes(path, model, **options)  # type: ignore[arg-type]
    assert [(note.code, note.severity, note.message) for note in loaded.notes] == [
        (f"BNF-{code}", "info", message)
    ]
    with caplog.at_level(logging.INFO, "bnfold.checkpoint"):
        load(path, model, **options)  # type: ignore[arg-type]
    assert caplog.messages == [f"BNF-{code}: {message}"]


def test_every_code_in_the_source_has_a_case_and_stands_in_the_table() -> None:
    folder = Path(bnfold.checkpoint.__file__).parent
    sources = [*folder.glob("*.py"), Path(bnfold.modelspec.__file__)]
    used = {code for path in sources for code in re.findall(r'"BNF-([LU]\d{3})"', path.read_text("utf-8"))}
    assert used == CASES.keys() | NOTES.keys()
    table = set(re.findall(r"\bL\d{3}\b", bnfold.checkpoint.__doc__ or ""))
    assert table == {code for code in used if code.startswith("L")}


def test_no_module_of_the_cases_stays_importable() -> None:
    assert not any(name.startswith("no_such") for name in sys.modules)
