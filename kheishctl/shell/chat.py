"""The chat: sends the user's input to the conversation and shows the conversation's changes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from kheishctl.client import ConnectionLost, Failure, RequestRefused
from kheishctl.render.changes import (
    AnswerText,
    CallOutput,
    DisplayChange,
    ReasoningText,
    RunEnd,
    StartedInput,
)
from kheishctl.render.follower import list_calls, list_failures
from kheishctl.render.layout import Display, fit, paint
from kheishctl.render.messages import format_message, format_transcript, join_answer_text, name_author
from kheishctl.shell.answers import AnswerSender
from kheishctl.shell.conversation import ConversationClient
from kheishctl.shell.images import find_image
from kheishctl.shell.keys import HELP_KEY
from kheishctl.shell.markdown import is_light, make_renderer, preload
from kheishctl.shell.notices import NoticeSender
from kheishctl.shell.panel import RequestPanel, format_title
from kheishctl.shell.pending import GRACE_SECONDS, UNREAD_KEYS, Actions, PendingRequest
from kheishctl.shell.person_commands import run_command
from kheishctl.shell.plain_prompt import PlainPrompt
from kheishctl.shell.plain_requests import PLAIN_KEYS, RequestLines
from kheishctl.shell.prompt import ChatPrompt, locate_history, open_history
from kheishctl.shell.settings import ChatSettings
from kheishctl.shell.slash_commands import (
    COMMANDS,
    KEYS,
    ShellLine,
    SlashCommand,
    SlashHandler,
    escape,
    format_keys,
    parse,
    unescape,
)
from kheishctl.shell.status import format_elapsed
from kheishctl.shell.transcript import SPINS_PER_SECOND, TranscriptView
from protocol.text import one_line

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

    from kheishctl.contract import Json
    from kheishctl.shell.mentions import MentionFinder


# Messages of one page of the full-screen view; an earlier page is loaded on the way up.
TRANSCRIPT_MESSAGES = 200


class Chat:
    """A conversation in a terminal. It implements the views and listeners of its parts.

    ``plain`` has the descriptors of a terminal that gets plain lines instead of a drawn prompt.
    """

    def __init__(
        self,
        path: str,
        agent: str | None,
        sender: str,
        *,
        color: bool,
        fresh: bool = False,
        directory: str | None = None,
        moves: bool = False,
        thinking: bool = False,
        verbose: bool = False,
        settings: ChatSettings | None = None,
        terminal: tuple[Input, Output] | None = None,
        plain: tuple[int, int] | None = None,
    ) -> None:
        self._color = color = color and plain is None
        self._conversation = ConversationClient(
            path, agent, sender, self, fresh=fresh, directory=directory, moves=moves
        )
        self._answers = AnswerSender(self._conversation.call, self)
        self._pending = self._answers.pending
        self._slash = SlashHandler(self._conversation, self._answers, self)
        self._panel = RequestPanel(color=color)
        self._lines = RequestLines(self._pending, self._panel) if plain else None
        settings = settings or ChatSettings()
        self._prompt: ChatPrompt | PlainPrompt
        if plain is not None:
            self._prompt = PlainPrompt(self, plain)
        else:
            history = open_history(locate_history())
            self._prompt = ChatPrompt(self, color=color, history=history, terminal=terminal)
            self._prompt.is_vi = settings.editing_mode == "vi"
        self._has_title = settings.terminal_title
        report = partial(self.note, style="yellow")
        self._notifier = NoticeSender(settings, os.environ, self._prompt.write, report)
        self._transcript = TranscriptView(
            make_renderer(color=color, light=is_light(settings.theme, os.environ)),
            lambda: self._prompt.columns,
            color=color,
            thinking=thinking,
            verbose=verbose,
        )
        self._background: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._command: asyncio.Task[None] | None = None
        self._finder: MentionFinder | None = None

    async def run(self) -> None:
        """Chat until the person leaves. Errors: Failure if the daemon refuses the conversation."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.leave)
        # In a thread, so that the prompt appears at once.
        loop.run_in_executor(None, preload)
        parts = (self._read_prompt(), self._conversation.stay_connected(), self._conversation.deliver())
        tasks = [asyncio.ensure_future(part) for part in parts]
        with self._prompt.hold_terminal():
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                tasks += self._background
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._print_farewell()
        for task in done:
            task.result()

    async def _read_prompt(self) -> None:
        rejected = ""
        while True:
            try:
                text = await self._prompt.read(rejected)
            except EOFError:
                return
            previous, rejected = rejected, ""
            match parse(text):
                case None if image := find_image(text):
                    note = f"images cannot be sent yet: {image}; an agent can read text files by their path"
                    self.note(note, "yellow")
                case None:
                    self._send(unescape(text))
                case SlashCommand() as command if COMMANDS[command.name].in_background:
                    self._start(self._slash.run(command))
                case SlashCommand() as command:
                    await self._slash.run(command)
                case ShellLine(line):
                    self._start_command(line)
                case unknown if text == previous:
                    self._send(text)
                case unknown if not await self._slash.use_skill(unknown):
                    self.note(unknown.problem, "yellow")
                    rejected = text
                case _:
                    pass  # The line began a skill.

    def _send(self, text: str) -> None:
        """Send a message. On plain lines, a note says so if it is not answered next."""
        self._conversation.send(text)
        if self._lines is not None and not self._conversation.is_connected:
            self.note("kept until there is a connection")
        elif self._lines is not None and self.has_request:
            self.note("queued as a message; the request above still waits", "yellow")
        elif self._lines is not None and self._conversation.is_running:
            self.note("queued; /withdraw takes it back")
        self.redraw()

    @property
    def _has_command(self) -> bool:
        """Whether a command of the person is running."""
        return self._command is not None and not self._command.done()

    def _start_command(self, line: str) -> None:
        """Run a command of the person, beside the conversation; one at a time."""
        if self._has_command:
            self.note("a command is running; Ctrl-C stops it", "yellow")
            return
        self._start(self._run_command(line))

    async def _run_command(self, line: str) -> None:
        self._command = asyncio.current_task()
        directory = self._conversation.workspace or self._conversation.directory
        try:
            command = await run_command(line, directory, self.print)
        except Failure as failure:
            self.note(str(failure), "red")
        except asyncio.CancelledError:
            self.note(f"stopped: {one_line(line)}", "yellow")
            raise
        else:
            self._slash.session.last_command = command
            style = "red" if command.code else "dim"
            self.note(f"exit code {command.code}; /share sends the output to the agent", style)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda _: self.redraw())

    def _print_farewell(self) -> None:
        """Finish the transcript, and list the work that continues without the chat."""
        self._prompt.print(self._transcript.flush())
        if count := len(self._conversation.outbox):
            messages = "1 message was" if count == 1 else f"{count} messages were"
            self.note(f"{messages} not sent, because there was no connection", "red")
        if self._conversation.is_running:
            agent, sender = one_line(self._conversation.agent or ""), one_line(self._conversation.sender)
            self.note(f"the run continues; come back with: kheishctl chat {agent} --as {sender}")

    # Changes of the conversation.

    def start(self, messages: list[Json], *, has_more: bool) -> None:
        """Show the address of the conversation and its last messages."""
        agent, sender = one_line(self._conversation.agent or ""), one_line(self._conversation.sender)
        state = "" if messages else ", a new conversation"
        workspace, directory = self._conversation.workspace, self._conversation.directory
        self.note(f"{agent} as {sender}{state}; /help lists the commands, Ctrl-D leaves")
        if workspace:
            moves = directory is not None and messages and workspace != os.path.realpath(directory)
            hint = f"; you are in {one_line(directory or '')}, '/cd .' moves it there" if moves else ""
            self.note(f"works in {one_line(workspace)}{hint}")
        if has_more:
            self.note("earlier messages: /history")
        self.print_messages(messages)

    def replace_pending(self, requests: list[Json], doubts: list[Json]) -> None:
        """Replace the pending requests and calls in doubt, and mention the latter; forget agents below."""
        self._transcript.children.clear()
        self._answers.replace(requests, doubts)
        if doubts:
            calls = "a call is" if len(doubts) == 1 else f"{len(doubts)} calls are"
            self.note(f"{calls} in doubt: /doubts shows more", "yellow")
        self.redraw()

    def receive(self, change: DisplayChange) -> None:
        """Show a change, unless it is held back until the daemon has answered."""
        visible = self._answers.track(change)
        if visible is not None:
            self.show(visible)

    def show(self, change: DisplayChange) -> None:
        """Add a change to the transcript."""
        text, line = self._transcript.show(change), self._prompt.last_line
        # A message that is on the line above is not repeated.
        is_echo = isinstance(change, StartedInput) and line is not None and unescape(line) == change.text
        self._prompt.print("\n" if is_echo else text)
        if (
            not isinstance(change, (AnswerText, ReasoningText, CallOutput))
            and not self._conversation.is_running
        ):
            self._is_stopping = False
        if isinstance(change, RunEnd) and not self._conversation.is_running and not self._transcript.queue:
            state = "the answer is complete" if change.status == "completed" else f"the run {change.status}"
            self._notifier.announce(self._conversation.agent or "kheish", state)
        self.redraw()

    def note(self, text: str, style: str = "dim") -> None:
        """Print a note."""
        self._prompt.print(self._transcript.format_note(text, style))

    def redraw(self) -> None:
        """Draw the live area soon."""
        self._prompt.redraw()

    # Keys and lines.

    def interrupt(self) -> bool:
        """Stop the person's command, else cancel the running run; whether there was one."""
        if self._command is not None and self._has_command:
            self._command.cancel()
            return True
        if not self._conversation.is_running:
            return False
        if not self._is_stopping:
            self._is_stopping = True
            self._start(self._cancel_run())
            self.redraw()
        return True

    async def _cancel_run(self) -> None:
        try:
            await self._conversation.call("conversation.cancel", self._conversation.address())
        except (RequestRefused, ConnectionLost) as failure:
            self._is_stopping = False
            self.note(str(failure), "red")

    def cancel_line(self) -> bool:
        """Abandon the line for an approval; whether the line was one."""
        return self._pending.cancel_line()

    @property
    def has_request(self) -> bool:
        """Whether an approval or question is shown."""
        return self._pending.first is not None and self._conversation.is_connected

    def scroll(self, *, pages: int = 0, lines: int = 0) -> bool:
        """Scroll the shown request; whether there is one."""
        if self.has_request:
            self._pending.scroll(pages * self._pending.page_lines + lines)
            self.redraw()
        return self.has_request

    def open_editor(self) -> None:
        """Open the line in the person's editor."""
        self._start(self._edit_line())

    def open_transcript(self) -> None:
        """Show the conversation in full."""
        self._start(self._slash.run(SlashCommand("transcript")))

    def suspend(self) -> None:
        """Suspend the chat."""
        assert isinstance(self._prompt, ChatPrompt)  # Plain lines have no keys.
        self._start(self._prompt.suspend())

    def set_focus(self, is_in_front: bool) -> None:
        """Learn whether the terminal is in front."""
        self._notifier.is_in_front = is_in_front

    def expand(self, number: int) -> bool:
        """Show the whole of a text of which a part was shown, 1 being the last; False: there is none."""
        try:
            self.print(self._transcript.format_collapsed(number))
        except IndexError:
            return False
        return True

    async def view_transcript(self) -> None:
        """Show the whole conversation, full screen. Errors: RequestRefused, ConnectionLost."""
        address = self._conversation.address() | {"order": "newest", "limit": TRANSCRIPT_MESSAGES}
        position: Json = {}

        async def load() -> str:
            if position.get("after") is None and position:
                return ""
            page = await self._conversation.call("conversation.history", address | position)
            position["after"] = page["next"]
            return format_transcript(page["messages"][::-1], self._prompt.columns)

        async def load_earlier() -> str:
            try:
                return await load()
            except (RequestRefused, ConnectionLost) as failure:
                return f"(earlier messages could not be loaded: {one_line(str(failure))})"

        await self._prompt.view(await load(), load_earlier)

    def withdraw(self) -> None:
        """Take the last queued message back into the line."""
        self._start(self._slash.run(SlashCommand("withdraw")))

    async def _edit_line(self) -> None:
        assert isinstance(self._prompt, ChatPrompt)  # Plain lines have no keys.
        try:
            await self._prompt.edit_line()
        except ValueError as error:
            self.note(str(error), "yellow")

    def press_key(self, key: str) -> bool:
        """Handle a key on an empty line; whether it had a meaning."""
        if key == HELP_KEY and not self._accepts_answer and self._pending.line_entry is None:
            self.print(format_keys(self._prompt.columns) + "\n\n")
            return True
        actions = self._pending.press(key) if self._conversation.is_connected else None
        if actions is None:
            return False
        if key in UNREAD_KEYS and self._pending.must_be_read:
            self.note("the rest of the request must be shown first: space shows it", "yellow")
        self._carry_out(actions)
        return True

    def take_line(self, text: str) -> str | None:
        """Handle a line for an approval or question; an invalid line stays in the prompt."""
        if self._pending.line_entry is not None:
            result = self._pending.enter_line(text)
            if result.problem:
                self.note(result.problem, "yellow")
            self._carry_out(result.actions)
            return text if result.editable else ""
        if self._lines is not None:
            answer = self._lines.read_answer(text)
            if isinstance(answer, str):
                self.note(answer, "yellow")
            else:
                self._carry_out(answer or ())
            return None if answer is None else ""
        question = self._pending.first
        if question is None or not self._accepts_answer or not text.strip() or parse(text) is not None:
            return None
        self._carry_out(self._pending.answer(question, question.selected, unescape(text).strip()))
        return ""

    @property
    def _accepts_answer(self) -> bool:
        """Whether the next line answers the shown question."""
        return self._conversation.is_connected and self._pending.accepts_line

    def _carry_out(self, actions: Actions) -> None:
        if actions:
            self._start(self._answers.carry_out(actions))
        self.redraw()

    def edit_text(self, text: str) -> None:
        """Put a text into the prompt, unless the person has typed meanwhile."""
        if self._prompt.is_empty:
            self._prompt.set_text(escape(text))
            if self._lines is not None and self._pending.line_entry is not None:
                self.note("type the new input as one line; Ctrl-C keeps the original", "")
        else:
            self._pending.cancel_line()
            self.note("the line is not empty; press e on an empty line", "yellow")
        self.redraw()

    def toggle_vi(self) -> bool:
        """Switch between the keys of vi and of emacs; whether those of vi are effective now."""
        self._prompt.is_vi = not self._prompt.is_vi
        return self._prompt.is_vi

    @property
    def queue(self) -> Mapping[str, str]:
        """The queued messages, by run, in order."""
        return self._transcript.queue

    def return_text(self, text: str) -> None:
        """Put a withdrawn message into the prompt, or show it if the person has typed meanwhile."""
        if self._prompt.is_empty and self._lines is None:
            self._prompt.set_text(escape(text))
        else:
            self.print(self._transcript.format_input(text, "withdrawn"))
        self.redraw()

    def leave(self) -> None:
        """End the chat; the run continues."""
        self._prompt.leave()

    # Output of commands.

    def print(self, text: str) -> None:
        """Print finished text."""
        self._prompt.print(text)

    def print_messages(self, messages: list[Json]) -> None:
        """Print messages of the history."""
        for entry in messages:
            message = entry["message"]
            if message["role"] == "user":
                # A message of the daemon, which asks for a correction, has an item id like an answer.
                daemon = "the daemon" if entry.get("item_id") else None
                sender = message.get("agent") or entry.get("sender") or daemon or self._conversation.sender
                name = name_author(str(sender), message) + (" (unread)" if entry.get("unread") else "")
                self._prompt.print(self._transcript.format_input(format_message(message), name))
            else:
                self._prompt.print(self._transcript.format_answer(join_answer_text(message)))
                for call in list_calls(message):
                    self._prompt.print(self._transcript.show(call))
                for failure in list_failures(message):
                    self._prompt.print(self._transcript.show(failure))

    def copy(self, text: str) -> None:
        """Put a text into the clipboard of the terminal."""
        self._prompt.copy(text)

    @property
    def keys(self) -> Sequence[tuple[str, str]]:
        """The keys of the chat, each with its meaning."""
        return KEYS if self._lines is None else PLAIN_KEYS

    def print_request(self, request: PendingRequest) -> None:
        """Print a whole approval or question."""
        text = self._panel.format_request(request, self._prompt.columns, time.time())
        self._prompt.print(text + "\n")

    def print_doubt(self, doubt: Json) -> None:
        """Print a call in doubt."""
        self._prompt.print(self._transcript.format_doubt(doubt))

    def display(self) -> Display:
        """Return the current properties of the terminal."""
        return Display(self._prompt.columns, self._color, time.time_ns() // 1_000_000)

    # The prompt and the live area.

    def prompt_label(self) -> str:
        """Return the sender, or the purpose of the line."""
        entry = self._pending.line_entry
        if entry is not None:
            return "note" if entry.kind == "note" else "new input"
        return "answer" if self._accepts_answer else one_line(self._conversation.sender)

    @property
    def mention_finder(self) -> MentionFinder | None:
        """The finder of files and agents; None while the line is for an approval."""
        if self._pending.line_entry is not None:
            return None
        if self._finder is None:
            # Imported here, because most chats mention nothing.
            from kheishctl.shell.mentions import MentionFinder

            self._finder = MentionFinder(self._conversation, self._start)
        return self._finder

    @property
    def awaits_line(self) -> bool:
        """Whether it is the person's turn: something is pending, or nothing is going on."""
        conversation = self._conversation
        if not conversation.is_connected or self._has_command:
            return False
        if self._pending.first is not None:
            return self._pending.is_armed
        is_idle = conversation.is_settled and not self._transcript.queue
        return self._pending.line_entry is not None or bool(self._answers.doubts) or is_idle

    def take_due_text(self) -> str:
        """Return the lines of a new request, and the words that answer it once they are effective."""
        if self._lines is None or not self.has_request:
            return ""
        text = self._lines.take(self._prompt.columns, time.time())
        self._announce_request()
        return text

    def live_area(self, max_lines: int) -> str:
        """Return the growing answer, the running calls, the request panel, the queue and the status line."""
        columns, conversation = self._prompt.columns, self._conversation
        queued = [f"queued: {one_line(text)}" for text in self._transcript.queue.values()]
        if not conversation.is_connected:
            queued += [f"to be sent: {one_line(text)}" for _, text in conversation.outbox]
        status = self._format_status()
        panel = self._draw_panel(max_lines - len(queued) - 1)
        footer = [paint(fit(line, columns), "dim", self._color) for line in [*queued, status]]
        room = max(1, max_lines - len(footer) - len(panel))
        calls = self._transcript.calls.format_running(room) if conversation.is_connected else []
        if calls:
            self._prompt.redraw(1 / SPINS_PER_SECOND)
        has_children = self._transcript.children and conversation.is_connected and room > len(calls)
        calls += self._transcript.format_children(room - len(calls)) if has_children else []
        answer = self._transcript.format_growing(max(1, room - len(calls)))
        return "\n".join([*([answer, ""] if answer else []), *calls, *panel, *footer])

    def _format_status(self) -> str:
        """Return the status line, and set the title of the terminal."""
        conversation, pending = self._conversation, len(self._pending.requests)
        state, text = "", ""
        if not conversation.is_connected:
            state = text = "connecting …"
        elif self._is_stopping and conversation.is_running:
            state = text = "stopping …"
        elif pending:
            state, text = "needs you", f"{pending} pending"
        elif conversation.is_running:
            elapsed = format_elapsed(conversation.running_since_ms, time.time_ns() // 1_000_000)
            state, text = "answering", f"answering {elapsed}".rstrip() + ", Esc stops it"
            # The elapsed time counts seconds.
            self._prompt.redraw(1.0)
        agent = one_line(conversation.agent or "")
        if self._has_title:
            self._prompt.set_title(f"{agent or 'kheish'}: {state}" if state else agent)
        columns = self._prompt.columns
        return conversation.status.format(agent, columns, text, workspace=conversation.workspace)

    def _draw_panel(self, max_lines: int) -> list[str]:
        """Return the lines of the request panel."""
        if not self.has_request:
            return []
        empty = self._prompt.is_empty
        self._pending.mark_drawn(empty=empty)
        self._announce_request()
        columns = self._prompt.columns
        return self._panel.format_panel(self._pending, columns, max_lines, time.time(), empty=empty)

    def _announce_request(self) -> None:
        """Ring the bell once for each new request, and draw again when its keys or words are effective."""
        if self._pending.announce() and self._pending.first is not None:
            self._notifier.ring()
            title = format_title(self._pending.first, time.time())
            self._notifier.announce(self._conversation.agent or "kheish", title)
        if not self._pending.is_armed:
            self._prompt.redraw(GRACE_SECONDS)
