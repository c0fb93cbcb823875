"""Read the files of cron entries and of triggers. They are never written."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

if TYPE_CHECKING:
    from pathlib import Path

    from kheishd.core.wake_file import WakeFile, WakeFileFormat

P = TypeVar("P", bound=Struct)


def read_wake_file(path: Path, kind: WakeFileFormat[P]) -> WakeFile[P]:
    """Return the rows of a file; an unreadable one changes nothing, with a warning."""
    try:
        with path.open("rb") as file:
            content = file.read(kind.max_bytes + 1)
        if len(content) <= kind.max_bytes:
            return kind.parse(content.decode(), str(path))
        problem = f"it has more than {kind.max_bytes} bytes, the limit"
    except OSError as error:
        problem = error.strerror or str(error)
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    return kind.make_unreadable(path, problem)
