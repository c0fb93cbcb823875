"""The live view of ``kheishctl approval watch``: new approvals, each answered by one key in a terminal.

The pending approvals are fetched once per connection; afterwards the journal reports new requests and answers
of any client. A terminal shows one approval at a time, the oldest first. Keys that were pressed before an
approval was shown are dropped, so that no call is allowed unseen.
"""

import os
import select
import sys
import time

from kheishctl.cli import App, fetch_pages
from kheishctl.client import Client, ConnectionLost, NoDaemon, NotADaemon, RequestRefused
from kheishctl.contract import MAX_PAGE_ROWS, Json
from kheishctl.render.layout import paint
from kheishctl.render.pending import format_approval, format_status
from protocol.text import one_line, sanitize

RECONNECT_PAUSE_SECONDS = 0.5
EVENT_TYPES = ["approval_requested", "approval_answered", "approval_lapsed"]
PROMPT = "a: allow · d: deny · n: next · q: quit"


class ApprovalWatch:
    """The live view. ``pending`` are the unanswered approvals, oldest first."""

    def __init__(self, app: App, filters: Json) -> None:
        self.app = app
        self.filters = filters
        self.pending: dict[str, Json] = {}
        self._interactive = sys.stdin.isatty() and sys.stdout.isatty() and not app.as_json
        self._current: str | None = None
        self._epoch: str | None = None
        self._reconnecting = False
        self._finished = False

    def run(self) -> None:
        """Watch until the person quits, across restarts of the daemon. Errors: NoDaemon, RequestRefused."""
        self.app.client  # noqa: B018 - fail at once if there is no daemon.
        while not self._finished:
            try:
                self._follow(self.app.client)
            except NotADaemon:
                raise
            except ConnectionLost:
                self._reconnecting = True
                self.app.note("Connection lost; waiting for the daemon.")
            except NoDaemon:
                pass  # The daemon has not restarted yet.
            if not self._finished:
                self.app.disconnect()
                time.sleep(RECONNECT_PAUSE_SECONDS)

    def _follow(self, client: Client) -> None:
        """Watch over one connection; return when the person quits or the daemon ends the stream."""
        subscribed = client.call("journal.subscribe", {"types": EVENT_TYPES} | self.filters)
        if self._epoch not in (None, subscribed.get("epoch")):
            # Approvals of before may not exist, and none of them is pending any more.
            self.pending.clear()
            self._current = None
            self.app.note("A backup was restored; earlier approvals are withdrawn.")
        self._epoch = subscribed.get("epoch")
        if self._reconnecting:
            self._reconnecting = False
            self.app.note("Reconnected.")
        self._fetch()
        notifications = client.notifications()
        while not self._finished:
            self._show_oldest()
            if self._interactive and not client.has_pending and (key := _wait_for_key(client)) is not None:
                self._handle_key(key)
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
            elif approval_id not in self.pending:
                approval = self.app.call("approval.get", {"approval_id": approval_id})
                if approval["status"] == "pending":
                    self._add(approval)

    def _fetch(self) -> None:
        """Fetch the pending approvals, and report the answers that came while disconnected."""
        params = {"limit": MAX_PAGE_ROWS} | self.filters
        page = fetch_pages(self.app, "approval.list", params, "approvals", everything=True)
        pending = {str(approval["approval_id"]): approval for approval in page["approvals"]}
        for approval_id in [name for name in self.pending if name not in pending]:
            self._remove(approval_id)
        for approval in pending.values():
            self._add(approval)

    def _add(self, approval: Json) -> None:
        if approval["approval_id"] in self.pending:
            return
        self.pending[str(approval["approval_id"])] = approval
        if self.app.as_json:
            self.app.print_json_line(approval)
        elif not self._interactive:
            self.app.print(format_approval(approval, self.app.display()) + "\n")

    def _remove(self, approval_id: str) -> None:
        """Report that an approval is no longer pending."""
        if self.pending.pop(approval_id, None) is None:
            return
        if self._current == approval_id:
            self._current = None
        approval = self.app.call("approval.get", {"approval_id": approval_id})
        if self.app.as_json:
            self.app.print_json_line(approval)
        else:
            self.app.print(one_line(f"{approval_id} {format_status(approval)}"))

    # Keys.

    def _show_oldest(self) -> None:
        """Show the oldest pending approval, unless one is shown, and prompt for a key."""
        import termios

        if not self._interactive or self._current is not None or not self.pending:
            return
        self._current, approval = next(iter(self.pending.items()))
        display = self.app.display()
        more = f" ({len(self.pending) - 1} more)" if len(self.pending) > 1 else ""
        self.app.print(
            f"\n{format_approval(approval, display)}\n{paint(PROMPT + more, 'bold', display.color)}"
        )
        # Drop the keys that were pressed before the approval was shown.
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)

    def _handle_key(self, key: str) -> None:
        """Execute the command of a key; without a shown approval only q has an effect."""
        if key in ("q", "\x04", ""):
            self._finished = True
        elif self._current is None:
            return
        elif key == "a":
            self._resolve({"decision": "allow"})
        elif key == "d":
            sys.stdout.write("Note for the model (Enter for none): ")
            sys.stdout.flush()
            note = sys.stdin.readline().strip()
            self._resolve({"decision": "deny"} | ({"note": note} if note else {}))
        elif key == "n":
            self.pending.pop(self._current)
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
    """Wait for a key or a message from the daemon; return the key if it comes first, without echo."""
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
