"""Makes an arm64 environment on another machine, without root: Debian's Python under qemu's user mode.

    python tests/arm64/environment.py FOLDER

Needs apt-get and dpkg of a Debian that has python3.11 (bookworm), as they are set up on this machine, and
pip. Nothing is installed: apt-get gets lists and packages into FOLDER, as if for an arm64 machine that is
still empty, and dpkg unpacks them. ``qemu-aarch64-static`` is taken from the path, or from Debian's package
in the same way.

FOLDER then holds

- ``root``: Python 3.11 and its libraries;
- ``onnx``, ``litert``, ``tflite``: an interpreter and its numpy, as aarch64 wheels;
- ``python-onnx``, ``python-litert``, ``python-tflite``: Python with each of them, and with the packages
  in ``wheel``, where somebody puts some. They run as any other Python does.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("python3.11", "libstdc++6")
QEMU = "qemu-aarch64-static"
# A Raspberry Pi 4, and what its kernel says of each core. onnxruntime 1.32.0 and ai-edge-litert 2.3.0 look
# into /proc/cpuinfo, and crash where it is another architecture's; qemu's user mode looks for a file under
# its -L first.
CPU = "cortex-a72"
CORE = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
# what the C library of bookworm (2.36) can load
PLATFORMS = [*(f"manylinux_2_{minor}_aarch64" for minor in (34, 31, 28, 27, 17)), "manylinux2014_aarch64"]
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def _pinned(name: str) -> str:
    found = re.search(rf"^{name}==\S+$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{name} is not in {CONSTRAINTS.name}"
    return found.group()


def wheels() -> dict[str, list[str]]:
    """By name of the environment, what pip is asked for."""
    numpy = _pinned("numpy")
    return {
        "onnx": [_pinned("onnxruntime"), numpy],
        "litert": [_pinned("ai-edge-litert"), numpy],
        "tflite": ["tflite-runtime==2.14.0", "numpy==1.26.4"],
    }


class Missing(Exception):
    """Something that this machine has to bring; the message says what to do."""


class Apt:
    """apt-get with lists, cache and status of its own, for one architecture."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self.archives = folder / "archives"
        for part in ("lists/partial", "archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").write_text("", encoding="utf-8")  # nothing is there yet: all that is needed comes
        settings = {
            "APT::Architecture": architecture, "APT::Architectures::": architecture,
            "APT::Sandbox::User": "", "Acquire::Languages": "none", "Dir::State": folder,
            "Dir::State::Lists": folder / "lists", "Dir::State::status": folder / "status",
            "Dir::Cache": folder,
        }  # fmt: skip
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        self("update")

    def __call__(self, *words: str) -> None:
        done = subprocess.run(
            ["apt-get", "-qq", *self._options, *words],
            cwd=self.archives,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Missing(f"apt-get {' '.join(words)}: {done.stderr.strip()}")


def unpack(archives: Path, root: Path) -> None:
    for package in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)


def qemu(folder: Path) -> Path:
    """The emulator: the one on the path, else Debian's package, unpacked."""
    if found := shutil.which(QEMU):
        return Path(found)
    own = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()
    apt = Apt(folder / "apt-here", own)
    try:
        apt("download", "qemu-user-static")
    except Missing as error:
        raise Missing(f"{QEMU} is missing: apt-get install qemu-user-static\n{error}") from error
    unpack(apt.archives, folder / "here")
    return folder / "here" / "usr" / "bin" / QEMU


def python(folder: Path, name: str, emulator: Path) -> Path:
    """A command that runs Python with one interpreter, and is what sys.executable says."""
    command, root = folder / f"python-{name}", folder / "root"
    quoted = [shlex.quote(os.fspath(path)) for path in (emulator, command, root, root / "usr/bin/python3.11")]
    command.write_text(
        "#!/bin/sh\n"
        "# PYTHONHOME: Python looks for its library next to sys.executable, which is this file\n"
        f"export PYTHONHOME={shlex.quote(os.fspath(root / 'usr'))} PYTHONNOUSERSITE=1\n"
        f"export PYTHONPATH={shlex.quote(f'{folder}/{name}:{folder}/wheel')}\n"
        f"export QEMU_CPU={CPU}\n"
        f'exec {quoted[0]} -0 {quoted[1]} -L {quoted[2]} {quoted[3]} "$@"\n',
        encoding="utf-8",
    )  # fmt: skip
    command.chmod(0o755)
    return command


def make(folder: Path) -> None:
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Missing(f"{tool} is missing: the arm64 environment is made of Debian's packages (bookworm)")
    apt = Apt(folder / "apt", "arm64")
    try:
        apt("install", "--download-only", "--no-install-recommends", "-y", *PACKAGES)
    except Missing as error:
        raise Missing(
            f"this machine's apt sources have no python3.11 for arm64: use Debian bookworm's\n{error}"
        ) from error
    unpack(apt.archives, folder / "root")
    (folder / "root/proc").mkdir(exist_ok=True)
    cores = "".join(CORE.format(number=number) for number in range(os.cpu_count() or 1))
    (folder / "root/proc/cpuinfo").write_text(cores, encoding="utf-8")
    emulator = qemu(folder)
    for name, wanted in wheels().items():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check",
             "--no-warn-conflicts", "--no-compile",
             "--target", folder / name, "--only-binary=:all:", "--implementation", "cp",
             "--python-version", "3.11", *(f"--platform={tag}" for tag in PLATFORMS), *wanted],
            check=True,
        )  # fmt: skip
        command = python(folder, name, emulator)
        said = subprocess.run(
            [command, "-c", "import platform, numpy; print(platform.machine(), numpy.__version__)"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not said.stdout.startswith("aarch64 "):
            raise Missing(f"{command.name} does not run: {said.stdout}{said.stderr}")
        print(f"{command.name}: {said.stdout.strip()}, {wanted[0]}")
    for made in ("apt", "apt-here"):
        shutil.rmtree(folder / made, ignore_errors=True)  # 100 MB of lists and packages


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1]).resolve())
    except Missing as error:
        sys.exit(f"error: {error}")
