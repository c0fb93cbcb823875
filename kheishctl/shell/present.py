"""What a follower shows, as text: finished pieces for the scrollback, the growing end for the live area."""

import time
from collections.abc import Callable
from typing import assert_never

from kheishctl.contract import Json
from kheishctl.render.calls import summarize_arguments, take_first_lines
from kheishctl.render.layout import fit, paint
from kheishctl.render.messages import STOP_NOTES
from kheishctl.render.pieces import (
    AnswerRestart,
    AnswerText,
    ApprovalClosing,
    ApprovalOpening,
    CallOutput,
    CallRequest,
    CallResult,
    CallStart,
    CallVerdict,
    DoubtClosing,
    DoubtOpening,
    MessageEnd,
    Notice,
    Piece,
    QuestionClosing,
    QuestionOpening,
    QueuedInput,
    ReasoningText,
    RunEnd,
    StartedInput,
    SteerText,
)
from kheishctl.shell.markdown import MAX_LIVE_CHARACTERS, Blocks, wrapped
from kheishctl.shell.working import Working
from protocol.text import one_line, sanitise

NOTE_LINES = 3

Render = Callable[[str, int], str]


class Presenter:
    """The text of one conversation on its way to the screen.

    ``width`` gives the columns there are now. ``thinking`` shows the model's reasoning, dimmed; ``verbose``
    what decided about each call, and what it gave.
    """

    def __init__(
        self,
        render: Render,
        width: Callable[[], int],
        *,
        color: bool,
        thinking: bool,
        verbose: bool = False,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._render = render
        self._width = width
        self._color = color
        self._thinking = thinking
        self._blocks = Blocks()
        self._thought = ""
        self._began = False
        self._tight = False
        self.working = Working(width, now_s, color=color, verbose=verbose)
        self.queue: dict[str, str] = {}

    def show(self, piece: Piece) -> str:
        """What one piece adds to the scrollback; often nothing yet."""
        match piece:
            case QueuedInput(text, _, run_id):
                self.queue[run_id] = text
                return ""
            case StartedInput(text, sender, run_id):
                self.queue.pop(run_id, None)
                return self.input(text, sender)
            case ReasoningText(text):
                return self._think(text)
            case AnswerText(text):
                return self._say(text)
            case MessageEnd(stop_reason):
                return self._finish(stop_reason)
            case AnswerRestart():
                return self._restart()
            case Notice(text):
                return self._flush() + self.note(text)
            case RunEnd():
                return self._settle(piece)
            case CallRequest() | CallVerdict() | CallStart() | CallOutput() | CallResult():
                return self._lines(self.working.show(piece))
            case _:
                return self._lines(self._of_people(piece))

    def _of_people(
        self,
        piece: ApprovalOpening
        | ApprovalClosing
        | QuestionOpening
        | QuestionClosing
        | DoubtOpening
        | DoubtClosing
        | SteerText,
    ) -> str:
        """What is said of what waits for a person; while it waits it stands in the live area."""
        match piece:
            case ApprovalOpening() | QuestionOpening():
                return ""
            case ApprovalClosing():
                return self._approval(piece)
            case QuestionClosing(_, how, by, answer):
                mark, style = ("✓", "green") if how == "answered" else ("■", "yellow")
                return self.working.line(mark, style, "question", how + (f" by {by}" if by else ""), answer)
            case DoubtOpening(doubt):
                return self.doubt(doubt)
            case DoubtClosing(_, tool, outcome, by, note):
                said = f"settled as {outcome.replace('_', ' ')} by {by}"
                return self.working.line("✓", "green", tool, said, note)
            case SteerText(text, sender):
                return self.input(text, f"{sender or 'somebody'}, meanwhile")
            case _:
                assert_never(piece)

    def _approval(self, piece: ApprovalClosing) -> str:
        by = f" by {piece.by}" if piece.by else ""
        for_long = "" if piece.remember == "once" else f" for this {piece.remember}"
        mark, style, said = {
            "allow": ("✓", "green", f"allowed{by}{for_long}"),
            "deny": ("✗", "red", f"denied{by}"),
            "expired": ("✗", "red", "denied, as nobody answered in time"),
            "renewed": ("·", "yellow", "changed since it was shown; it is asked anew"),
        }.get(piece.how, ("■", "yellow", "no longer asked"))
        return self.working.line(mark, style, piece.tool, said, piece.reason, piece.about)

    def doubt(self, doubt: Json) -> str:
        """A call of which nobody knows whether it took effect."""
        line = self.working.line(
            "?", "yellow", str(doubt["tool"]), "in doubt", summarize_arguments(doubt.get("arguments"))
        )
        notes = take_first_lines(str(doubt.get("note", "")), NOTE_LINES)
        what = "whether it took effect is not known; look, then say /resolve done or /resolve not-done"
        return line + self.working.under([*notes, what])

    def input(self, text: str, sender: str) -> str:
        """Something that was said to the agent."""
        label = paint(f"{one_line(sender) or 'somebody'} >", "green", self._color)
        return self._apart(f"{label} {sanitise(text).rstrip()}\n\n")

    def answer(self, text: str) -> str:
        """A whole answer."""
        return self._apart(self._render(text, self._width()) + "\n\n") if text.strip() else ""

    def _lines(self, text: str) -> str:
        """Lines that belong together with those before and after them."""
        self._tight = bool(text) or self._tight
        return text

    def _apart(self, text: str) -> str:
        """What has an empty line before it."""
        tight, self._tight = self._tight, False
        return f"\n{text}" if tight else text

    def note(self, text: str, style: str = "dim") -> str:
        """Something about the conversation rather than in it."""
        return paint(f"· {one_line(text)}", style, self._color) + "\n"

    def live(self, max_lines: int) -> str:
        """The end of the answer being written, as much as fits: no newline after the last line."""
        width, text = self._width(), self._blocks.rest
        if self._thought and not text:
            last = self._thought.rstrip().rpartition("\n")[2]
            return paint(fit(f"thinking: {one_line(last)}", width), "dim", self._color)
        if not text.strip():
            return ""
        if len(text) > MAX_LIVE_CHARACTERS:
            return wrapped(text, width, max_lines)
        return "\n".join(self._render(text, width).split("\n")[-max_lines:])

    def rest(self) -> str:
        """What was written and not yet shown for good, for one who leaves now."""
        return self._flush()

    def _say(self, text: str) -> str:
        shown = self._end_thought()
        return shown + "".join(map(self._block, self._blocks.feed(text)))

    def _block(self, text: str) -> str:
        self._began = True
        return self._apart(self._render(text, self._width()) + "\n\n")

    def _flush(self) -> str:
        shown = self._end_thought()
        text, self._blocks = self._blocks.rest, Blocks()
        return shown + (self._block(text) if text.strip() else "")

    def _think(self, text: str) -> str:
        self._thought += text
        return ""

    def _end_thought(self) -> str:
        thought, self._thought = self._thought.strip(), ""
        if not thought or not self._thinking:
            return ""
        self._began = True
        dimmed = "\n".join(paint(line, "dim", self._color) for line in sanitise(thought).split("\n"))
        return self._apart(f"{dimmed}\n\n")

    def _finish(self, stop_reason: str) -> str:
        shown = self._flush()
        self._began = False
        reason = STOP_NOTES.get(stop_reason)
        return shown + (self.note(reason, "yellow") if reason else "")

    def _restart(self) -> str:
        self._blocks, self._thought = Blocks(), ""
        began, self._began = self._began, False
        return self.note("the model is asked again; the answer starts over", "yellow") if began else ""

    def _settle(self, end: RunEnd) -> str:
        self.queue.pop(end.run_id, None)
        self.working.clear()
        shown = self._flush()
        self._began = False
        match end.status:
            case "failed":
                return shown + self.note(f"the run failed: {end.error or 'no reason was kept'}", "red")
            case "cancelled" | "interrupted":
                return shown + self.note("stopped", "yellow")
            case _:
                return shown
