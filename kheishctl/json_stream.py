"""The output format ``stream-json``: one JSON line per event, documented in contrib/docs/scripts.md.

Every line has ``type`` and ``version``. Fields and types are only added within a version.
"""

from kheishctl.cli import App
from kheishctl.client import Failure
from kheishctl.contract import Json
from kheishctl.render.changes import DisplayChange

VERSION = 1

# The notifications that become lines, with the line's type. Others are about the subscription, not the run.
LINE_TYPES = {"journal.event": "event", "journal.delta": "delta", "journal.gap": "gap"}


class JsonStream:
    """A writer of JSON lines: the journal's events and live text, then one result or error.

    After a reconnection the daemon repeats events; each is written once.
    """

    shows_text = True

    def __init__(self, app: App) -> None:
        self._app = app
        self._cursors: dict[str, int] = {}

    def receive(self, name: str, notification: Json) -> None:
        """Write a notification of the daemon, unless it is a repetition."""
        line_type = LINE_TYPES.get(name)
        if line_type is None:
            return
        params = dict(notification)
        subscription = str(params.pop("subscription", ""))
        if line_type == "event":
            cursor = int(params["cursor"])
            if cursor <= self._cursors.get(subscription, 0):
                return
            self._cursors[subscription] = cursor
        self._write(line_type, params)

    def show(self, changes: list[DisplayChange]) -> None:
        """Ignore display changes: the lines hold the events from which they are made."""

    def end(self) -> None:
        """End the current line; every line is written whole."""

    def end_with_result(self, result: Json, exit_code: int) -> None:
        """Write the last line: the result of the send, as with ``--json``."""
        self._write("result", {"exit_code": exit_code, "result": result})

    def end_with_failure(self, failure: Failure) -> None:
        """Write the last line: an error, as with ``--json``."""
        self._write("error", {"exit_code": failure.exit_code, "error": self._app.describe(failure)})

    def _write(self, line_type: str, fields: Json) -> None:
        self._app.print_json_line({"type": line_type, "version": VERSION} | fields)
