"""What a follower shows, as text: finished pieces for the scrollback, the growing end for the live area."""

from collections.abc import Callable
from typing import assert_never

from kheishctl.follow import Finished, Heard, Noted, Queued, Restarted, Said, Settled, Shown, Thought
from kheishctl.render import STOP_NOTES
from kheishctl.shell.markdown import LIVE_CHARACTERS_MAX, Blocks, wrapped
from kheishctl.text import clean, fit, one_line, paint

Render = Callable[[str, int], str]


class Presenter:
    """The text of one conversation on its way to the screen.

    ``width`` gives the columns there are now. ``thinking`` shows the model's reasoning, dimmed.
    """

    def __init__(self, render: Render, width: Callable[[], int], *, color: bool, thinking: bool) -> None:
        self._render = render
        self._width = width
        self._color = color
        self._thinking = thinking
        self._blocks = Blocks()
        self._thought = ""
        self._began = False
        self.queue: dict[str, str] = {}

    def show(self, piece: Shown) -> str:
        """What one piece adds to the scrollback; often nothing yet."""
        match piece:
            case Queued(text, _, run_id):
                self.queue[run_id] = text
                return ""
            case Heard(text, sender, run_id):
                self.queue.pop(run_id, None)
                return self.input(text, sender)
            case Thought(text):
                return self._think(text)
            case Said(text):
                return self._say(text)
            case Finished(stop_reason):
                return self._finish(stop_reason)
            case Restarted():
                return self._restart()
            case Noted(text):
                return self._flush() + self.note(text)
            case Settled():
                return self._settle(piece)
            case _:
                assert_never(piece)

    def input(self, text: str, sender: str) -> str:
        """Something that was said to the agent."""
        label = paint(f"{one_line(sender) or 'somebody'} >", "green", self._color)
        return f"{label} {clean(text).rstrip()}\n\n"

    def answer(self, text: str) -> str:
        """A whole answer."""
        return self._render(text, self._width()) + "\n\n" if text.strip() else ""

    def note(self, text: str, style: str = "dim") -> str:
        """Something about the conversation rather than in it."""
        return paint(f"· {clean(text)}", style, self._color) + "\n"

    def live(self, lines_max: int) -> str:
        """The end of the answer being written, as much as fits: no newline after the last line."""
        width, text = self._width(), self._blocks.rest
        if self._thought and not text:
            last = self._thought.rstrip().rpartition("\n")[2]
            return paint(fit(f"thinking: {one_line(last)}", width), "dim", self._color)
        if not text.strip():
            return ""
        if len(text) > LIVE_CHARACTERS_MAX:
            return wrapped(text, width, lines_max)
        return "\n".join(self._render(text, width).split("\n")[-lines_max:])

    def rest(self) -> str:
        """What was written and not yet shown for good, for one who leaves now."""
        return self._flush()

    def _say(self, text: str) -> str:
        shown = self._end_thought()
        return shown + "".join(map(self._block, self._blocks.feed(text)))

    def _block(self, text: str) -> str:
        self._began = True
        return self._render(text, self._width()) + "\n\n"

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
        return "\n".join(paint(line, "dim", self._color) for line in clean(thought).split("\n")) + "\n\n"

    def _finish(self, stop_reason: str) -> str:
        shown = self._flush()
        self._began = False
        reason = STOP_NOTES.get(stop_reason)
        return shown + (self.note(reason, "yellow") if reason else "")

    def _restart(self) -> str:
        self._blocks, self._thought = Blocks(), ""
        began, self._began = self._began, False
        return self.note("the model is asked again; the answer starts over", "yellow") if began else ""

    def _settle(self, end: Settled) -> str:
        self.queue.pop(end.run_id, None)
        shown = self._flush()
        self._began = False
        match end.status:
            case "failed":
                return shown + self.note(f"the run failed: {end.error or 'no reason was kept'}", "red")
            case "cancelled" | "interrupted":
                return shown + self.note("stopped", "yellow")
            case _:
                return shown
