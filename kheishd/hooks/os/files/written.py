"""Protected files that file tools wrote, with the approval of a person or a rule.

A command that runs beside such a call must not be blamed for them (see ``shell.shield``).
"""

import os
from collections import OrderedDict
from typing import Final

from kheishd.core.permissions.protected import is_protected

# More than a person approves while a command runs.
MAX_WRITTEN: Final = 1_000

_written: Final[OrderedDict[str, tuple[int, int]]] = OrderedDict()


def note_written(workspace: str, path: str, directory: int, name: str) -> None:
    """Remember a file, if it is protected; ``name`` is its name in the open directory. Errors: OSError."""
    if not is_protected(path):
        return
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    absolute = f"{workspace}/{path}"
    _written[absolute] = (status.st_dev, status.st_ino)
    _written.move_to_end(absolute)
    while len(_written) > MAX_WRITTEN:
        _written.popitem(last=False)


def was_written(absolute: str, identity: tuple[int, int]) -> bool:
    """Whether a file tool wrote this file, or a file in this directory."""
    return _written.get(absolute) == identity or any(path.startswith(f"{absolute}/") for path in _written)
