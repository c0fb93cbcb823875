"""Read the ``AGENTS.md`` files that instruct the runs of a workspace, most general first.

The daemon's home has the global one. The others lie in the directories from a trusted root down to the
workspace. A file is opened below its root by names, so that no link leads out of it, and only a regular file
is read, up to the limit of all files together.
"""

from __future__ import annotations

import codecs
import os
import stat
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from kheishd.core.workspace import is_within
from protocol.limits.names import MAX_PATH_BYTES
from protocol.limits.workspace import MAX_AGENTS_BYTES, MAX_AGENTS_FILES
from protocol.objects.workspace import AgentsFile
from protocol.structs import Value
from protocol.text import escape_line, truncate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAME: Final = "AGENTS.md"

PREAMBLE: Final = (
    "These are the operator's instructions for work in this workspace, the most general first. Where they "
    "contradict each other, the later ones count."
)

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Place(Value, frozen=True):
    """A place of an ``AGENTS.md``: a directory, and the root that its file may not leave."""

    directory: str
    root: str

    @property
    def path(self) -> str:
        """The path of the file."""
        return f"{self.directory.rstrip('/')}/{NAME}"


def find_places(home: str, directories: Sequence[str]) -> list[Place]:
    """Return the places that have something of that name, whatever it is, the most general first.

    Args:   ``directories`` are the workspace and those above it up to the trusted root, the nearest first.
    """
    # The operator may keep the global file elsewhere and link to it.
    places = [Place(home, "/")]
    for directory in reversed(directories[: MAX_AGENTS_FILES - 1]):
        places.append(Place(directory, directories[-1]))
    return [place for place in places if os.path.lexists(place.path)]


def read_files(
    places: list[Place], scrub_cut: Callable[[bytes], bytes] = bytes
) -> tuple[str, list[AgentsFile]]:
    """Return the text of the files, and a description of each; the text is empty if all of them are.

    ``scrub_cut`` removes what a cut made of a secret from the end of a text.
    """
    sections: list[str] = []
    files: list[AgentsFile] = []
    room = MAX_AGENTS_BYTES
    for place in places:
        path = truncate(escape_line(place.path), MAX_PATH_BYTES)
        try:
            content, size = _read(place, room)
        except OSError as error:
            problem = (error.strerror or str(error)).lower()
            files.append(AgentsFile(path=path, problem=problem))
            continue
        whole = _decode(content, is_whole=len(content) == size)
        text = truncate(whole, room, ellipsis="")
        is_cut = len(content) < size or text != whole
        room = max(room - len(text.encode()), 0)
        files.append(
            AgentsFile(
                path=path,
                bytes=size,
                read_bytes=len(content),
                sha256=sha256(content).hexdigest(),
                cut=is_cut,
            )
        )
        if is_cut:
            text = scrub_cut(text.encode()).decode(errors="ignore")
            note = f"instructions take at most {MAX_AGENTS_BYTES} bytes, and this file has {size}"
            text = f"{text}\n\n[The rest of {path} is left out: {note}.]".lstrip()
        if text.strip():
            sections.append(f"# {path}\n\n{text.strip()}")
    return "\n\n".join([PREAMBLE, *sections]) if sections else "", files


def _read(place: Place, max_bytes: int) -> tuple[bytes, int]:
    """Return the first bytes of a file, and its size. Errors: OSError if it cannot or may not be read."""
    path = place.path
    if os.path.islink(path):
        path = os.path.realpath(path)
        if not is_within(path, place.root):
            raise OSError(f"it is a link out of {place.root}")
    names = os.path.relpath(path, place.root).split("/")
    directory = os.open(place.root, _DIRECTORY)
    try:
        for name in names[:-1]:
            parent, directory = directory, os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(parent)
        # Opening a device may have effects, so its kind comes first.
        if not stat.S_ISREG(os.stat(names[-1], dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError("it is no regular file")
        descriptor = os.open(names[-1], _FILE, dir_fd=directory)
    finally:
        os.close(directory)
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError("it is no regular file")
        content = file.read(max_bytes)
        return content, max(info.st_size, len(content))


def _decode(content: bytes, *, is_whole: bool) -> str:
    """Return the text of a file; bytes that are no text become replacement characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(content, final=is_whole).removeprefix("\ufeff").replace("\x00", "\ufffd")
    return text.replace("\r\n", "\n")
