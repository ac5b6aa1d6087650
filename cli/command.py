"""What every command is made of: its options, what it is called with, and what it comes to."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from bnfold.errors import UsageError
from bnfold.report import Style

from . import interrupts

# A value such as -0.5 or -.5,0.3 after an option: argparse would take it for an option of its own.
_NEGATIVE = re.compile(r"-\.?\d")


@dataclass(frozen=True)
class Outcome:
    """What a command came to.

    Attributes:
        passed: False when a gate failed.
        document: what ``--format json`` writes.
        render: the same as text.
        files: the same in further formats, by their name in ``--format``; all of ASCII characters.
        status: the exit status, where it is not 0 or 1 as ``passed`` says.
        silent: whether another process of the same command says it.
    """

    passed: bool
    document: dict[str, Any]
    render: Callable[[Style], str]
    status: int | None = None
    silent: bool = False
    files: Mapping[str, Callable[[], str]] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """0 passed, 1 a gate failed, or what the command says."""
        return self.status if self.status is not None else 0 if self.passed else 1


@dataclass
class Option:
    """One option of a command, as `CommandParser` knows it."""

    action: argparse.Action
    default: Any
    required: bool


@dataclass
class Context:
    """What a command may use besides its options.

    Attributes:
        progress: call it with the name of the stage that begins.
        verbose: whether the user asked for more.
        emit: call it with a line of the result that is not to wait for the end. It goes to standard output;
            with ``--format json``, which has one document there, to standard error.
    """

    progress: Callable[[str], None]
    verbose: bool = False
    emit: Callable[[str], None] = print

    def start_torch(self) -> None:
        """Import torch, which takes a second or two: a stage of its own, and Ctrl-C waits for its end."""
        self.progress("starting torch")
        with interrupts.Held():
            import torch  # noqa: F401


class HelpRequested(Exception):
    """``--help``: carries the text, so that ``--format json`` can put it into its document."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class _Help(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="show this text and stop")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise HelpRequested(parser.format_help())


@dataclass
class _Everywhere:
    """The options that every command has."""

    flags: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "--format": {
                "choices": ("text", "json"),
                "default": "text",
                "help": "json: one document on stdout",
            },
            "--verbose": {"action": "store_true", "default": False, "help": "stages, timings and warnings"},
            "--traceback": {
                "action": "store_true",
                "default": False,
                "help": "errors with Python's traceback",
            },
        }
    )


class CommandParser(argparse.ArgumentParser):
    """argparse with coded errors, close matches for typos, and a memory of what the user said.

    Values that the user did not give are absent from what argparse returns, so that ``bnfold.toml`` can
    fill them in before the defaults do.
    """

    def __init__(self, command: str, summary: str) -> None:
        super().__init__(
            prog=f"bnfold {command}",
            description=summary,
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.command = command
        self.options: dict[str, Option] = {}
        self._everywhere = self.add_argument_group("everywhere")
        self._everywhere.add_argument("-h", "--help", action=_Help)
        self._everywhere.add_argument(
            "-c", "--config", metavar="FILE", help="options from this file; else ./bnfold.toml"
        )
        for flag, keywords in _Everywhere().flags.items():
            self.option(flag, group=self._everywhere, **keywords)

    def option(
        self,
        *flags: str,
        default: Any = None,
        required: bool = False,
        group: argparse._ArgumentGroup | None = None,
        **keywords: Any,
    ) -> None:
        """Add an option. A required one may also stand in ``bnfold.toml``, so it is checked in `fill`."""
        action = (group or self).add_argument(*flags, default=argparse.SUPPRESS, **keywords)
        long = next(flag for flag in flags if flag.startswith("--"))
        self.options[long] = Option(action, default, required)

    def add_formats(self, formats: Mapping[str, str]) -> None:
        """Further values of ``--format``: what each is, by name."""
        action = self.options["--format"].action
        action.choices = (*(action.choices or ()), *formats)
        action.help = "; ".join([action.help or "", *formats.values()])

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """What the user said, and nothing else.

        Raises:
            UsageError: BNF-U001.
        """
        known, extra = self.parse_known_intermixed_args(self._joined(arguments))
        for word in extra:
            if word.startswith("-"):
                self._unknown_option(word.partition("=")[0])
            self.error(f"unexpected argument {word!r}")
        return known

    def fill(self, said: argparse.Namespace, configured: dict[str, Any]) -> argparse.Namespace:
        """Add the values of the configuration file, then the defaults, to what the user said.

        Raises:
            UsageError: BNF-U001 when a required option is in neither.
        """
        for flag, option in self.options.items():
            dest = option.action.dest
            if hasattr(said, dest):
                continue
            if option.required and flag not in configured:
                self.error(
                    f"{flag} is required", fix=f"give {flag}, or set it in bnfold.toml, [{self.command}]"
                )
            setattr(said, dest, configured.get(flag, option.default))
        return said

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """argparse calls this with every value; an error of ours is told which option it belongs to.

        An empty one is what an unset variable of the shell leaves: taken for a path, it would be the current
        folder, to read from or to write into.
        """
        name = "/".join(action.option_strings) or str(action.metavar)
        if not arg_string:
            fix = "give one; was a variable of the shell unset?"
            raise UsageError("BNF-U010", "an empty value", where=f"{name} ''", fix=fix)
        try:
            return super()._get_value(action, arg_string)
        except UsageError as error:
            error.where = error.where or f"{name} {arg_string}"
            raise

    def error(self, message: str, fix: str = "") -> NoReturn:
        """argparse calls this with what it could not parse.

        Raises:
            UsageError: BNF-U001, always.
        """
        raise UsageError("BNF-U001", message, where=self.prog, fix=fix or f"{self.prog} --help")

    def _unknown_option(self, word: str) -> NoReturn:
        flags = [*self.options, "--config", "--help"]
        fix = did_you_mean(word, flags)
        self.error(f"unknown option {word}", fix=fix)

    def _joined(self, arguments: Sequence[str]) -> list[str]:
        """``--mean -0.5`` as ``--mean=-0.5``."""
        joined: list[str] = []
        for word in arguments:
            option = self.options.get(joined[-1]) if joined else None
            if option and option.action.nargs is None and _NEGATIVE.match(word):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``did you mean --mean?``; empty where nothing is close. A suggestion is never acted upon."""
    close = difflib.get_close_matches(word, list(choices), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""
