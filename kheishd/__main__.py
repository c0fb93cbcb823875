"""The entry point of ``kheishd``: run the daemon in the foreground, or a maintenance command."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from kheishd import __version__
from kheishd.launch import EXIT_MEANINGS, FAILED, Exit, LaunchOptions, launch
from protocol.text import escape

if TYPE_CHECKING:
    from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="kheishd",
        description="Run the kheish daemon in the foreground, or maintain the store of a stopped daemon.",
        epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_MEANINGS) + ".",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"kheishd {__version__}")
    _add_home(top, default=None)
    top.add_argument("--config", metavar="FILE", help="configuration file (default: HOME/config.toml)")
    top.add_argument("--log-format", choices=("auto", "text", "json"), help="default: auto")
    top.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="default: info")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    restore = _add_command(commands, "restore", "verify a backup and replace the store with it")
    restore.add_argument("backup", metavar="BACKUP", help="the file of a backup")
    upgrade = _add_command(commands, "upgrade", "upgrade the store of an older version, as a start does")
    upgrade.add_argument(
        "--rehearse",
        action="store_true",
        help="upgrade a copy and compare it; the daemon may run, and nothing else is changed",
    )
    upgrade.add_argument("--no-backup", action="store_true", help="keep no copy for the way back")
    upgrade.add_argument("--force", action="store_true", help="leave out events that cannot be read")
    doctor = _add_command(commands, "doctor", "verify the pages, the journal, and the records and indexes")
    doctor.add_argument(
        "--repair", action="store_true", help="copy a damaged store to a new file, and rebuild records"
    )
    doctor.add_argument("--deep", action="store_true", help="read the whole journal")
    compact = _add_command(
        commands, "compact", "give free pages back to the disk, and shrink the file if a copy fits"
    )
    for command in (restore, upgrade, doctor, compact):
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_command(commands, "discover", "print the contract as an OpenRPC document")
    return top


def _add_home(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--home",
        metavar="DIR",
        default=default,
        help="the daemon's home (default: $KHEISH_HOME, $STATE_DIRECTORY, ~/.kheish)",
    )


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    # A home given before the command must survive the command's own default.
    _add_home(command, default=argparse.SUPPRESS)
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parser().parse_args(argv)
    try:
        code = _run_command(arguments)
        sys.stdout.flush()
        return code
    except Exit as end:
        message = f"kheishd: {escape(str(end))}"
        try:
            print(message, file=sys.stderr)
        except OSError:
            # The log is on a full disk. The starter of a daemon in the background also reads its output.
            with suppress(OSError):
                os.write(sys.stdout.fileno(), f"{message}\n".encode())
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        return end.code
    except BrokenPipeError:
        # The reader closed the pipe: the rest of the output must not fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _run_command(arguments: argparse.Namespace) -> int:
    home = arguments.home
    if arguments.command is None:
        options = LaunchOptions(home, arguments.config, arguments.log_format, arguments.log_level)
        return launch(options, os.environ)
    from kheishd import maintenance

    match arguments.command:
        case "restore":
            return maintenance.restore(home, arguments.backup, as_json=arguments.json)
        case "upgrade" if arguments.rehearse:
            return maintenance.rehearse(home, as_json=arguments.json)
        case "upgrade":
            return maintenance.upgrade(
                home, keep=not arguments.no_backup, force=arguments.force, as_json=arguments.json
            )
        case "doctor":
            return maintenance.doctor(
                home, repair=arguments.repair, deep=arguments.deep, as_json=arguments.json
            )
        case "compact":
            return maintenance.compact(home, as_json=arguments.json)
        case command:
            assert command == "discover"
            return maintenance.discover()


if __name__ == "__main__":
    sys.exit(main())
