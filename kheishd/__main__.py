"""The program ``kheishd``: without a command it runs the daemon in the foreground."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from kheishd import __version__
from kheishd.launch import EXIT_MEANINGS, FAILED, Exit, Options, launch
from protocol.text import escape

if TYPE_CHECKING:
    from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """Everything the command line can say."""
    top = argparse.ArgumentParser(
        prog="kheishd",
        description="Run the kheish daemon in the foreground, or work on its store while it is stopped.",
        epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_MEANINGS) + ".",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"kheishd {__version__}")
    _common(top, default=None)
    top.add_argument("--config", metavar="FILE", help="the configuration to read (default: HOME/config.toml)")
    top.add_argument("--log-format", choices=("auto", "text", "json"), help="default: auto")
    top.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="default: info")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    restore = _command(commands, "restore", "verify a backup and put it in the place of the store")
    restore.add_argument("backup", metavar="BACKUP", help="what 'kheishctl daemon backup' wrote")
    doctor = _command(commands, "doctor", "verify the journal, and the records and indexes against it")
    doctor.add_argument("--repair", action="store_true", help="rebuild records and indexes from the journal")
    doctor.add_argument("--deep", action="store_true", help="read the whole journal")
    compact = _command(commands, "compact", "give the space that the store no longer uses back to the disk")
    for command in (restore, doctor, compact):
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    _command(commands, "discover", "print the contract as an OpenRPC document")
    return top


def _common(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--home",
        metavar="DIR",
        default=default,
        help="the daemon's home (default: $KHEISH_HOME, $STATE_DIRECTORY, ~/.kheish)",
    )


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    # Given before the command, it must survive the command's own default.
    _common(command, default=argparse.SUPPRESS)
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says; the exit code."""
    arguments = parser().parse_args(argv)
    try:
        code = _perform(arguments)
        sys.stdout.flush()
        return code
    except Exit as end:
        print(f"kheishd: {escape(str(end))}", file=sys.stderr)
        return end.code
    except BrokenPipeError:
        # Who reads has enough. What is still to be written must not fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _perform(arguments: argparse.Namespace) -> int:
    if arguments.command is None:
        options = Options(arguments.home, arguments.config, arguments.log_format, arguments.log_level)
        return launch(options, os.environ)
    from kheishd import offline

    match arguments.command:
        case "restore":
            return offline.restore(arguments.home, arguments.backup, as_json=arguments.json)
        case "doctor":
            return offline.doctor(
                arguments.home, repair=arguments.repair, deep=arguments.deep, as_json=arguments.json
            )
        case "compact":
            return offline.compact(arguments.home, as_json=arguments.json)
        case other:
            assert other == "discover"
            return offline.discover()


if __name__ == "__main__":
    sys.exit(main())
