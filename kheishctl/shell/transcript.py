"""Format a conversation for the terminal: finished text, and growing text that is redrawn.

Models, tools and senders wrote most of the content. It is sanitized, and each of its lines is prefixed with a
mark or a bar, so that no line can imitate a prompt.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import assert_never

from msgspec import Struct, field

from kheishctl.contract import Json
from kheishctl.render.calls import OutputTail, summarize_arguments, take_first_lines
from kheishctl.render.changes import (
    AnswerRestart,
    AnswerText,
    ApprovalClosing,
    ApprovalOpening,
    CallEnd,
    CallOutput,
    CallRequest,
    CallStart,
    CallVerdict,
    ChildProgress,
    DisplayChange,
    DoubtClosing,
    DoubtOpening,
    MessageEnd,
    Notice,
    QuestionClosing,
    QuestionOpening,
    QueuedInput,
    ReasoningText,
    RunEnd,
    StartedInput,
    SteerText,
)
from kheishctl.render.children import format_progress, shorten_path
from kheishctl.render.layout import count_columns, fit, paint, wrap
from kheishctl.render.messages import STOP_NOTES
from kheishctl.render.results import ResultText, read_result
from kheishctl.render.units import format_duration
from kheishctl.shell.markdown import MAX_LIVE_CHARACTERS, BlockSplitter, fold_end
from protocol.structs import Value
from protocol.text import one_line, sanitize

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINS_PER_SECOND = 8

BAR = "  │ "

MAX_NOTE_LINES = 3
MAX_CHILD_LINES = 8
MAX_OUTPUT_LINES = 3
MAX_ERROR_LINES = 3
MAX_RESULT_LINES = 5
MAX_VERBOSE_LINES = 10

# Lines of a message that are shown of a longer one, and the number of texts that can still be expanded: they
# take 64 KiB each at most, the limit of a result.
MAX_MESSAGE_LINES = 12
MAX_COLLAPSED = 20

# The mark, color and label of each kind of result; None for results that another line reports.
RESULTS: dict[str, tuple[str, str, str] | None] = {
    "returned": ("✓", "green", ""),
    "failed": ("✗", "red", "failed"),
    "denied": ("✗", "red", "denied"),
    "stopped": ("■", "yellow", "stopped"),
    "in_doubt": None,
    "answered": None,
}

RESOLVE_HINT = "its outcome is unknown; check it, then type /resolve done or /resolve not-done"

CallChange = CallRequest | CallVerdict | CallStart | CallOutput | CallEnd
RequestChange = (
    ApprovalOpening
    | ApprovalClosing
    | QuestionOpening
    | QuestionClosing
    | DoubtOpening
    | DoubtClosing
    | SteerText
)


class Collapsed(Value, frozen=True):
    """Text of which only a part was shown: its title and all of its lines, sanitized."""

    title: str
    lines: Sequence[str]


class _RunningCall(Struct):
    """A running call. ``at_ms`` is None while only its output has arrived."""

    tool: str = ""
    summary: str = ""
    at_ms: int | None = None
    tail: OutputTail = field(default_factory=OutputTail)


class CallView:
    """The calls of a conversation as lines. ``width`` returns the columns, ``now_s`` the wall clock."""

    def __init__(
        self, width: Callable[[], int], now_s: Callable[[], float], *, color: bool, verbose: bool
    ) -> None:
        self._width = width
        self._now_s = now_s
        self._color = color
        self._verbose = verbose
        self._running: dict[str, _RunningCall] = {}
        # Texts of which a part was shown, the newest first.
        self.collapsed: deque[Collapsed] = deque(maxlen=MAX_COLLAPSED)

    def clear(self) -> None:
        """Forget the running calls, because their run has ended."""
        self._running.clear()

    def show(self, change: CallChange) -> str:
        """Return the lines that a change adds to the scrollback; often none."""
        match change:
            case CallRequest(_, tool, summary):
                return self.format_line("→", "cyan", tool, summary)
            case CallVerdict(_, tool, decision, source):
                verdict = {"allow": "allowed", "ask": "needs approval"}.get(decision)
                if verdict is None or not self._verbose:
                    return ""
                return self.format_line("·", "dim", tool, f"{verdict} ({source})")
            case CallStart(call_id, tool, summary, at_ms):
                call = self._running.setdefault(call_id, _RunningCall())
                call.tool, call.summary, call.at_ms = tool, summary, at_ms
                return ""
            case CallOutput(call_id, text, fresh):
                call = self._running.setdefault(call_id, _RunningCall())
                call.tail = OutputTail() if fresh else call.tail
                call.tail.add(text)
                return ""
            case CallEnd():
                return self._show_result(change)
            case _:
                assert_never(change)

    def _show_result(self, result: CallEnd) -> str:
        running = self._running.pop(result.call_id, None)
        row = RESULTS.get(result.outcome, ("·", "dim", result.outcome))
        if row is None or (result.outcome == "denied" and result.denial_shown):
            return ""
        mark, style, label = row
        output = read_result(result.text)
        if result.outcome == "returned" and output.is_command:
            mark, style, label = ("✗", "red", output.end) if output.has_failed else (mark, style, output.end)
        if result.denied_by:
            # A denial names its source; for a call that was never made, ``denied_by`` is the problem.
            label = f"{label} by {result.denied_by}" if result.outcome == "denied" else result.denied_by
        duration = format_duration(result.took_ms / 1000) if result.took_ms is not None else ""
        end = " after ".join(filter(None, (label, duration)))
        line = self.format_line(mark, style, result.tool, end, result.summary)
        if output.has_failed and self._color:
            line = line.replace(output.end, paint(output.end, "red", self._color), 1)
        if result.outcome in ("failed", "denied"):
            return line + self.format_details(take_first_lines(result.text, MAX_ERROR_LINES))
        if result.outcome == "stopped" and running is not None and not output.is_command:
            # A stopped call has no result of its own: the end of its output is all there is.
            return line + self.format_details(running.tail.lines(MAX_RESULT_LINES))
        return line + self._show_output(result.tool, output)

    def _show_output(self, tool: str, output: ResultText) -> str:
        """Return the last lines of a command's output; of another result, the first ones if it is verbose."""
        count = MAX_VERBOSE_LINES if self._verbose else MAX_RESULT_LINES if output.is_command else 0
        lines = output.lines
        if not lines:
            return ""
        self.collapsed.appendleft(Collapsed(tool, lines))
        if len(lines) <= count + 1:
            return self.format_details(lines) if count else ""
        note = f"… {len(lines) - count} more lines: /expand, Ctrl-O"
        if not count:
            return ""
        visible = [note, *lines[-count:]] if output.is_command else [*lines[:count], note]
        return self.format_details(visible)

    def format_line(self, mark: str, style: str, tool: str, *parts: str) -> str:
        """Format a line about a call: a mark, the tool, and as much of the other parts as fits."""
        columns = self._width()
        name = fit(one_line(tool) or "a call", columns // 2)
        text = one_line(" · ".join(filter(None, parts)))
        rest = fit(text, max(1, columns - count_columns(mark) - count_columns(name) - 3))
        return f"{paint(mark, style, self._color)} {paint(name, 'bold', self._color)}  {rest}".rstrip() + "\n"

    def format_details(self, lines: Sequence[str]) -> str:
        """Format details that belong to the line above."""
        return "".join(f"{line}\n" for line in self._add_bar(lines))

    def _add_bar(self, lines: Sequence[str]) -> list[str]:
        columns = max(1, self._width() - len(BAR))
        return [paint(BAR + fit(line, columns), "dim", self._color) for line in lines]

    def format_running(self, max_lines: int) -> list[str]:
        """Return the lines of the running calls: tool, arguments, elapsed time and the end of the output."""
        running = [call for call in self._running.values() if call.at_ms is not None]
        visible = running[: max(1, max_lines)]
        spare = max(0, max_lines - len(visible))
        now_s = self._now_s()
        spinner = SPINNER[int(now_s * SPINS_PER_SECOND) % len(SPINNER)]
        lines: list[str] = []
        for call in visible:
            elapsed_s = max(0, int(now_s - (call.at_ms or 0) / 1000))
            elapsed = f"{elapsed_s} s" if elapsed_s < 10 else format_duration(elapsed_s)
            summary = fit(call.summary, max(1, self._width() // 2 - len(elapsed) - 6))
            lines.append(self.format_line(spinner, "cyan", call.tool, summary, elapsed).rstrip("\n"))
            output = call.tail.lines(min(MAX_OUTPUT_LINES, spare)) if spare else []
            spare -= len(output)
            lines += self._add_bar(output)
        if len(visible) < len(running):
            lines[-1] = paint(f"… and {len(running) - len(visible) + 1} more", "dim", self._color)
        return lines


class TranscriptView:
    """A conversation as terminal text. ``render`` renders markdown, ``width`` returns the columns.

    ``thinking`` adds the model's reasoning; ``verbose`` adds the verdicts on calls and their results.
    """

    def __init__(
        self,
        render: Callable[[str, int], str],
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
        self._blocks = BlockSplitter()
        self._reasoning = ""
        self._has_text = False
        self._ends_in_line = False
        self.calls = CallView(width, now_s, color=color, verbose=verbose)
        self.queue: dict[str, str] = {}
        self.children: dict[str, ChildProgress] = {}

    def show(self, change: DisplayChange) -> str:
        """Return the text that a change adds to the scrollback; often none."""
        match change:
            case QueuedInput(text, _, run_id):
                self.queue[run_id] = text
                return ""
            case StartedInput(text, sender, run_id):
                self.queue.pop(run_id, None)
                return self.format_input(text, sender)
            case ReasoningText(text):
                self._reasoning += text
                return ""
            case AnswerText(text):
                return self._end_reasoning() + "".join(map(self._add_block, self._blocks.feed(text)))
            case MessageEnd(stop_reason):
                text, self._has_text = self.flush(), False
                note = STOP_NOTES.get(stop_reason)
                return text + (self.format_note(note, "yellow") if note else "")
            case AnswerRestart():
                self._blocks, self._reasoning = BlockSplitter(), ""
                had_text, self._has_text = self._has_text, False
                note = "the model is called again; the answer starts over"
                return self.format_note(note, "yellow") if had_text else ""
            case Notice(text):
                return self.flush() + self.format_note(text)
            case RunEnd():
                return self._end_run(change)
            case ChildProgress():
                return self._show_child(change)
            case CallRequest() | CallVerdict() | CallStart() | CallOutput() | CallEnd():
                return self._add_lines(self.calls.show(change))
            case _:
                return self._add_lines(self._show_request(change))

    def _show_child(self, child: ChildProgress) -> str:
        """Update the line of an agent in the live area; an agent that has settled becomes a finished line."""
        if not child.is_settled:
            self.children[child.agent_id] = child
            return ""
        self.children.pop(child.agent_id, None)
        mark, style, _ = RESULTS["returned" if child.status == "completed" else "failed"] or ("·", "dim", "")
        line = format_progress(child, max(1, self._width() - 4))
        return self._add_lines(f"  {paint(mark, style, self._color)} {line}\n")

    def format_children(self, max_lines: int) -> list[str]:
        """Return the lines of the agents at work below the conversation's, the oldest first."""
        children = list(self.children.values())
        room = max(1, min(max_lines, MAX_CHILD_LINES))
        visible = children if len(children) <= room else children[: room - 1]
        lines = [f"  ↳ {format_progress(child, max(1, self._width() - 4))}" for child in visible]
        hidden = len(children) - len(visible)
        return [*lines, f"  … and {hidden} more agents"] if hidden else lines

    def _end_run(self, end: RunEnd) -> str:
        if (message := self.queue.pop(end.run_id, None)) is not None:
            # It ended in the queue, and another run goes on: its answer is not touched.
            state = "withdrawn" if end.status == "cancelled" else f"not answered ({end.error or end.status})"
            return self._add_lines(self.format_note(f"{state}: {message}"))
        self.calls.clear()
        text, self._has_text = self.flush(), False
        match end.status:
            case "failed":
                return text + self.format_note(
                    f"the run failed: {end.error or 'no error was recorded'}", "red"
                )
            case "cancelled" | "interrupted":
                return text + self.format_note("stopped", "yellow")
            case _:
                return text

    def _show_request(self, change: RequestChange) -> str:
        """Return the line about a request; the panel shows requests that are still pending."""
        match change:
            case ApprovalOpening() | QuestionOpening():
                return ""
            case ApprovalClosing():
                actor = f" by {change.actor}" if change.actor else ""
                extent = "" if change.remember == "once" else f" for this {change.remember}"
                mark, style, text = {
                    "allow": ("✓", "green", f"allowed{actor}{extent}"),
                    "deny": ("✗", "red", f"denied{actor}"),
                    "expired": ("✗", "red", "denied: nobody answered in time"),
                    "renewed": ("·", "yellow", "the call changed; it needs approval again"),
                }.get(change.outcome, ("■", "yellow", "no longer pending"))
                return self.calls.format_line(mark, style, change.tool, text, change.note, change.summary)
            case QuestionClosing(_, outcome, actor, answer, path):
                mark, style = ("✓", "green") if outcome == "answered" else ("■", "yellow")
                text = outcome + (f" by {actor}" if actor else "")
                name = f"{shorten_path(path)}: question" if path else "question"
                return self.calls.format_line(mark, style, name, text, answer)
            case DoubtOpening(doubt):
                return self.format_doubt(doubt)
            case DoubtClosing(_, tool, outcome, actor, note):
                text = f"resolved as {outcome.replace('_', ' ')} by {actor}"
                return self.calls.format_line("✓", "green", tool, text, note)
            case SteerText(text, sender):
                return self.format_input(text, f"{sender or 'unknown'} (steering)")
            case _:
                assert_never(change)

    def flush(self) -> str:
        """Return the growing text as finished text."""
        reasoning = self._end_reasoning()
        text, self._blocks = self._blocks.rest, BlockSplitter()
        return reasoning + (self._add_block(text) if text.strip() else "")

    def _end_reasoning(self) -> str:
        reasoning, self._reasoning = self._reasoning.strip(), ""
        if not reasoning or not self._thinking:
            return ""
        self._has_text = True
        dimmed = "\n".join(paint(line, "dim", self._color) for line in sanitize(reasoning).split("\n"))
        return self._add_paragraph(f"{dimmed}\n\n")

    def _add_block(self, text: str) -> str:
        self._has_text = True
        return self._add_paragraph(self._render(text, self._width()) + "\n\n")

    def _add_lines(self, text: str) -> str:
        """Return lines, and record that a blank line must precede the next paragraph."""
        self._ends_in_line = bool(text) or self._ends_in_line
        return text

    def _add_paragraph(self, text: str) -> str:
        """Return a paragraph, after a blank line if lines precede it."""
        follows_line, self._ends_in_line = self._ends_in_line, False
        return f"\n{text}" if follows_line else text

    # Text outside the stream of changes.

    def format_input(self, text: str, sender: str) -> str:
        """Format a message to the agent."""
        name = f"{one_line(sender) or 'unknown'} >"
        lines = wrap(f"{name} {sanitize(text).rstrip()}", self._width())
        if len(lines) > MAX_MESSAGE_LINES + 1:
            self.calls.collapsed.appendleft(Collapsed(name, lines))
            hidden = f"{BAR}… {len(lines) - MAX_MESSAGE_LINES} more lines: /expand, Ctrl-O"
            lines = [*lines[:MAX_MESSAGE_LINES], paint(fit(hidden, self._width()), "dim", self._color)]
        body = "\n".join(lines).removeprefix(name)
        return self._add_paragraph(f"{paint(name, 'green', self._color)}{body}\n\n")

    def format_answer(self, text: str) -> str:
        """Format a complete answer; empty without text."""
        return self._add_paragraph(self._render(text, self._width()) + "\n\n") if text.strip() else ""

    def format_note(self, text: str, style: str = "dim") -> str:
        """Format a note about the conversation, wrapped at words."""
        lines = wrap(f"· {one_line(text)}", self._width(), 2)
        return "".join(f"{paint(line, style, self._color)}\n" for line in lines)

    def format_collapsed(self, number: int) -> str:
        """Format the whole of a text of which a part was shown; 1 is the last one. Errors: IndexError."""
        text = self.calls.collapsed[number - 1]
        head = paint(one_line(text.title), "bold", self._color)
        room = max(1, self._width() - len(BAR))
        lines = [paint(BAR, "dim", self._color) + part for line in text.lines for part in wrap(line, room)]
        return "\n".join([head, *lines]) + "\n\n"

    def format_doubt(self, doubt: Json) -> str:
        """Format a call in doubt with a hint on how to resolve it."""
        summary = summarize_arguments(doubt.get("arguments"))
        line = self.calls.format_line("?", "yellow", str(doubt["tool"]), "in doubt", summary)
        notes = take_first_lines(str(doubt.get("note", "")), MAX_NOTE_LINES)
        return line + self.calls.format_details([*notes, RESOLVE_HINT])

    def format_growing(self, max_lines: int) -> str:
        """Format the end of the growing text, as much as fits, without a newline after the last line."""
        width, text = self._width(), self._blocks.rest
        if self._reasoning and not text:
            last = self._reasoning.rstrip().rpartition("\n")[2]
            return paint(fit(f"thinking: {one_line(last)}", width), "dim", self._color)
        if not text.strip():
            return ""
        if len(text) > MAX_LIVE_CHARACTERS:
            return fold_end(text, width, max_lines)
        return "\n".join(self._render(text, width).split("\n")[-max_lines:])
