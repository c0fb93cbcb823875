"""Protected files that file tools wrote, with the approval of a person or a rule.

A command that runs beside such a call must not be blamed for them (see ``shell.shield``). The content was
approved for the path, so both are compared: a command can replace the file, or change it in place.
"""

import os
from collections import OrderedDict
from hashlib import sha256
from typing import Final

from kheishd.core.permissions.protected import is_protected
from kheishd.hooks.os.files.confinement import read_begin

# More than a person approves while a command runs.
MAX_WRITTEN: Final = 1_000

_written: Final[OrderedDict[str, tuple[int, bytes]]] = OrderedDict()
"""The size and the digest of each file, by its absolute path."""

_directories: Final[set[str]] = set()
"""The absolute paths of the worktrees that the daemon has made."""


def note_directory(absolute: str) -> None:
    """Remember that the daemon makes a directory."""
    _directories.add(absolute)


def forget_directory(absolute: str) -> None:
    """Forget a directory that the daemon has removed."""
    _directories.discard(absolute)


def note_written(workspace: str, path: str, content: bytes) -> None:
    """Remember the content of a file, if it is protected."""
    if not is_protected(path):
        return
    absolute = f"{workspace}/{path}"
    _written[absolute] = (len(content), sha256(content).digest())
    _written.move_to_end(absolute)
    while len(_written) > MAX_WRITTEN:
        _written.popitem(last=False)


def was_written(absolute: str, place: str) -> bool:
    """Whether a file at ``place`` has the content that a file tool wrote to its absolute path.

    Of a directory, all files must be such files, and there must be one, or the daemon has made the directory.
    Reads the file system.
    """
    if absolute in _directories:
        return os.path.isdir(place) and not os.path.islink(place)
    if not any(path == absolute or path.startswith(f"{absolute}/") for path in (*_written, *_directories)):
        return False
    try:
        if os.path.islink(place) or not os.path.isdir(place):
            size, digest = _written.get(absolute, (0, b""))
            is_file = os.path.isfile(place) and not os.path.islink(place)
            return is_file and sha256(read_begin(place, size + 1)).digest() == digest
        return all(was_written(f"{absolute}/{name}", f"{place}/{name}") for name in os.listdir(place))
    except OSError:
        return False
