"""What holds for every command: statuses, streams, formats, help, interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bnfold_cli import invocation
from bnfold_cli.command import Context, Outcome

from bnfold import __version__
from bnfold.errors import InternalError, StatisticsError

from .conftest import Cli

COMMANDS = (
    *("convert", "verify", "run", "bench", "audit", "diagnose", "recalibrate", "drift"),
    *("monitor", "inspect", "rules", "doctor"),
)


def test_help_lists_what_is_built_and_nothing_else(cli: Cli) -> None:
    result = cli("--help")
    assert result.status == 0
    assert [line.split()[0] for line in result.out.splitlines() if line.startswith("  ")] == list(COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns_and_says_one_line_per_option(
    cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = cli(*command.split(), "--help")
    assert result.status == 0
    assert max(map(len, result.out.splitlines())) <= 80
    assert result.err == ""


def test_convert_help_says_that_model_runs_code(cli: Cli) -> None:
    assert "imports and runs the code" in cli("convert", "--help").out


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"{__version__}\n"
    assert cli("--version", "--format", "json").document["bnfold"] == __version__


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], "BNF-U001", "no command given"),
        (["convrt"], "BNF-U002", "did you mean convert?"),
        (["rules", "--fromat", "json"], "BNF-U001", "did you mean --format?"),
        (["rules", "one", "two"], "BNF-U001", "unexpected argument 'two'"),
        (["rules", "--format", "xml"], "BNF-U001", "invalid choice"),
        (["convert"], "BNF-U001", "CKPT"),
        (["run", ""], "BNF-U010", "ARTIFACT ''"),
        (["monitor", "x.monitor.onnx", "--frames", "f", "--state", ""], "BNF-U010", "--state ''"),
        (["drift", "--merge", "a.state", ""], "BNF-U010", "--merge ''"),
        (["convert", "x.pt"], "BNF-U001", "--model is required"),
        (["convert", "x.pt", "--model", "m.py:N"], "BNF-U001", "--input is required"),
    ],
)
def test_what_cannot_be_parsed(cli: Cli, arguments: list[str], code: str, says: str) -> None:
    result = cli(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith(f"error[{code}]: ")
    assert says in result.err
    assert len(result.err.splitlines()) <= 5


@pytest.mark.parametrize("command", ["", "nonsense", "audit", "run", "convert"])
def test_errors_are_one_json_document_too(cli: Cli, command: str) -> None:
    result = cli(*command.split(), "--format=json")
    document = result.document
    assert result.status == 2
    assert document["schema"] == 1
    assert document["passed"] is False
    assert set(document["error"]) == {"code", "what", "where", "fix"}
    assert result.err.startswith(f"error[{document['error']['code']}]")
    if command == "convert":
        assert document["artifacts"] == document["batch_norms"] == document["parity"] == []


def replace_rules(monkeypatch: pytest.MonkeyPatch, behaviour: object) -> None:
    import bnfold_cli.rules as module

    monkeypatch.setattr(module, "run", behaviour)


@pytest.mark.parametrize(
    ("exception", "status", "code"),
    [
        (InternalError("BNF-X040", "it went round in circles"), 3, "BNF-X040"),
        (StatisticsError("BNF-A001", "NaN in bn1"), 1, "BNF-A001"),
        (ZeroDivisionError("division by zero"), 3, "BNF-X000"),
        (KeyboardInterrupt(), 130, "BNF-U130"),
        (SystemExit(0), 2, "BNF-U014"),
        (OSError(28, "No space left on device"), 2, "BNF-P090"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "BNF-P030"),
        (ModuleNotFoundError("No module named 'bnfold.nowhere'", name="bnfold.nowhere"), 3, "BNF-X000"),
        (MemoryError(), 2, "BNF-P091"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_is_raised_ends_in_a_code_and_a_status(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, exception: BaseException, status: int, code: str
) -> None:
    def fail(*_: object) -> Outcome:
        raise exception

    replace_rules(monkeypatch, fail)
    result = cli("rules", "--format", "json")
    assert result.status == status
    assert result.document["error"]["code"] == code
    assert result.err.startswith(f"error[{code}]")
    assert "Traceback" not in result.err
    with_traceback = cli("rules", "--traceback")
    assert with_traceback.status == status
    assert "Traceback (most recent call last)" in with_traceback.err
    assert type(exception).__name__ in with_traceback.err


def test_what_others_print_does_not_reach_standard_output(shell: Cli, tmp_path: Path) -> None:
    code = """
import os
from bnfold_cli import rules
from bnfold_cli.command import Outcome
def run(*_):
    print("a library says hello")
    os.write(1, b"and so does its C++ part\\n")
    return Outcome(True, {"schema": 1, "passed": True, "nan": float("nan")}, lambda style: "text")
rules.run = run
"""
    result = shell("rules", "--format", "json", code=code, cwd=tmp_path)
    assert result.document == {"schema": 1, "passed": True, "nan": None}
    assert sorted(result.err.splitlines()) == ["a library says hello", "and so does its C++ part"]


def test_a_gate_that_failed_is_status_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Outcome(False, {"schema": 1, "passed": False}, lambda style: "no\n")
    replace_rules(monkeypatch, lambda *_: failed)
    assert cli("rules").status == 1


def test_verbose_names_the_stages_on_standard_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def staged(options: object, context: Context) -> Outcome:
        context.progress("first stage")
        context.progress("second stage")
        return Outcome(True, {"schema": 1, "passed": True}, lambda style: "done\n")

    replace_rules(monkeypatch, staged)
    result = cli("rules", "--verbose")
    assert result.out == "done\n"
    assert [line.split(" s  ")[1] for line in result.err.splitlines()] == ["first stage", "second stage"]
    assert cli("rules").err == ""


def test_a_dropped_interrupt_ends_the_command_at_its_next_stage(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python says "Exception ignored in" where it cannot raise one, as in a callback of the import system."""

    def staged(options: object, context: Context) -> Outcome:
        context.progress("first stage")
        monkeypatch.setattr("bnfold_cli.interrupts.SEEN", [2])
        context.progress("second stage")
        raise AssertionError("it went on")

    replace_rules(monkeypatch, staged)
    result = cli("rules")
    assert result.status == 130
    assert result.err.startswith("error[BNF-U130]")


def test_the_commands() -> None:
    assert tuple(invocation.COMMANDS) == COMMANDS


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    program = "from bnfold_cli.main import entry; entry()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "doctor"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_a_full_disk_is_an_error_of_the_environment(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    program = "from bnfold_cli.main import entry; entry()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, "--version"],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error[BNF-P090]")


def test_ctrl_c_ends_with_130_and_one_line(tmp_path: Path) -> None:
    program = """
import sys, time
from bnfold_cli import rules
from bnfold_cli.main import entry
def run(options, context):
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)
rules.run = run
entry()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, "rules", "--format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.startswith("error[BNF-U130]: interrupted")
    assert len(err.splitlines()) == 1
    assert json.loads(out)["error"]["code"] == "BNF-U130"


def test_ctrl_c_while_modules_are_loading(tmp_path: Path) -> None:
    program = """
import sys
from bnfold_cli.main import entry
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            sys.meta_path.remove(self)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
module = sys.argv.pop()
sys.argv.append(module)
entry()
"""
    for module in ("bnfold_cli.invocation", "bnfold.report", "bnfold_cli.config", "bnfold_cli.failure"):
        done = subprocess.run(
            [sys.executable, "-c", program, "rules", "--format", "json", module],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 130, done.stderr
        assert done.stderr == "error[BNF-U130]: interrupted; no unfinished artifact was left behind\n"
        assert json.loads(done.stdout)["error"]["code"] == "BNF-U130"


def test_ctrl_c_waits_for_torch_to_be_loaded(tmp_path: Path) -> None:
    """An exception in the midst of that makes torch's native code end the process."""
    (tmp_path / "torch.py").write_text(
        "import os, pathlib, signal\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "for _ in range(1000): pass\n"  # where Python would raise
        "pathlib.Path('loaded').touch()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "bnfold_cli", "rules"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (tmp_path / "loaded").exists()
    assert done.returncode == 130, done.stderr
    assert done.stderr == "error[BNF-U130]: interrupted; no unfinished artifact was left behind\n"


def test_a_second_ctrl_c_changes_nothing(tmp_path: Path) -> None:
    program = """
import os, signal, sys, atexit
from bnfold_cli import failure
from bnfold_cli.main import entry
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
real = failure.as_bnfold_error
import bnfold_cli.invocation as invocation
def again(exception, command):
    if not seen:
        seen.append(1)
        raise KeyboardInterrupt
    return real(exception, command)
seen = []
invocation.as_bnfold_error = again
entry()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "nonsense"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("error[BNF-U130]")
    assert len(done.stderr.splitlines()) == 1


HEAVY = ("torch", "onnx", "scipy", "pandas", "matplotlib", "PIL", "rich", "onnxruntime")


def test_importing_the_command_line_imports_nothing_heavy(tmp_path: Path) -> None:
    modules = ["bnfold_cli.main", *(f"bnfold_cli.{name}" for name in COMMANDS)]
    program = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "[]"


def test_python_m(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bnfold_cli", "--version"],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert done.stdout == f"{__version__}\n"


def test_what_a_library_makes_of_an_interrupt_is_still_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold_cli.failure import as_bnfold_error

    assert as_bnfold_error(RuntimeError("numpy failed to load"), "convert").code == "BNF-X000"
    monkeypatch.setattr("bnfold_cli.interrupts.SEEN", [2])
    assert as_bnfold_error(RuntimeError("numpy failed to load"), "convert").code == "BNF-U130"


def test_ctrl_c_inside_a_string_of_code_ends_with_130(tmp_path: Path) -> None:
    """As in the making of a dataclass, while torch is loading: ``python -m`` would end by the signal."""
    (tmp_path / "stopped.py").write_text(
        "import os, signal\n"
        "from bnfold_cli import invocation, main\n"
        "invocation.stopped = lambda *_: 130\n"
        "main.main = lambda _: exec('os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)')\n"
        "main.entry()\n"
    )
    ended = subprocess.run([sys.executable, "-m", "stopped"], cwd=tmp_path, check=False)
    assert ended.returncode == 130
