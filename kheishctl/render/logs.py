"""Select lines of the daemon's log: by time, level, run and request. Pure."""

import json
import re
from datetime import UTC, datetime
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_HEAD: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (\w+) ")
"""The begin of a line as text: the time and the level."""


def format_since(at_s: float) -> str:
    """Return a time as the log writes it, so that times compare as text."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LogFilter:
    """A selection of lines. Lines that continue a message, such as those of a traceback, belong to it."""

    def __init__(
        self,
        since: str | None = None,
        level: str | None = None,
        run_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        self._since = since or ""
        self._level = LEVELS.index(level) if level is not None else 0
        self._fields = [
            {name: value for name in names}
            for names, value in ((("run_id", "parent_run_id"), run_id), (("request_id",), request_id))
            if value is not None
        ]
        self.is_empty = not (since or level or self._fields)
        self._is_admitted = self.is_empty

    def admits(self, line: str) -> bool:
        """Whether a line is selected; the lines of a log come in order."""
        head = _HEAD.match(line)
        if head is not None:
            words = set(line.split())
            self._is_admitted = self._covers(head[1], head[2]) and all(
                any(f"{name}={value}" in words for name, value in fields.items()) for fields in self._fields
            )
        elif line.startswith("{"):
            try:
                entry = json.loads(line)
            except ValueError:
                return self._is_admitted
            self._is_admitted = self._covers(str(entry.get("at")), str(entry.get("level"))) and all(
                any(str(entry.get(name)) == value for name, value in fields.items())
                for fields in self._fields
            )
        return self._is_admitted

    def _covers(self, at: str, level: str) -> bool:
        # A level of a later version is shown.
        rank = LEVELS.index(level) if level in LEVELS else len(LEVELS)
        return at >= self._since and rank >= self._level
