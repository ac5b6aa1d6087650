"""From FILE.py:NAME or pkg.mod:NAME to a module: the user's code, and what can be wrong with it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from bnfold.modelspec import build, resolve
from tests.checkpoint.files import error_of

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 2, *, depth: int = 1) -> None:
        super().__init__()
        self.width, self.depth = width, depth

    class Small(nn.Module):
        pass

def make(width=3):
    return Net(width)

def broken():
    layer = nn.Linear(2, 2)
    return layer.missing

ready = Net(7)
Part = __import__("functools").partial(Net, 5)
_hidden = Net()
"""


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    """Leaves sys.path and sys.modules as they were."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(SOURCE)
    return str(tmp_path / "net.py")


@pytest.mark.parametrize(
    ("name", "args", "width", "depth"),
    [
        ("Net", None, 2, 1),
        ("Net", [4], 4, 1),
        ("Net", "[4]", 4, 1),
        ("Net", {"depth": 6}, 2, 6),
        ("Net", '{"width": 8, "depth": 9}', 8, 9),
        ("Net", "{}", 2, 1),
        ("Net", "null", 2, 1),
        ("make", None, 3, 1),
        ("ready", None, 7, 1),
        ("Part", {"depth": 2}, 5, 2),
    ],
)
def test_what_a_file_defines(net: str, name: str, args: object, width: int, depth: int) -> None:
    module = build(f"{net}:{name}", args)  # type: ignore[arg-type]
    assert (module.width, module.depth) == (width, depth)


def test_dotted_names(net: str) -> None:
    assert type(build(f"{net}:Net.Small")).__qualname__ == "Net.Small"
    assert error_of(lambda: build(f"{net}:Net.Smal"), "U044").what.endswith("has no Smal")
    assert error_of(lambda: build("math:pi.real.bogus"), "U044").what == "math has no bogus"


def test_an_installed_module() -> None:
    module = build("torch.nn:Linear", [2, 3])
    assert (module.in_features, module.out_features) == (2, 3)


def test_objects_instead_of_names() -> None:
    own = nn.Identity()
    assert build(own) is own
    assert isinstance(build(nn.Identity), nn.Identity)
    assert build(functools.partial(nn.Linear, 2), [3]).out_features == 3
    assert build(lambda n: nn.Linear(n, 1), {"n": 4}).in_features == 4


def test_a_relative_path_and_a_folder_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run:3"
    folder.mkdir()
    (folder / "net.py").write_text(SOURCE)
    assert build(f"{folder}/net.py:make").width == 3
    monkeypatch.chdir(folder)
    assert build("net.py:make").width == 3
    assert build("net:make").width == 3


def test_neighbours_are_found_also_when_forward_imports_them(tmp_path: Path) -> None:
    (tmp_path / "layers_beside.py").write_text("WIDTH = 11\n")
    (tmp_path / "later_beside.py").write_text("WIDTH = 12\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom layers_beside import WIDTH\n"
        "class Net(nn.Module):\n"
        "    def forward(self):\n"
        "        import later_beside\n"
        "        return WIDTH, later_beside.WIDTH\n"
    )
    assert build(f"{tmp_path / 'net.py'}:Net")() == (11, 12)


def test_a_model_file_does_not_stand_in_for_a_package_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("from torch import nn\nNet = nn.Identity\n")
    build(f"{tmp_path / 'json.py'}:Net")
    import json

    assert json.loads("[1]") == [1]
    assert sys.path[0] != str(tmp_path)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder, width in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(
            f"from torch import nn\ndef make():\n    return nn.Linear({width}, 1)\n"
        )
    assert build(f"{tmp_path}/a/model.py:make").in_features == 1
    assert build(f"{tmp_path}/b/model.py:make").in_features == 2


@pytest.mark.parametrize(
    "spec", ["", ":", "net.py", "net.py:", ":Net", "net.py:Net()", "net.py:3", "net.py:a b", "x.txt/y:Net"]
)
def test_no_such_form(spec: str) -> None:
    error_of(lambda: resolve(spec), "U041" if spec == "x.txt/y:Net" else "U040")


def test_a_file_that_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "net.txt").write_text("Net = 3")
    error_of(lambda: resolve(f"{tmp_path / 'net.txt'}:Net"), "U040")


@pytest.mark.parametrize(
    ("source", "where", "fix"),
    [
        ("import nothing_of_this_name.sub\n", "net.py:1  import nothing", "install nothing_of_this_name"),
        ("from . import layers\n", "net.py:1  from . import layers", "pkg.mod:NAME"),
        ("x = 1\ndef f(:\n", "net.py:2", "importable"),
        ("x = [][3]\n", "net.py:1  x = [][3]", "importable"),
        ("import sys\nsys.exit(3)\n", "net.py:2  sys.exit(3)", "importable"),
        ("def f():\n    raise KeyError(1)\nf()\n", "net.py:2  raise KeyError(1)", "importable"),
        ("def f(): f()\nf()\n", "net.py:1", "importable"),
        ("x = '\0'\n", "", "importable"),
    ],
)
def test_an_import_that_fails(tmp_path: Path, source: str, where: str, fix: str) -> None:
    (tmp_path / "net.py").write_text(source)
    try:
        error = error_of(lambda: build(f"{tmp_path / 'net.py'}:Net"), "U043")
    finally:
        assert "bnfold_model_net" not in sys.modules
    assert where in error.where
    assert fix in error.fix


def test_an_error_inside_the_constructor_is_placed_in_the_users_file(net: str) -> None:
    error = error_of(lambda: build(f"{net}:broken"), "U046")
    assert "has no attribute 'missing'" in error.what
    assert error.where == "net.py:17  return layer.missing"


@pytest.mark.parametrize(
    ("name", "args", "code", "told"),
    [
        ("Net", [1, 2], "U048", "too many positional arguments"),
        ("Net", {"widht": 3}, "U048", "unexpected keyword argument 'widht'"),
        ("ready", [1], "U048", "is a module already"),
        ("Net", "3", "U049", "neither an object nor an array, but int"),
        ("Net", '"abc"', "U049", "neither an object nor an array, but str"),
        ("Net", "[1", "U049", "no JSON"),
        ("Net", 3, "U049", "but int"),
        ("SOURCE", None, "U044", "has no SOURCE"),
        ("nn", None, "U045", "is a Python module"),
        ("Net.__init__", None, "U048", "missing a required argument: 'self'"),
    ],
)
def test_arguments_and_names_that_do_not_fit(net: str, name: str, args: object, code: str, told: str) -> None:
    assert told in error_of(lambda: build(f"{net}:{name}", args), code).what  # type: ignore[arg-type]


def test_a_python_module_is_told_from_a_network_and_its_models_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "__init__.py").write_text("from . import nets\n")
    (tmp_path / "zoo" / "nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    error = error_of(lambda: build("zoo:nets"), "U045")
    assert error.what == "zoo:nets is a Python module: a file or a package, not a network"
    assert error.where == "it has Net, make, broken"
    assert error.fix == "--model zoo.nets:Net"
    (tmp_path / "park").mkdir()
    (tmp_path / "park" / "nets.py").write_text(SOURCE)  # nothing has imported it
    error = error_of(lambda: build("park:nets"), "U045")
    assert error.what == "park:nets is a Python module: a file or a package, not a network"
    assert error.fix == "--model park.nets:NAME, a class or a function in it"
    error_of(lambda: build("park:Nets"), "U044")


def test_a_misspelt_name_gets_the_close_one_and_a_strange_one_gets_them_all(net: str) -> None:
    assert error_of(lambda: build(f"{net}:mak"), "U044").fix == f"--model {net}:make"
    assert error_of(lambda: build(f"{net}:Zebra"), "U044").where == "it has Net, make, broken"


def test_what_is_returned_must_be_a_module(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Linear\n")
    assert (
        "returned a type, not an nn.Module" in error_of(lambda: build(f"{tmp_path}/net.py:make"), "U047").what
    )


def test_an_interrupt_stays_an_interrupt(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        build(f"{tmp_path / 'net.py'}:Net")
