"""Links to files that other programs execute or obey: the target of a protected link is obeyed, too.

The names of ``core.permissions.protected`` do not tell that ``.envrc`` leads to ``env/dev``.
"""

import os
import posixpath
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

from kheishd.core.permissions.protected import (
    PAIR_DIRECTORIES,
    PROTECTED_NAMES,
    PROTECTED_SUFFIXES,
    protected_names,
)
from kheishd.hooks.os.files.repositories import GUARDED_IN_GIT, resolve_links

# Ten thousand entries take about ten milliseconds.
MAX_ENTRIES: Final = 10_000

# The entries of a protected directory that are searched for links.
MAX_LINK_ENTRIES: Final = 1000

GIT: Final = ".git"
DEPENDENCIES: Final = "node_modules"


def find_link_use(workspace: str, paths: Collection[str]) -> tuple[str, str] | None:
    """Return the first path of a workspace to which a protected link leads, and the link; None without one.

    A path is also in a directory to which one leads. Reads the file system.
    """
    for link in find_protected_links(workspace):
        target = resolve_links(f"{workspace}/{link}")
        # Whatever is above a link is not a part of what it stands for.
        if not f"{workspace}/{link}".startswith(f"{target}/"):
            for path in paths:
                if f"{workspace}/{path}/".startswith(f"{target}/"):
                    return path, link
    return None


def find_protected_links(workspace: str) -> Iterator[str]:
    """Yield the links that other programs follow to what they execute or obey, among the upper entries.

    They have protected names, or are in protected directories, or among the hooks of git.
    """
    queue = deque([""])
    count = 0
    while queue and count < MAX_ENTRIES:
        directory = queue.popleft()
        above = f"{directory}/" if directory else ""
        names = protected_names(posixpath.basename(directory))
        with suppress(OSError), os.scandir(f"{workspace}/{directory}") as entries:
            for entry in entries:
                count += 1
                path, folded = above + entry.name, entry.name.casefold()
                is_protected = folded in names or folded.endswith(PROTECTED_SUFFIXES)
                if entry.is_symlink():
                    if is_protected:
                        yield path
                    elif folded in PAIR_DIRECTORIES:
                        yield from (f"{path}/{name}" for name in find_second_names(folded))
                elif entry.is_dir():
                    if folded == GIT:
                        parts = [f"{path}/{part}" for part in GUARDED_IN_GIT]
                        yield from (part for part in parts if os.path.islink(f"{workspace}/{part}"))
                        yield from (
                            f"{path}/hooks/{link}" for link in find_links(f"{workspace}/{path}/hooks")
                        )
                    elif is_protected:
                        yield from (f"{path}/{link}" for link in find_links(f"{workspace}/{path}"))
                    elif entry.name != DEPENDENCIES:
                        queue.append(path)


def find_second_names(directory: str) -> frozenset[str]:
    """Return the names that are protected only in a directory of this name."""
    return protected_names(directory) - PROTECTED_NAMES


def find_links(directory: str) -> Iterator[str]:
    """Yield the links in a directory and below, relative to it, among its first entries."""
    directories = deque([""])
    count = 0
    while directories:
        above = directories.popleft()
        with suppress(OSError), os.scandir(f"{directory}/{above}") as entries:
            for entry in islice(entries, MAX_LINK_ENTRIES - count):
                count += 1
                if entry.is_symlink():
                    yield f"{above}{entry.name}"
                elif entry.is_dir():
                    directories.append(f"{above}{entry.name}/")
