"""Read the file of subscriptions. It is never written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core.subscriptions import SubscriptionFile, parse_file
from protocol.limits.event import MAX_SUBSCRIPTIONS_FILE_BYTES

if TYPE_CHECKING:
    from pathlib import Path


def read_subscriptions(path: Path) -> SubscriptionFile:
    """Return the rows of the file; an unreadable file keeps the triggers as they are, with a warning."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SUBSCRIPTIONS_FILE_BYTES + 1)
        if len(content) <= MAX_SUBSCRIPTIONS_FILE_BYTES:
            return parse_file(content.decode(), str(path))
        problem = f"it has more than {MAX_SUBSCRIPTIONS_FILE_BYTES} bytes, the limit"
    except OSError as error:
        problem = error.strerror or str(error)
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    return SubscriptionFile.unreadable(path, problem)
