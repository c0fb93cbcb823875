"""Watching approvals: each one is shown when it is requested, and in a terminal answered by a key.

The pending approvals are fetched once per connection; afterwards the journal reports new requests and answers
of any client. A terminal shows one approval at a time, the oldest first. Keys that were pressed before an
approval was shown are dropped, so that nobody allows a call unseen.
"""

import os
import select
import sys
import time

from kheishctl.cli import App, fetch_pages
from kheishctl.client import Client, ConnectionLost, NoDaemon, RequestRefused
from kheishctl.contract import MAX_PAGE_ROWS, Json
from kheishctl.render.layout import paint
from kheishctl.render.pending import format_approval, format_status
from protocol.text import one_line, sanitize

RECONNECT_PAUSE_SECONDS = 0.5
TYPES = ["approval_requested", "approval_answered", "approval_lapsed"]
PROMPT = "a: allow · d: deny · n: next · q: quit"


class ApprovalWatch:
    """A watch over pending approvals. ``waiting`` holds those without an answer, oldest first."""

    def __init__(self, app: App, filters: Json) -> None:
        self.app = app
        self.filters = filters
        self.waiting: dict[str, Json] = {}
        self._interactive = sys.stdin.isatty() and sys.stdout.isatty() and not app.as_json
        self._current: str | None = None
        self._reconnecting = False
        self._finished = False

    def run(self) -> None:
        """Watch until the person quits, across restarts of the daemon. Errors: NoDaemon, RequestRefused."""
        self.app.client  # noqa: B018 - fail at once if there is no daemon.
        while not self._finished:
            try:
                self._follow(self.app.client)
            except ConnectionLost:
                self._reconnecting = True
                self.app.note("The connection is lost; waiting for the daemon.")
            except NoDaemon:
                pass  # The daemon has not restarted yet.
            if not self._finished:
                self.app.hang_up()
                time.sleep(RECONNECT_PAUSE_SECONDS)

    def _follow(self, client: Client) -> None:
        """Watch over one connection; return when the person quits or the daemon ends the stream."""
        client.call("journal.subscribe", {"types": TYPES} | self.filters)
        if self._reconnecting:
            self._reconnecting = False
            self.app.note("Connected again.")
        self._fetch()
        notifications = client.notifications()
        while not self._finished:
            self._present()
            if self._interactive and not client.has_pending and (key := _wait_for_key(client)) is not None:
                self._press(key)
                continue
            method, params = next(notifications)
            if method == "journal.end":
                self._finished = params.get("reason") != "shutdown"
                return
            if method != "journal.event":
                continue
            approval_id = str(params["event"]["approval_id"])
            if params["event"]["type"] != "approval_requested":
                self._remove(approval_id)
            elif approval_id not in self.waiting:
                approval = self.app.call("approval.get", {"approval_id": approval_id})
                if approval["status"] == "pending":
                    self._add(approval)

    def _fetch(self) -> None:
        """Fetch the pending approvals, and report answers that were given while disconnected."""
        params = {"limit": MAX_PAGE_ROWS} | self.filters
        page = fetch_pages(self.app, "approval.list", params, "approvals", everything=True)
        pending = {str(approval["approval_id"]): approval for approval in page["approvals"]}
        for approval_id in [name for name in self.waiting if name not in pending]:
            self._remove(approval_id)
        for approval in pending.values():
            self._add(approval)

    def _add(self, approval: Json) -> None:
        if approval["approval_id"] in self.waiting:
            return
        self.waiting[str(approval["approval_id"])] = approval
        if self.app.as_json:
            self.app.line(approval)
        elif not self._interactive:
            self.app.say(format_approval(approval, self.app.display()) + "\n")

    def _remove(self, approval_id: str) -> None:
        """Report that an approval was answered or is no longer needed."""
        if self.waiting.pop(approval_id, None) is None:
            return
        if self._current == approval_id:
            self._current = None
        approval = self.app.call("approval.get", {"approval_id": approval_id})
        if self.app.as_json:
            self.app.line(approval)
        else:
            self.app.say(one_line(f"{approval_id} {format_status(approval)}"))

    # Keys.

    def _present(self) -> None:
        """Show the oldest pending approval, unless one is shown, and prompt for a key."""
        import termios

        if not self._interactive or self._current is not None or not self.waiting:
            return
        self._current, approval = next(iter(self.waiting.items()))
        display = self.app.display()
        more = f" ({len(self.waiting) - 1} more)" if len(self.waiting) > 1 else ""
        self.app.say(f"\n{format_approval(approval, display)}\n{paint(PROMPT + more, 'bold', display.color)}")
        # Drop the keys that were pressed before the approval was shown.
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)

    def _press(self, key: str) -> None:
        """Execute the command of a key; without a shown approval only q has an effect."""
        if key in ("q", "\x04", ""):
            self._finished = True
        elif self._current is None:
            return
        elif key == "a":
            self._resolve({"decision": "allow"})
        elif key == "d":
            sys.stdout.write("Reason, for the model (Enter for none): ")
            sys.stdout.flush()
            note = sys.stdin.readline().strip()
            self._resolve({"decision": "deny"} | ({"note": note} if note else {}))
        elif key == "n":
            self.waiting.pop(self._current)
            self._current = None
        else:
            self.app.note(PROMPT)

    def _resolve(self, answer: Json) -> None:
        resolutions = [answer | {"approval_id": self._current}]
        try:
            # The journal reports the answer, as it reports the answers of other clients.
            self.app.call("approval.resolve", {"resolutions": resolutions})
        except RequestRefused as refused:
            self.app.note(sanitize(str(refused)))


def _wait_for_key(client: Client) -> str | None:
    """Wait for a key or for the daemon; return the key, unechoed, if it comes first."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    previous = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        ready, _, _ = select.select([descriptor, client], [], [])
        return os.read(descriptor, 1).decode(errors="replace").lower() if descriptor in ready else None
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, previous)
