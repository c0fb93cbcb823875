"""The commands of the chat about tools and people: what waits, what may be done, what is said meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishctl.contract import Json
    from kheishctl.shell.answering import Answering
    from kheishctl.shell.slash import Slash
    from kheishctl.shell.waiting import Item

MODES = ("default", "acceptEdits", "plan", "dontAsk", "bypassPermissions")
OUTCOMES = {"done": "done", "not-done": "not_done", "not_done": "not_done"}

# What fits a screen; the rest is for the command line.
TASKS_SHOWN = 20

RESOLVE_USAGE = "'/resolve done' or '/resolve not-done'; '/resolve 2 done' where several are in doubt"


class Talk(Protocol):
    """The conversation that they are about."""

    @property
    def session_id(self) -> str | None:
        """The session that it means now, if any."""
        ...

    def address(self) -> Json:
        """The params that name it."""
        ...

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Ask the daemon. Errors: Refused, Lost."""
        ...


class Orders:
    """Obeys those commands.

    ``note`` says something in a style; ``whole`` and ``doubt`` show all of one thing, after a word about it.
    """

    def __init__(
        self,
        talk: Talk,
        answering: Answering,
        note: Callable[[str, str], None],
        whole: Callable[[str, Item], None],
        doubt: Callable[[str, Json], None],
    ) -> None:
        self._talk = talk
        self._answering = answering
        self._note = note
        self._whole = whole
        self._doubt = doubt

    async def obey(self, slash: Slash) -> None:
        """Do what a command says. Errors: Refused, Lost."""
        name, argument = slash.name, slash.argument
        match name:
            case "approvals":
                self._list()
            case "allow" | "deny":
                await self._resolve(name, argument)
            case "answer" | "decline":
                await self._reply(name, argument)
            case "doubts":
                self._list_doubts()
            case "resolve":
                await self._resolve_indoubt(argument)
            case "tasks":
                await self._tasks()
            case "steer":
                await self._steer(argument)
            case "compact":
                await self._compact()
            case "mode":
                await self._mode(argument)
            case "why":
                await self._why(argument)
            case _:
                raise AssertionError(f"{name} is not one of these")

    # What waits.

    def _list(self) -> None:
        items = self._answering.waiting.items
        for number, item in enumerate(items, 1):
            self._whole(f"{number} of {len(items)}", item)
        if not items:
            self._note("nothing waits for you", "dim")

    async def _resolve(self, decision: str, argument: str) -> None:
        waiting = self._answering.waiting
        word, _, rest = argument.partition(" ")
        approvals = waiting.approvals
        chosen = approvals[:1]
        if word == "all":
            chosen = approvals
        elif word.isdecimal():
            # Numbered as '/approvals' lists them, questions among them.
            chosen = [item for item in waiting.items[int(word) - 1 : int(word)] if not item.is_question]
        else:
            rest = argument
        if not chosen:
            self._note("no such approval waits; /approvals shows what does", "yellow")
        elif decision == "allow" and rest:
            self._note("it is '/allow', '/allow 2' or '/allow all'", "yellow")
        else:
            await self._answering.carry_out(waiting.resolve(chosen, decision, reason=rest.strip()))

    async def _reply(self, name: str, argument: str) -> None:
        waiting = self._answering.waiting
        item = next((item for item in waiting.items if item.is_question), None)
        if item is None:
            self._note("no question waits for you", "yellow")
        elif name == "decline":
            await self._answering.carry_out(waiting.decline(item))
        elif not argument:
            self._note("it is '/answer 2' or '/answer what you want to say'", "yellow")
        else:
            numbers = argument.replace(",", " ").split()
            options = [str(option["option_id"]) for option in item.options]
            if all(number.isdecimal() and 1 <= int(number) <= len(options) for number in numbers):
                selected = list(dict.fromkeys(options[int(number) - 1] for number in numbers))
                await self._answering.carry_out(waiting.answer(item, selected))
            else:
                await self._answering.carry_out(waiting.answer(item, [], argument))

    # What is in doubt.

    def _list_doubts(self) -> None:
        doubts = list(self._answering.doubts.values())
        for number, doubt in enumerate(doubts, 1):
            self._doubt(f"{number} of {len(doubts)}", doubt)
        if not doubts:
            self._note("no call is in doubt", "dim")

    async def _resolve_indoubt(self, argument: str) -> None:
        doubts = list(self._answering.doubts.values())
        words = argument.split()
        number = int(words.pop(0)) if words and words[0].isdecimal() else 1 if len(doubts) == 1 else 0
        outcome = OUTCOMES.get(words[0] if words else "")
        if not doubts:
            self._note("no call is in doubt", "yellow")
        elif outcome is None or not 1 <= number <= len(doubts):
            self._note(f"it is {RESOLVE_USAGE}", "yellow")
        else:
            params: Json = {"indoubt_id": doubts[number - 1]["indoubt_id"], "outcome": outcome}
            why = {"justification": " ".join(words[1:])} if words[1:] else {}
            await self._answering.resolve(params | why)

    # What is to be done.

    async def _tasks(self) -> None:
        session_id = self._talk.session_id
        params = {"session_id": session_id, "limit": TASKS_SHOWN}
        found = {"tasks": []} if session_id is None else await self._talk.call("task.list", params)
        for task in found["tasks"]:
            what = "shell, " if task.get("kind") == "shell" else ""
            self._note(f"{task['task_id']} {what}{task['status']}: {task['title']}", "")
        if not found["tasks"]:
            self._note("nothing is to be done", "dim")
        elif found.get("next") is not None:
            self._note(f"and more: kheishctl task list --session {session_id}", "dim")

    # What is said and changed meanwhile.

    async def _steer(self, text: str) -> None:
        if not text:
            self._note("it is '/steer what the run in flight should know'", "yellow")
            return
        await self._talk.call("conversation.steer", self._talk.address() | {"content": text})

    async def _compact(self) -> None:
        done = await self._talk.call("conversation.compact", self._talk.address() | {"wait": "settled"})
        # What was done is told by the journal.
        if reason := done.get("note"):
            self._note(f"nothing was done: {reason}", "dim")

    async def _mode(self, mode: str) -> None:
        session_id = self._talk.session_id
        if mode and mode not in MODES:
            self._note(f"a mode is one of {', '.join(MODES)}", "yellow")
        elif session_id is None:
            self._note("the conversation has no session yet; say something first", "yellow")
        elif mode:
            params = {"session_id": session_id, "permission_mode": mode}
            await self._talk.call("session.update", params)
        else:
            # Whatever is asked about, the answer says which mode is in force.
            found = await self._talk.call("permission.why", {"tool": "any", "session_id": session_id})
            self._note(f"the permission mode is {found['mode']}", "dim")

    async def _why(self, argument: str) -> None:
        tool, _, subject = argument.partition(" ")
        if not tool:
            self._note("it is '/why TOOL' or '/why TOOL SUBJECT', such as '/why bash git push'", "yellow")
            return
        place = {"session_id": self._talk.session_id} if self._talk.session_id else {}
        found = await self._talk.call("permission.why", {"tool": tool, "subject": subject} | place)
        for step in found["lines"]:
            says = step["says"] or "-"
            self._note(f"{step['source']}: {says}: {step['text']}", "dim")
        because = f": {found['note']}" if found.get("note") else ""
        said = f"so: {found['decision']}, by {found['why']}{because}, in mode {found['mode']}"
        self._note(said, _STYLES.get(found["decision"], "dim"))


_STYLES: dict[Any, str] = {"allow": "green", "ask": "yellow", "deny": "red"}
