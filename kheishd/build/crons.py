"""Read the file of cron entries. It is never written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core.cron.file import CronFile, parse_file
from protocol.limits.cron import MAX_CRON_FILE_BYTES

if TYPE_CHECKING:
    from pathlib import Path


def read_crons(path: Path) -> CronFile:
    """Return the rows of the file; an unreadable file keeps the entries as they are, with a warning."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CRON_FILE_BYTES + 1)
        if len(content) <= MAX_CRON_FILE_BYTES:
            return parse_file(content.decode(), str(path))
        problem = f"it has more than {MAX_CRON_FILE_BYTES} bytes, the limit"
    except OSError as error:
        problem = error.strerror or str(error)
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    return CronFile.unreadable(path, problem)
