"""Read ``config.toml``, and refuse it with the key and the line of every problem.

Reading is strict: an unknown key is a problem that names the nearest known one.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from kheishd.config.sections.config import Config
from kheishd.config.toml import KeyPath, find_key_lines, find_line
from kheishd.config.validation import Problem, find_problems, format_path
from protocol.errors.daemon import ConfigInvalid
from protocol.limits.units import MIB

# A thousand routes of a kilobyte each.
MAX_CONFIG_BYTES = 1 * MIB

OVERSIZED = "a whole number of more than 64 bits"


def load(path: Path) -> Config:
    """Read a configuration file. Errors: ConfigInvalid, also if the file cannot be read."""
    # Opening one would wait for a writer; the pipes of a shell's <(...) have one.
    if path.is_fifo() and path.parts[:2] not in (("/", "dev"), ("/", "proc")):
        raise ConfigInvalid(f"{path} is a named pipe; put a file there")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_CONFIG_BYTES:
        raise ConfigInvalid(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return parse(content.decode("utf-8-sig"), path.name)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigInvalid(f"{path.name}:{line}: not UTF-8; save the file in that encoding") from None


def parse(text: str, name: str = "config.toml") -> Config:
    """Read a configuration.

    Errors: ConfigInvalid, with every problem as ``config.toml:12: routes.local.drvier: unknown key ...``.
    """
    import tomllib

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # "Message (at line 3, column 5)" becomes "config.toml:3: not TOML: message".
        message, _, position = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", position)
        location = f"{name}:{line[1]}" if line else name
        raise ConfigInvalid(f"{location}: not TOML: {message[:1].lower()}{message[1:]}") from None
    except RecursionError:
        raise ConfigInvalid(f"{name}: nested too deeply") from None
    except ValueError:
        # Python converts no number of more than 4,300 digits.
        raise ConfigInvalid(f"{name}: {OVERSIZED}") from None
    shape_problems = list(find_problems(Config, table))
    if shape_problems:
        raise _refusal(name, text, shape_problems)
    config = msgspec.convert(table, Config)
    value_problems = [*_find_oversized(table), *config.find_problems(())]
    if value_problems:
        raise _refusal(name, text, value_problems)
    return config


def _find_oversized(value: Any, path: KeyPath = ()) -> Iterator[Problem]:
    """Yield a problem for each whole number that neither a request nor a record can hold."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield Problem(path, OVERSIZED)
    if isinstance(value, dict | list):
        for key, element in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _find_oversized(element, (*path, key))


def make_refusal(path: Path | None, key: KeyPath, message: str) -> ConfigInvalid:
    """Return the refusal of one value, with the file and the line in which it stands."""
    location = ""
    if path is not None:
        with suppress(OSError, UnicodeDecodeError):
            line = find_line(find_key_lines(path.read_text("utf-8-sig")), key)
            location = f"{path.name}:{line}: " if line else f"{path.name}: "
    name = format_path(key)
    return ConfigInvalid(f"{location}{name}: {message}" if name else message, field=name or None)


def _refusal(name: str, text: str, file_problems: list[Problem]) -> ConfigInvalid:
    """Return one refusal for all problems of a file, in the order of their lines."""
    lines = find_key_lines(text)
    ordered = sorted(
        ((find_line(lines, problem.path), problem) for problem in file_problems),
        key=lambda pair: pair[0] or 0,
    )
    message = "; ".join(
        f"{name}:{line}: {problem}" if line else f"{name}: {problem}" for line, problem in ordered
    )
    return ConfigInvalid(message, field=format_path(ordered[0][1].path) or None)
