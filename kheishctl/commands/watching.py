"""Watching for approvals: each is shown as it is asked for, and in a terminal answered by a key.

What waits is looked up once for each connection; then the journal tells what is asked for and what was
answered, here or elsewhere. In a terminal one approval is shown at a time, the oldest first; keys pressed
before it was shown are dropped, so that nobody allows what he has not seen.
"""

import os
import select
import sys
import time

from kheishctl.cli import App, pages
from kheishctl.client import Client, ConnectionLost, Json, NoDaemon, RequestRefused
from kheishctl.render import pending as asking
from kheishctl.render.layout import clean, one_line, paint

RECONNECT_PAUSE_SECONDS = 0.5
TYPES = ["approval_requested", "approval_answered", "approval_lapsed"]
PROMPT = "a allows, d denies, n goes on to the next, q quits"


class ApprovalWatch:
    """Approvals as they come; ``waiting`` are those that were not answered yet, oldest first."""

    def __init__(self, app: App, where: Json) -> None:
        self.app = app
        self.where = where
        self.waiting: dict[str, Json] = {}
        self._interactive = sys.stdin.isatty() and sys.stdout.isatty() and not app.as_json
        self._shown: str | None = None
        self._lost = False
        self._over = False

    def run(self) -> None:
        """Watch until a person has enough of it; over restarts of the daemon. Errors: NoDaemon, Refused."""
        self.app.client  # noqa: B018 - with no daemon at all, say so at once.
        while not self._over:
            try:
                self._follow(self.app.client)
            except ConnectionLost:
                self._lost = True
                self.app.note("The connection is lost; waiting for the daemon.")
            except NoDaemon:
                pass  # It is still away.
            if not self._over:
                self.app.hang_up()
                time.sleep(RECONNECT_PAUSE_SECONDS)

    def _follow(self, client: Client) -> None:
        """Watch over one connection; returns when the person quits or the daemon ends it."""
        client.call("journal.subscribe", {"types": TYPES} | self.where)
        if self._lost:
            self._lost = False
            self.app.note("Connected again.")
        self._look_up()
        notifications = client.notifications()
        while not self._over:
            self._present()
            if self._interactive and not client.received and (key := _key(client)) is not None:
                self._press(key)
                continue
            method, params = next(notifications)
            if method == "journal.end":
                self._over = params.get("reason") != "shutdown"
                return
            if method == "journal.event":
                self._heard(params["event"])

    def _look_up(self) -> None:
        """What waits now; what was answered while nobody listened is told."""
        page = pages(self.app, "approval.list", {"limit": 500} | self.where, "approvals", everything=True)
        found = {str(view["approval_id"]): view for view in page["approvals"]}
        for approval_id in [name for name in self.waiting if name not in found]:
            self._answered(approval_id)
        for view in found.values():
            self._asked(view)

    def _heard(self, event: Json) -> None:
        approval_id = str(event["approval_id"])
        if event["type"] != "approval_requested":
            self._answered(approval_id)
        elif approval_id not in self.waiting:
            view = self.app.call("approval.get", {"approval_id": approval_id})
            if view["status"] == "pending":
                self._asked(view)

    def _asked(self, view: Json) -> None:
        if view["approval_id"] in self.waiting:
            return
        self.waiting[str(view["approval_id"])] = view
        if self.app.as_json:
            self.app.line(view)
        elif not self._interactive:
            self.app.say(asking.approval(view, self.app.look()) + "\n")

    def _answered(self, approval_id: str) -> None:
        """One that waited was answered, by whomever, or is no longer asked for."""
        if self.waiting.pop(approval_id, None) is None:
            return
        if self._shown == approval_id:
            self._shown = None
        view = self.app.call("approval.get", {"approval_id": approval_id})
        if self.app.as_json:
            self.app.line(view)
        else:
            self.app.say(one_line(f"{approval_id} {asking.status_word(view)}"))

    # Keys.

    def _present(self) -> None:
        """Show the oldest that waits, unless one is shown already, and ask for a key."""
        if not self._interactive or self._shown is not None or not self.waiting:
            return
        self._shown, view = next(iter(self.waiting.items()))
        look = self.app.look()
        more = f" ({len(self.waiting) - 1} more)" if len(self.waiting) > 1 else ""
        self.app.say(f"\n{asking.approval(view, look)}\n{paint(PROMPT + more, 'bold', look.color)}")
        _drop_keys()

    def _press(self, key: str) -> None:
        """Do what a key says; without an approval to say it about, it can only end the watching."""
        if key in ("q", "\x04", ""):
            self._over = True
        elif self._shown is None:
            return
        elif key == "a":
            self._resolve({"decision": "allow"})
        elif key == "d":
            reason = self._line("Reason, for the model (Enter for none): ")
            self._resolve({"decision": "deny"} | ({"note": reason} if reason else {}))
        elif key == "n":
            self.waiting.pop(self._shown)
            self._shown = None
        else:
            self.app.note(PROMPT)

    def _resolve(self, answer: Json) -> None:
        resolutions = [answer | {"approval_id": self._shown}]
        try:
            # That it was answered is heard from the journal, as if somebody else had.
            self.app.call("approval.resolve", {"resolutions": resolutions})
        except RequestRefused as refused:
            self.app.note(clean(str(refused)))

    def _line(self, prompt: str) -> str:
        sys.stdout.write(prompt)
        sys.stdout.flush()
        return sys.stdin.readline().strip()


def _key(client: Client) -> str | None:
    """Wait for a key or for the daemon; the key, if that comes first, as it is pressed and not shown."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        ready, _, _ = select.select([descriptor, client], [], [])
        return os.read(descriptor, 1).decode(errors="replace").lower() if descriptor in ready else None
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _drop_keys() -> None:
    """Forget what was typed before."""
    import termios

    termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
