"""One run of the command line: finds the command, runs it, and turns whatever happens into one report."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TextIO

from bnfold import atomic
from bnfold._version import __version__
from bnfold.errors import UsageError
from bnfold.report import Style, dump, error_document, render_error
from bnfold.report.style import printable, size

from . import config, console, interrupts
from .command import CommandParser, Context, HelpRequested, Outcome, did_you_mean
from .failure import INTERRUPTED, as_bnfold_error

COMMANDS = {
    "convert": "fold a checkpoint's BatchNorms and write ONNX and TFLite files",
    "verify": "compare a checkpoint or an artifact with another on frames",
    "run": "one answer per frame, or the artifact's own self-test",
    "bench": "how long one frame takes here, start and memory",
    "audit": "what a checkpoint's population statistics show, without data",
    "diagnose": "why a network is wrong in eval mode, told from frames",
    "recalibrate": "new population statistics for a checkpoint, from frames",
    "drift": "whether frames look like what the network was trained on",
    "monitor": "the same for a stream, frame by frame: an alarm when it changes",
    "inspect": "what an artifact or a checkpoint says of itself",
    "rules": "the fold rules and their algebra",
    "doctor": "what is installed, what works with it, and what is missing",
}


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    with console.stdout_kept_clean() as stdout:
        return _Invocation(list(arguments)).run(stdout)


def stopped(arguments: Sequence[str], exception: BaseException) -> int:
    """Report what ended a run before it began, and return its exit status."""
    with console.stdout_kept_clean() as stdout:
        return _Invocation(list(arguments)).failed(exception, stdout)


class _Invocation:
    """One run of the command line."""

    def __init__(self, arguments: list[str]) -> None:
        self.command, self.arguments = _split(arguments)
        # Looked up before anything is parsed, so that a failure to parse is reported as asked for.
        self.json = _asks_for_json(arguments)
        self.traceback = "--traceback" in arguments
        self.format, self.output = "json" if self.json else "text", None

    def run(self, stdout: TextIO) -> int:
        """The whole run; every exception ends here."""
        try:
            outcome = self._outcome(stdout)
            self._write(stdout, outcome)
        except BaseException as exception:
            return self.failed(exception, stdout)
        return outcome.exit_status

    def _outcome(self, stdout: TextIO) -> Outcome:
        try:
            if not self.command:
                return _without_command(self.arguments)
            parser = parser_of(self.command)
            if parser is None:
                fix = did_you_mean(self.command, COMMANDS) or "bnfold --help lists the commands"
                raise UsageError("BNF-U002", f"unknown command {self.command!r}", fix=fix)
            said = parser.parse(self.arguments)
            name, sections = config.read(getattr(said, "config", None))
            options = parser.fill(said, config.select(sections, name, self.command, parser_of))
        except HelpRequested as request:
            text = request.text
            return Outcome(True, {"schema": 1, "passed": True, "help": text}, lambda style: text)
        self.format, self.output = options.format, getattr(options, "output", None)
        self.json = options.format == "json"
        self.traceback = options.traceback
        with warnings.catch_warnings(), console.progress(options.verbose) as progress:
            if not options.verbose and not sys.warnoptions:
                warnings.simplefilter("ignore")  # the libraries' advice to their own callers
            module = import_module(f"{__package__}.{self.command}")
            lines = sys.stderr if self.json else stdout

            def stage(name: str) -> None:
                interrupts.resume()
                progress(name)

            context = Context(stage, options.verbose, lambda line: console.write(lines, f"{line}\n"))
            outcome: Outcome = module.run(options, context)
        return outcome

    def _write(self, stdout: TextIO, outcome: Outcome) -> None:
        if outcome.silent:
            return
        if self.format not in ("text", "json"):
            console.write(stdout, self._file(outcome, Style.of(stdout)))
            return
        text = dump(outcome.document) if self.json else outcome.render(Style.of(stdout))
        console.write(stdout, text)

    def _file(self, outcome: Outcome, style: Style) -> str:
        """What goes to standard output: the file itself, or the text where ``-o`` names the file.

        Raises:
            UsageError: BNF-U162 there is no report of this form.
            PlatformError: as `atomic.write`.
        """
        if self.format not in outcome.files:
            raise UsageError(
                "BNF-U162",
                f"there is no {self.format} report of what was asked for",
                where=f"bnfold {self.command} --format {self.format}",
                fix=f"one of {', '.join(('text', 'json', *outcome.files))}",
            )
        content = outcome.files[self.format]()
        if self.output is None:
            return content
        data = content.encode("ascii")
        atomic.write(self.output, data)
        return f"{outcome.render(style)}\n{style.plain(printable(self.output))}: {size(len(data))}\n"

    def failed(self, exception: BaseException, stdout: TextIO) -> int:
        """The report of an exception, and its exit status."""
        error = as_bnfold_error(exception, self.command)
        # Standard output may be what failed, and standard error may be closed: say it where one can.
        if self.json:
            with suppress(OSError):
                console.write(stdout, dump(error_document(self.command, error)))
        with suppress(OSError):
            if self.traceback:
                import traceback

                traceback.print_exception(exception, file=sys.stderr)
            print(render_error(error, Style.of(sys.stderr)), file=sys.stderr, flush=True)
        return 130 if error.code == INTERRUPTED else error.exit_status


def parser_of(command: str) -> CommandParser | None:
    """The parser of one command, or None where there is no such command."""
    if command not in COMMANDS:
        return None
    parser = CommandParser(command, COMMANDS[command])
    import_module(f"{__package__}.{command}").configure(parser)
    return parser


def _without_command(arguments: Sequence[str]) -> Outcome:
    """``bnfold --help``, ``bnfold --version``, or nothing at all, which is an error."""
    if "--version" in arguments:
        return Outcome(
            True, {"schema": 1, "passed": True, "bnfold": __version__}, lambda style: f"{__version__}\n"
        )
    if not {"-h", "--help"} & set(arguments):
        raise UsageError("BNF-U001", "no command given", fix="bnfold --help lists the commands")
    commands = "\n".join(f"  {name:<11} {summary}" for name, summary in COMMANDS.items())
    text = (
        "usage: bnfold COMMAND ...\n\n"
        "Takes a trained PyTorch checkpoint with BatchNorm to a device.\n\n"
        f"{commands}\n\n"
        "bnfold COMMAND --help shows a command's options; bnfold --version the version.\n"
        "Exit status: 0 passed, 1 a gate failed, 2 the input or the environment is wrong,\n"
        "3 a bug in bnfold, 130 interrupted.\n"
    )
    raise HelpRequested(text)


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    """The command, and everything else: options may stand before it as well as after it."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        at += 2 if arguments[at] in ("-c", "--config", "--format") else 1
    if at >= len(arguments):
        return "", arguments
    return arguments[at], arguments[:at] + arguments[at + 1 :]


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """The last word on ``--format``, found without a parser."""
    said = "text"
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word == "--format":
            said = following
        elif word.startswith("--format="):
            said = word.removeprefix("--format=")
    return said == "json"
