"""The entry point of ``kheishd``: run the daemon in the foreground, or a maintenance command."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from kheishd.command_line import make_parser, read_start
from kheishd.launch import FAILED, Exit, LaunchOptions, launch
from protocol.text import escape

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        start = read_start(arguments)
        code = _run_command(arguments) if start is None else launch(start, os.environ)
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


def _run_command(words: Sequence[str]) -> int:
    arguments = make_parser().parse_args(words)
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
