"""The command line: `lab COMMAND ...`. Parsing imports nothing heavy; each command loads what it needs when it runs.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted (saved and resumable).
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import io
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, NoReturn

from lab import __version__, catalog, interrupts, plugins
from lab.caches import without_a_home
from lab.errors import Failure, UserError, shortened, unknown
from lab.quiet import warnings_in_lines

INTERRUPTED = 130
_AGAIN_SECONDS = 0.05
_LONGEST_NAME = 255
"""bytes of a file's name, on nearly every file system"""
_OF_PATHS = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)
"""errors of a path that was given"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, like all others."""

    def error(self, message: str) -> NoReturn:
        dashed = re.search(r"unrecognized arguments: .*?--([a-z][\w.]*=\S*)", message)
        if dashed:
            raise UserError(f"'--{dashed[1]}' is no option; a field is set without dashes: {dashed[1]}.")
        raise UserError(f"{message}; {self.prog} --help says what there is.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)
    debug = "--debug" in arguments
    try:
        without_a_home()
        with nullcontext() if debug else warnings_in_lines(), _interrupted_by_sigterm():
            if command is not None:
                return _run(command, arguments)
            parser = _parser()
            parser.parse_args(arguments)
            parser.print_help()
            return 2
    except UserError as error:
        if debug:
            raise
        return _say(error, 2)
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Failure as error:
        if debug:
            raise
        return _say(error, 1)
    except OSError as error:
        if debug:
            raise
        if error.filename is None or error.errno not in _OF_PATHS:
            return _unexpected(error)
        return _say(f"{shortened(str(error.filename))} cannot be used: {error.strerror}.", 2)
    except Exception as error:
        if debug:
            raise
        if interrupts.asked():  # which C code took for an error of an import
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        return _unexpected(error)
    finally:
        interrupts.forget()


def program() -> NoReturn:
    """The program `lab`: `main`, then the end of a process without tearing down its modules, which takes seconds."""
    code = main()
    with suppress(KeyboardInterrupt):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for each in gc.get_objects():  # files that users' code has left open, too
        if issubclass(type(each), io.IOBase):
            with suppress(OSError, ValueError):  # closed, or nobody reads on
                each.flush()
    os._exit(code)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, where nobody handles it yet; and remember both.

    An interrupt that comes while a destructor or a callback runs is ignored by Python: it is raised once more.
    """

    def interrupt(number: int, frame: Any) -> NoReturn:
        interrupts.note()
        raise KeyboardInterrupt(number)

    def again(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            before_hook(unraisable)
            return
        number = next(iter(unraisable.exc_value.args), signal.SIGINT)
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()

    default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not where it is ignored, in the background
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    before_hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = before_hook


def _run(command: str, arguments: list[str]) -> int:
    module, parsed = parse(command, arguments)
    code: int = module.run(parsed)
    return code


def parse(command: str, arguments: Sequence[str]) -> tuple[Any, argparse.Namespace]:
    """The module of a command, and what a command line says that holds the command's name.

    Raises UserError when there is no such command, or it does not take these arguments.
    """
    commands = catalog.commands()
    if command not in commands:
        raise unknown("command", command, commands)
    entry = commands[command]
    try:
        module: Any = plugins.load(entry.module)
    except ModuleNotFoundError as error:
        raise UserError(f"command {command!r} needs {error.name!r}, which is not installed.") from error
    if not (hasattr(module, "add_arguments") and hasattr(module, "run")):
        raise UserError(f"command {command!r}: {entry.module} has no functions add_arguments and run.")
    parser = Parser(
        prog=f"lab {command}",
        description=f"{entry.summary[:1].upper()}{entry.summary[1:]}.",
        epilog=f"example: {entry.example}" if entry.example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    words = list(arguments)
    words.remove(command)
    whole = any(action.nargs == argparse.REMAINDER for action in parser._actions)  # takes another command line
    parsed = parser.parse_args(words) if whole else parser.parse_intermixed_args(words)
    for name in getattr(parsed, "imports", None) or ():
        catalog.allow_import(name)
    return module, parsed


def _unexpected(error: Exception) -> int:
    reason = " ".join(str(error).split())[:500]
    return _say(f"{type(error).__name__}: {reason} (--debug shows where)", 1)


def _say(error: object, code: int) -> int:
    print(f"lab: {error}", file=sys.stderr)
    return code


Completed = Literal["recipes", "runs", "backbone"]
"""the names of recipes, of runs; the word `backbone`, after which a backbone's name and options come"""


def completed(argument: argparse.Action, *kinds: Completed) -> None:
    """Let the shell complete an argument with names (`lab completion`)."""
    vars(argument)["completes"] = kinds


def add_override_arguments(
    parser: argparse.ArgumentParser,
    target: str,
    nargs: str | None = None,
    completes: Sequence[Completed] = ("runs",),
) -> None:
    """The arguments that every command with a recipe or run and overrides takes."""
    completed(parser.add_argument("target", nargs=nargs, help=target), *completes)
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="overrides, e.g. module.gamma=0.97 seed=3")
    add_import_argument(parser)


class _Checkpoints(tuple[str, ...]):
    """The names that a shell completes; a run may have snapshots beside them."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or re.fullmatch(r"snapshot-[1-9]\d*", str(name)) is not None


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """The argument that says which of a run's weights a command takes."""
    parser.add_argument(
        "--checkpoint",
        choices=_Checkpoints(("best", "last")),
        metavar="NAME",
        default="best",
        help="which weights: best, last, or snapshot-1 of a run with trainer.snapshots (default: best)",
    )


def path_argument(text: str) -> Path:
    """The type of an option that names a file or folder to write."""
    if not text:
        raise argparse.ArgumentTypeError("a path must not be empty")
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in Path(text).parts):
        raise argparse.ArgumentTypeError(f"{shortened(text)} holds a name of more than {_LONGEST_NAME} bytes")
    return Path(text)


def finite(text: str) -> float:
    """The type of an option that is a number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{shortened(text)} is no finite number")
    return value


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """`--import`, for names in files that refer to other packages."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        metavar="MODULE",
        help="import this module first and allow names in files to refer to it",
    )


def _parser() -> argparse.ArgumentParser:
    commands = catalog.commands()
    width = max(map(len, commands))
    listed = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in commands.items())
    parser = argparse.ArgumentParser(
        prog="lab",
        description="A distributed reinforcement and generative learning lab.",
        epilog=f"commands:\n{listed}\n\nlab COMMAND --help says more. Start with: lab train dqn/cartpole",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="lab COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"lab {__version__}")
    return parser


if __name__ == "__main__":
    program()
