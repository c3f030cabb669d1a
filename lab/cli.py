"""The command line: `lab COMMAND ...`. Parsing imports nothing heavy; each command loads what it needs when it runs.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted (saved and resumable).
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from lab import __version__, catalog
from lab.errors import Failure, UserError, unknown

INTERRUPTED = 130


class Command(NamedTuple):
    """A subcommand: the module with its `add_arguments(parser)` and `run(arguments) -> exit code`, and its help."""

    module: str
    summary: str
    example: str


COMMANDS = {
    "train": Command(
        "lab.commands.train", "train a recipe on this machine", "lab train dqn/cartpole module.gamma=0.97 seed=3"
    ),
    "resume": Command(
        "lab.commands.resume", "go on with a run or a sweep", "lab resume runs/dqn-cartpole-s3-20260102-030405"
    ),
    "evaluate": Command(
        "lab.commands.evaluate", "measure a trained run", "lab evaluate runs/dqn-cartpole-s3-... --episodes 100"
    ),
    "play": Command(
        "agents.commands.play",
        "play a trained agent in its environment",
        "lab play runs/dqn-cartpole-s3-... --video pole.gif",
    ),
    "sample": Command(
        "generative.commands.sample",
        "sample from a trained generative model",
        "lab sample runs/vae-digits-s0-... --n 64 --out grid.png",
    ),
    "export": Command(
        "lab.commands.export", "write a trained network as torch.export and ONNX", "lab export runs/dqn-cartpole-s3-..."
    ),
    "sweep": Command(
        "cluster.commands.sweep",
        "train many recipes, seeds and values on a Ray cluster",
        "lab sweep dqn/cartpole --seeds 5 module.gamma=0.97,0.99",
    ),
    "submit": Command(
        "cluster.commands.submit", "ship a lab command to a cluster as a job", "lab submit sweep dqn/cartpole --seeds 5"
    ),
    "jobs": Command("cluster.commands.jobs", "list submitted jobs", "lab jobs"),
    "logs": Command("cluster.commands.logs", "follow a submitted job's log", "lab logs lab-20260102-030405-a1b2"),
    "stop": Command("cluster.commands.stop", "end a submitted job, saved", "lab stop lab-20260102-030405-a1b2"),
    "fetch": Command(
        "cluster.commands.fetch", "bring a submitted job's runs back", "lab fetch lab-20260102-030405-a1b2"
    ),
    "cluster": Command(
        "cluster.commands.cluster", "start, join, show or stop a Ray cluster of your own", "lab cluster start"
    ),
    "compare": Command("lab.commands.compare", "compare runs in a table and a report", "lab compare runs/sweep-*"),
    "board": Command("lab.commands.board", "show runs live in a browser", "lab board runs"),
    "sync": Command("lab.commands.sync", "upload offline W&B runs, once each", "lab sync runs/sweep-*"),
    "dashboard": Command(
        "lab.commands.dashboard", "make a W&B workspace and report of a group", "lab dashboard dqn/cartpole"
    ),
    "demo": Command(
        "cluster.commands.demo", "train every family side by side and write a report", "lab demo --out demo"
    ),
    "list": Command("lab.commands.list", "show recipes, backbones, data sets, runs", "lab list recipes"),
    "show": Command(
        "lab.commands.show", "print a recipe or a run's experiment as YAML", "lab show dqn/cartpole > my.yaml"
    ),
    "completion": Command(
        "lab.commands.completion", "print the shell's completion script", "source <(lab completion bash)"
    ),
}


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
    parser = _parser()
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command in COMMANDS:
        return _run(command, arguments)
    if command is not None:
        return _say(unknown("command", command, COMMANDS), 2)
    parser.parse_args(arguments)
    parser.print_help()
    return 2


def _run(command: str, arguments: list[str]) -> int:
    entry = COMMANDS[command]
    debug = "--debug" in arguments
    try:
        module = importlib.import_module(entry.module)
        parser = Parser(
            prog=f"lab {command}",
            description=f"{entry.summary[0].upper()}{entry.summary[1:]}.",
            epilog=f"example: {entry.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(parser)
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        arguments.remove(command)
        whole = any(action.nargs == argparse.REMAINDER for action in parser._actions)  # takes another command line
        parsed = parser.parse_args(arguments) if whole else parser.parse_intermixed_args(arguments)
        for name in getattr(parsed, "imports", None) or ():
            catalog.allow_import(name)
        code: int = module.run(parsed)
        return code
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
    except Exception as error:
        if debug:
            raise
        reason = " ".join(str(error).split())[:500]
        return _say(f"{type(error).__name__}: {reason} (--debug shows where)", 1)


def _say(error: object, code: int) -> int:
    print(f"lab: {error}", file=sys.stderr)
    return code


def add_override_arguments(parser: argparse.ArgumentParser, target: str, nargs: str | None = None) -> None:
    """The arguments that every command with a recipe or run and overrides takes."""
    parser.add_argument("target", nargs=nargs, help=target)
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="overrides, e.g. module.gamma=0.97 seed=3")
    add_import_argument(parser)


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
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
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
    sys.exit(main())
