"""The slash commands about the work of the chat: its directory, changes of files, earlier sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from kheishctl.client import Failure, RequestRefused
from kheishctl.directories import resolve_directory
from kheishctl.render.checkpoint import format_diff, format_restored
from kheishctl.render.messages import format_message
from kheishctl.render.session import LAST_MESSAGES, describe_hit, describe_session, is_resumable, shorten
from protocol.text import one_line

if TYPE_CHECKING:
    from kheishctl.contract import Json
    from kheishctl.render.layout import Display

MAX_SESSIONS_SHOWN = 12
MAX_MESSAGES_SHOWN = 20
MAX_MESSAGES_READ = 200


class WorkTarget(Protocol):
    """The part of the conversation that these commands use."""

    @property
    def session_id(self) -> str | None:
        """The current session; None before the first message."""
        ...

    @property
    def workspace(self) -> str | None:
        """The directory of the conversation's next run, as far as it is known."""
        ...

    async def move(self, path: str) -> None:
        """Let the conversation work in a directory from now on. Errors: RequestRefused, ConnectionLost."""
        ...

    async def resume(self, session_id: str) -> None:
        """Continue an earlier session. Errors: RequestRefused, ConnectionLost."""
        ...

    def address(self) -> Json:
        """Return the params that name the conversation."""
        ...

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Call a method of the daemon. Errors: RequestRefused, ConnectionLost."""
        ...


class WorkView(Protocol):
    """The part of the chat's display that these commands use."""

    def note(self, text: str, style: str = "dim") -> None:
        """Show a note."""
        ...

    def print(self, text: str) -> None:
        """Show finished text."""
        ...

    def display(self) -> Display:
        """Return the current properties of the terminal."""
        ...

    def edit_text(self, text: str) -> None:
        """Put a text into the prompt, unless the person has typed meanwhile."""
        ...


class WorkspaceCommands:
    """The handler of these commands. It remembers the lists that it showed last, for the numbers in them."""

    def __init__(self, conversation: WorkTarget, view: WorkView) -> None:
        self._conversation = conversation
        self._view = view
        self._sessions: list[str] = []
        self._messages: list[Json] = []
        # The point to which the conversation was rewound.
        self._rewound: Json | None = None

    def _note_no_session(self) -> None:
        self._view.note("the conversation has no session yet; send a message first", "yellow")

    async def change_directory(self, argument: str) -> None:
        """Move the conversation to a directory; without one, show the current one."""
        if not argument:
            place = self._conversation.workspace or "the default workspace"
            self._view.note(f"the conversation works in {one_line(place)}", "")
            return
        view = await self._conversation.call("workspace.get", {"path": resolve_directory(argument)})
        if view.get("problem"):
            raise Failure(str(view["problem"]))
        await self._conversation.move(str(view["path"]))
        note = f"the conversation works in {one_line(str(view['path']))}"
        untrusted = ", which is not trusted; 'kheishctl workspace trust DIRECTORY' trusts one"
        self._view.note(note + ("" if view.get("root") else untrusted), "")

    # Changes of files.

    async def show_diff(self, _: str) -> None:
        """Show the changes of files by the conversation that are not undone."""
        if (session_id := self._conversation.session_id) is None:
            self._note_no_session()
            return
        params = {"session_id": session_id, "since": 0}
        diff = await self._conversation.call("checkpoint.diff", params)
        self._view.print(format_diff(diff, self._view.display()) + "\n\n")

    async def undo(self, argument: str) -> None:
        """Undo the newest change of files; ``force`` overwrites files that changed since."""
        await self._restore(argument, {})

    async def redo(self, argument: str) -> None:
        """Revert the newest undo; ``force`` overwrites files that changed since."""
        await self._restore(argument, {"redo": True})

    async def _restore(self, argument: str, params: Json) -> None:
        command = "redo" if params else "undo"
        if (session_id := self._conversation.session_id) is None:
            self._note_no_session()
        elif argument not in ("", "force"):
            self._view.note(f"usage: /{command}, or /{command} force", "yellow")
        else:
            params = {"session_id": session_id, "force": argument == "force"} | params
            try:
                restored = await self._conversation.call("checkpoint.restore", params)
            except RequestRefused as refused:
                if refused.reason != "files_changed":
                    raise
                self._view.note(f"{refused}: '/{command} force'", "yellow")
                return
            self._view.print(format_restored(restored, self._view.display()) + "\n\n")

    # Sessions.

    async def list_sessions(self, argument: str) -> None:
        """Show the sessions of the address, or those with a text; return to one by its number."""
        if argument.isdecimal():
            if not 1 <= int(argument) <= len(self._sessions):
                self._view.note("no such number; /sessions lists the sessions", "yellow")
                return
            await self._conversation.resume(self._sessions[int(argument) - 1])
            return
        now_ms = self._view.display().now_ms
        address = self._conversation.address()
        if argument:
            params = address | {"query": argument, "limit": MAX_SESSIONS_SHOWN}
            found = await self._conversation.call("session.search", params)
            hits = found["messages"][::-1]
            lines = dict(reversed({hit["session_id"]: describe_hit(hit, now_ms) for hit in hits}.items()))
        else:
            params = address | {"status": "open", "limit": MAX_SESSIONS_SHOWN}
            page = await self._conversation.call("session.list", params)
            lines = {}
            for session in filter(is_resumable, page["sessions"]):
                session_id = session["session_id"]
                last = {"session_id": session_id, "order": "newest", "limit": LAST_MESSAGES}
                history = await self._conversation.call("session.history", last)
                is_current = session_id == self._conversation.session_id
                lines[session_id] = describe_session(session, history["messages"], now_ms, current=is_current)
        self._sessions = list(lines)
        for number, line in enumerate(lines.values(), 1):
            self._view.note(f"{number}  {line}", "")
        self._view.note("'/sessions NUMBER' returns to one" if lines else "no such session")

    async def fork(self, _: str) -> None:
        """Continue in a copy of the session; the session itself stays as it is."""
        if (session_id := self._conversation.session_id) is None:
            self._note_no_session()
            return
        fork = await self._conversation.call("session.fork", {"session_id": session_id})
        await self._conversation.resume(fork["session_id"])
        self._view.note("this is a fork; /sessions lists the session that it continues")

    async def rewind(self, argument: str) -> None:
        """Show the messages to go back to; go back to before one; restore the files changed since."""
        word, _, rest = argument.partition(" ")
        if (session_id := self._conversation.session_id) is None:
            self._note_no_session()
        elif word == "files" and self._rewound is not None and rest in ("", "force"):
            params = self._rewound | {"force": rest == "force"}
            restored = await self._conversation.call("checkpoint.restore", params)
            self._view.print(format_restored(restored, self._view.display()) + "\n\n")
        elif word == "files":
            self._view.note("usage: after /rewind NUMBER, '/rewind files' or '/rewind files force'", "yellow")
        elif argument and not (argument.isdecimal() and 1 <= int(argument) <= len(self._messages)):
            self._view.note("no such number; /rewind lists the messages", "yellow")
        elif argument:
            await self._rewind_to(session_id, self._messages[int(argument) - 1])
        else:
            params = {"session_id": session_id, "order": "newest", "limit": MAX_MESSAGES_READ}
            page = await self._conversation.call("session.history", params)
            inputs = [entry for entry in page["messages"] if entry["message"]["role"] == "user"]
            self._messages = [entry for entry in inputs if not entry.get("item_id")][:MAX_MESSAGES_SHOWN]
            for number, entry in reversed(list(enumerate(self._messages, 1))):
                self._view.note(f"{number}  {shorten(format_message(entry['message']))}", "")
            hint = "'/rewind NUMBER' goes back to before a message"
            self._view.note(hint if self._messages else "no messages")

    async def _rewind_to(self, session_id: str, entry: Json) -> None:
        """Continue in a fork that ends before a message, and list the files that changed since."""
        since: Json = {"session_id": session_id, "since": entry["cursor"]}
        fork_point = {"session_id": session_id, "at": entry["cursor"] - 1}
        fork = await self._conversation.call("session.fork", fork_point)
        await self._conversation.resume(fork["session_id"])
        self._messages, self._rewound = [], since
        self._view.edit_text(format_message(entry["message"]))
        try:
            changed = await self._conversation.call("checkpoint.restore", since | {"check": True})
        except RequestRefused as refused:
            if refused.reason != "nothing_to_restore":
                raise
            changed = {"files": []}
        files = [file for file in changed["files"] if file["action"] != "unchanged"]
        for file in files:
            verb = {"deleted": "made", "changed": "changed, and changed again by others"}
            self._view.note(f"{one_line(file['path'])}: {verb.get(file['action'], 'changed')} since", "")
        self._view.note("the conversation is as it was before; /sessions lists the session that you left")
        if files:
            self._view.note("'/rewind files' restores the files")
