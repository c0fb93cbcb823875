"""The chat on the screen: what is typed goes to the conversation, what happens in it is shown."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

from kheishctl.client import ConnectionLost, Failure, RequestRefused
from kheishctl.render.daemon import format_daemon_status
from kheishctl.render.follower import list_calls
from kheishctl.render.layout import Display, fit, paint
from kheishctl.render.messages import format_message, join_answer_text
from kheishctl.render.pieces import AnswerText, CallOutput, Piece, ReasoningText
from kheishctl.shell import markdown
from kheishctl.shell.answering import Answering
from kheishctl.shell.conversation import Conversation
from kheishctl.shell.orders import Orders
from kheishctl.shell.present import Presenter
from kheishctl.shell.screen import Screen, history_file, open_history
from kheishctl.shell.sheet import Sheet
from kheishctl.shell.slash import Slash, help_text, parse, unescaped
from kheishctl.shell.waiting import GRACE_SECONDS, Actions, Item
from kheishctl.shell.working import SPINS_A_SECOND
from protocol.text import one_line

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

    from kheishctl.contract import Json

TURNS_IN_HISTORY = 20
MAX_TURNS = 500


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
        verbose: bool = False,
        terminal: tuple[Input, Output] | None = None,
    ) -> None:
        self._color = color
        self._conversation = Conversation(path, agent, sender, self, fresh=fresh)
        self._answering = Answering(self._conversation.call, self._show, self.noted, self._put)
        self._waiting = self._answering.waiting
        self._sheet = Sheet(color=color)
        self._screen = Screen(
            self._label,
            self._live,
            self,
            color=color,
            history=open_history(history_file()),
            terminal=terminal,
        )
        self._presenter = Presenter(
            markdown.renderer(color=color),
            lambda: self._screen.columns,
            color=color,
            thinking=thinking,
            verbose=verbose,
        )
        self._orders = Orders(
            self._conversation, self._answering, self.noted, self._print_whole, self._print_doubt
        )
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

    def waits(self, asked: list[Json], doubts: list[Json]) -> None:
        """Show what waits for a person."""
        self._answering.waits(asked, doubts)
        if doubts:
            calls = "a call is" if len(doubts) == 1 else f"{len(doubts)} calls are"
            self.noted(f"{calls} in doubt: /doubts shows more", "yellow")
        self.changed()

    def shown(self, piece: Piece) -> None:
        """Show what happened."""
        now = self._answering.heard(piece)
        if now is not None:
            self._show(now)

    def _show(self, piece: Piece) -> None:
        self._screen.print(self._presenter.show(piece))
        if isinstance(piece, (AnswerText, ReasoningText, CallOutput)):
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
                case Slash("compact"):
                    # A model is asked for it: the prompt does not wait.
                    self._errand(self._command(command))
                case Slash():
                    await self._command(command)

    def interrupted(self) -> bool:
        """Ctrl-C: leave what is typed for an approval, else stop the run in flight; whether there was one."""
        if self._waiting.leave():
            self._screen.put("")
            return True
        if not self._conversation.running:
            return False
        if not self._stopping:
            self._stopping = True
            self._errand(self._cancel())
            self.changed()
        return True

    def pressed(self, key: str) -> bool:
        """A key where nothing is typed: it may answer what waits."""
        if not self._conversation.connected:
            return False
        actions = self._waiting.press(key)
        if actions is None:
            return False
        self._answer(actions)
        return True

    def line(self, text: str) -> str | None:
        """A line: it may be for what waits. One that cannot be taken stays in the prompt."""
        if self._waiting.typing is not None:
            entered = self._waiting.entered(text)
            if entered.problem:
                self.noted(entered.problem, "yellow")
            self._answer(entered.actions)
            return text if entered.again else ""
        first = self._waiting.first
        if first is None or not text.strip() or not self._asks_for_a_line() or parse(text) is not None:
            return None
        self._answer(self._waiting.answer(first, first.chosen, unescaped(text).strip()))
        return ""

    def _asks_for_a_line(self) -> bool:
        return self._conversation.connected and self._waiting.takes_line

    def _answer(self, actions: Actions) -> None:
        if actions:
            self._errand(self._answering.carry_out(actions))
        self.changed()

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        errand = asyncio.ensure_future(work)
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)
        errand.add_done_callback(lambda _: self.changed())

    def _put(self, text: str) -> None:
        """Have a text in the prompt, to be changed; not in place of what was typed meanwhile."""
        if self._screen.empty:
            self._screen.put(text)
        else:
            self._waiting.leave()
            self.noted("something is typed already; press e where nothing is", "yellow")
        self.changed()

    async def _cancel(self) -> None:
        try:
            await self._conversation.cancel()
        except (RequestRefused, ConnectionLost) as failure:
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
                    look = Display(self._screen.columns, self._color, time.time_ns() // 1_000_000)
                    self._screen.print(format_daemon_status(status, look) + "\n\n")
                case "cancel":
                    if not self.interrupted():
                        self.noted("nothing is running")
                case "reset":
                    await self._reset()
                case "quit":
                    self._screen.leave()
                case _:
                    await self._orders.obey(command)
        except Failure as failure:
            self.noted(str(failure), "red")

    async def _reset(self) -> None:
        try:
            await self._conversation.call("conversation.reset", self._conversation.address())
        except RequestRefused as refused:
            if refused.reason != "conversation_not_found":
                raise
            self.noted("the conversation is new already; the next message begins it")

    async def _history(self, argument: str) -> None:
        limit = min(int(argument), MAX_TURNS) if argument.isdecimal() and int(argument) else TURNS_IN_HISTORY
        params = self._conversation.address() | {"order": "newest", "limit": limit}
        page = await self._conversation.call("conversation.history", params)
        self._print_messages(page["messages"][::-1])

    def _print_messages(self, messages: list[Json]) -> None:
        for entry in in_turns(messages):
            message = entry["message"]
            if message["role"] == "user":
                # What the daemon itself says to have an answer mended has an id, as answers have.
                daemon = "the daemon" if entry.get("item_id") else None
                sender = message.get("agent") or entry.get("sender") or daemon or self._conversation.sender
                self._screen.print(self._presenter.input(format_message(message), str(sender)))
            else:
                self._screen.print(self._presenter.answer(join_answer_text(message)))
                for call in list_calls(message):
                    self._screen.print(self._presenter.show(call))

    def _print_whole(self, which: str, item: Item) -> None:
        self.noted(which)
        self._screen.print(self._sheet.whole(item, self._screen.columns, time.time()) + "\n")

    def _print_doubt(self, which: str, doubt: Json) -> None:
        self.noted(which)
        self._screen.print(self._presenter.doubt(doubt))

    # What is drawn.

    def _label(self) -> str:
        """Whose line it is that is typed, or what for."""
        typing = self._waiting.typing
        if typing is not None:
            return "why not" if typing.what == "reason" else "its input"
        return "answer" if self._asks_for_a_line() else one_line(self._conversation.sender)

    def _live(self, max_lines: int) -> str:
        """The end of the answer, what runs and waits, and what goes on; empty when nothing does."""
        columns, conversation = self._screen.columns, self._conversation
        queued = [f"queued: {one_line(text)}" for text in self._presenter.queue.values()]
        if not conversation.connected:
            queued += [f"to be sent: {one_line(text)}" for _, text in conversation.outbox]
        sheet = self._drawn_sheet(max_lines - len(queued))
        state = [] if sheet else self._state()
        below = [paint(fit(line, columns), "dim", self._color) for line in [*queued, *state]]
        room = max(1, max_lines - len(below) - len(sheet))
        working = self._presenter.working.live(room) if conversation.connected else []
        if working:
            self._screen.redraw(1 / SPINS_A_SECOND)
        answer = self._presenter.live(max(1, room - len(working)))
        return "\n".join([*([answer, ""] if answer else []), *working, *sheet, *below])

    def _drawn_sheet(self, max_lines: int) -> list[str]:
        """What waits for the person, who is called for it once."""
        if self._waiting.first is None or not self._conversation.connected:
            return []
        empty = self._screen.empty
        self._waiting.drawn(empty=empty)
        if self._waiting.ring():
            self._screen.bell()
        if not self._waiting.armed:
            self._screen.redraw(GRACE_SECONDS)
        return self._sheet.lines(self._waiting, self._screen.columns, max_lines, time.time(), empty=empty)

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


async def _end(tasks: list[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
