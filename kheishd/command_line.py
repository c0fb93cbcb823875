"""The command line of ``kheishd``.

A start is read without argparse, whose import takes as long as opening the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kheishd import __version__
from kheishd.launch import EXIT_MEANINGS, LaunchOptions

if TYPE_CHECKING:
    from argparse import ArgumentParser, _SubParsersAction
    from collections.abc import Mapping, Sequence

LOG_FORMATS: Final = ("auto", "text", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

START_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "--home": (),
    "--config": (),
    "--log-format": LOG_FORMATS,
    "--log-level": LOG_LEVELS,
}
"""The options of a start with their choices; without choices, any value is accepted."""


def read_start(arguments: Sequence[str]) -> LaunchOptions | None:
    """Return the options of a command line that starts the daemon; None if only the parser can read it."""
    values: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            value = next(words, "-")
        choices = START_OPTIONS.get(name)
        # A value that looks like an option, or is missing, is for the parser to explain.
        if choices is None or (choices and value not in choices) or (not equals and value.startswith("-")):
            return None
        values[name.removeprefix("--").replace("-", "_")] = value
    return LaunchOptions(**values)


def make_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    import argparse

    top = argparse.ArgumentParser(
        prog="kheishd",
        description="Run the kheish daemon in the foreground, or maintain the store of a stopped daemon.",
        epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_MEANINGS) + ".",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"kheishd {__version__}")
    _add_home(top, default=None)
    top.add_argument("--config", metavar="FILE", help="configuration file (default: HOME/config.toml)")
    top.add_argument("--log-format", choices=LOG_FORMATS, help="default: auto")
    top.add_argument("--log-level", choices=LOG_LEVELS, help="default: info")
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


def _add_home(parser: ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--home",
        metavar="DIR",
        default=default,
        help="the daemon's home (default: $KHEISH_HOME, $STATE_DIRECTORY, ~/.kheish)",
    )


def _add_command(commands: _SubParsersAction[ArgumentParser], name: str, text: str) -> ArgumentParser:
    from argparse import SUPPRESS

    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    # A home given before the command must survive the command's own default.
    _add_home(command, default=SUPPRESS)
    return command
