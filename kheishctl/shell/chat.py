"""The chat on the screen: what is typed goes to the conversation, what happens in it is shown."""

import asyncio
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kheishctl.client import Failure, Json, Lost, Refused
from kheishctl.pieces import Said, Shown, Thought
from kheishctl.render import message_text
from kheishctl.render import status as status_text
from kheishctl.shell import markdown
from kheishctl.shell.conversation import Conversation
from kheishctl.shell.present import Presenter
from kheishctl.shell.screen import Screen, history_file, open_history
from kheishctl.shell.slash import Slash, help_text, parse, unescaped
from kheishctl.text import Look, fit, one_line, paint

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

TURNS_IN_HISTORY = 20
TURNS_MAX = 500


class Chat:
    """A screen and a conversation, and what passes between them."""

    def __init__(
        self,
        path: str,
        agent: str | None,
        sender: str,
        *,
        color: bool,
        fresh: bool = False,
        thinking: bool = False,
        terminal: "tuple[Input, Output] | None" = None,
    ) -> None:
        self._color = color
        self._conversation = Conversation(path, agent, sender, self, fresh=fresh)
        self._screen = Screen(
            lambda: one_line(sender),
            self._live,
            self._interrupt,
            color=color,
            history=open_history(history_file()),
            terminal=terminal,
        )
        render = markdown.renderer(color=color)
        self._presenter = Presenter(render, lambda: self._screen.columns, color=color, thinking=thinking)
        self._errands: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def run(self) -> None:
        """Talk until the person leaves. Errors: Failure if the daemon refuses the conversation."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._screen.leave)
        # Once the prompt is there, so that it does not wait for it.
        loop.run_in_executor(None, markdown.warm_up)
        parts = (self._ask(), self._conversation.stay_connected(), self._conversation.deliver())
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end([*tasks, *self._errands])
        self._farewell()
        for task in done:
            task.result()

    # What the conversation tells.

    def entered(self, messages: list[Json], *, more: bool) -> None:
        """Show where the conversation stands."""
        agent, sender = self._conversation.agent or "", self._conversation.sender
        name = f"{one_line(agent)} as {one_line(sender)}"
        hint = "/help shows what there is, Ctrl-D leaves"
        self._screen.print(
            self._presenter.note(f"{name}{'' if messages else ', a new conversation'}; {hint}")
        )
        if more:
            self._screen.print(self._presenter.note("earlier messages: /history"))
        self._print_messages(messages)

    def shown(self, piece: Shown) -> None:
        """Show what happened."""
        self._screen.print(self._presenter.show(piece))
        if isinstance(piece, (Said, Thought)):
            self._screen.redraw()
        else:
            self._stopping = False if not self._conversation.running else self._stopping
            self.changed()

    def noted(self, text: str, style: str = "dim") -> None:
        """Show something about the conversation."""
        self._screen.print(self._presenter.note(text, style))

    def changed(self) -> None:
        """Draw the live area anew."""
        self._screen.redraw()

    # What the person does.

    async def _ask(self) -> None:
        while True:
            try:
                text = await self._screen.ask()
            except EOFError:
                return
            command = parse(text)
            match command:
                case None:
                    self._conversation.say(unescaped(text))
                    self.changed()
                case str():
                    self.noted(command, "yellow")
                case Slash("quit"):
                    return
                case Slash():
                    await self._command(command)

    def _interrupt(self) -> bool:
        """Ctrl-C: stop the run in flight; whether there is one."""
        if not self._conversation.running:
            return False
        if not self._stopping:
            self._stopping = True
            errand = asyncio.ensure_future(self._cancel())
            self._errands.add(errand)
            errand.add_done_callback(self._errands.discard)
            self.changed()
        return True

    async def _cancel(self) -> None:
        try:
            await self._conversation.cancel()
        except (Refused, Lost) as failure:
            self._stopping = False
            self.noted(str(failure), "red")

    async def _command(self, command: Slash) -> None:
        try:
            match command.name:
                case "help":
                    self._screen.print(help_text() + "\n\n")
                case "history":
                    await self._history(command.argument)
                case "status":
                    status = await self._conversation.call("daemon.status")
                    look = Look(self._screen.columns, self._color, time.time_ns() // 1_000_000)
                    self._screen.print(status_text(status, look) + "\n\n")
                case "cancel":
                    if not self._interrupt():
                        self.noted("nothing is running")
                case "reset":
                    await self._reset()
                case "quit":
                    self._screen.leave()
        except Failure as failure:
            self.noted(str(failure), "red")

    async def _reset(self) -> None:
        try:
            await self._conversation.call("conversation.reset", self._conversation.address())
        except Refused as refused:
            if refused.reason != "conversation_not_found":
                raise
            self.noted("the conversation is new already; the next message begins it")

    async def _history(self, argument: str) -> None:
        limit = min(int(argument), TURNS_MAX) if argument.isdecimal() and int(argument) else TURNS_IN_HISTORY
        params = self._conversation.address() | {"order": "newest", "limit": limit}
        page = await self._conversation.call("conversation.history", params)
        self._print_messages(page["messages"][::-1])

    def _print_messages(self, messages: list[Json]) -> None:
        for entry in in_turns(messages):
            text = message_text(entry["message"])
            if entry["message"]["role"] == "user":
                sender = entry["message"].get("agent") or entry.get("sender") or self._conversation.sender
                self._screen.print(self._presenter.input(text, str(sender)))
            else:
                self._screen.print(self._presenter.answer(text))

    # What is drawn.

    def _live(self, lines_max: int) -> str:
        """The end of the answer, what waits, and what goes on; empty when nothing does."""
        columns, conversation = self._screen.columns, self._conversation
        waiting = [f"queued: {one_line(text)}" for text in self._presenter.queue.values()]
        if not conversation.connected:
            waiting += [f"to be sent: {one_line(text)}" for _, text in conversation.outbox]
        state = self._state()
        below = [paint(fit(line, columns), "dim", self._color) for line in [*waiting, *state]]
        answer = self._presenter.live(max(1, lines_max - len(below)))
        return "\n".join([*([answer, ""] if answer else []), *below])

    def _state(self) -> list[str]:
        if not self._conversation.connected:
            return ["connecting …"]
        if self._stopping:
            return ["stopping …"]
        return ["answering … Ctrl-C stops it"] if self._conversation.running else []

    def _farewell(self) -> None:
        """Leave the screen whole, and say what goes on."""
        self._screen.print(self._presenter.rest())
        if unsent := len(self._conversation.outbox):
            self.noted(f"{unsent} not sent, as there was no connection", "red")
        if self._conversation.running:
            agent, sender = one_line(self._conversation.agent or ""), one_line(self._conversation.sender)
            self.noted(f"the run goes on; come back with: kheishctl chat {agent} --as {sender}")


def in_turns(messages: list[Json]) -> Iterator[Json]:
    """Messages as they were said and answered: what was said meanwhile comes after the answer before it.

    Runs are answered in the order in which they were accepted, so whatever was said before an answer's own
    input had no answer, and comes first.
    """
    waiting: list[Json] = []
    for entry in messages:
        if entry["message"]["role"] == "user":
            waiting.append(entry)
            continue
        runs = [said.get("run_id") for said in waiting]
        if entry.get("run_id") in runs:
            upto = len(runs) - runs[::-1].index(entry.get("run_id"))
            yield from waiting[:upto]
            del waiting[:upto]
        yield entry
    yield from waiting


async def _end(tasks: list["asyncio.Future[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
