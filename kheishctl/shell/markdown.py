"""Markdown for the terminal, block by block, so that an answer can be shown while it is written.

A text is cut into blocks where it is certain that nothing later changes how a block looks: at a blank
line outside a code fence that is followed by a line that is not indented. Finished blocks are rendered
once; only the last one is rendered again as it grows. Nothing but styles survives from what rich makes:
whatever a text smuggles in (as an entity, say) is made harmless on the way out.
"""

import io
import re
from collections.abc import Callable

from kheishctl.render.layout import fold, sanitise_styled
from protocol.text import sanitise

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")

# Rich takes half a millisecond a kilobyte of prose, 16 of code and 24 of a list. A block longer than this
# is shown as plain text while it grows, as it is rendered again and again: 50 ms of a list.
MAX_LIVE_CHARACTERS = 2 * 1_024

# A block longer than this is never rendered: the prompt would stand still for longer than half a second.
MAX_RENDER_CHARACTERS = 20 * 1_024


class Blocks:
    """A growing text, cut into blocks. Every line is looked at once, however long the text becomes."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._blank: list[str] = []
        self._fence: str | None = None
        self._line = ""

    def feed(self, text: str) -> list[str]:
        """More of the text: the blocks that it finishes.

        Shape:  joined in order and with ``rest`` at the end they are the text, but for blank lines
                between blocks.
        """
        *whole, self._line = (self._line + text).split("\n")
        finished = [block for line in whole if (block := self._take(f"{line}\n"))]
        # The first character of a line already says whether it goes on with a block before a blank line.
        if self._blank and self._line and not self._line[0].isspace():
            finished.append(self._close())
        return finished

    @property
    def rest(self) -> str:
        """What is not finished."""
        return "".join([*self._kept, *self._blank, self._line])

    def _take(self, line: str) -> str:
        """One whole line: the block that it finishes, if any."""
        finished = ""
        if self._fence is None:
            if not line.strip():
                self._blank += [line] if self._kept else []
                return ""
            if self._blank and not line[0].isspace():
                finished = self._close()
        self._kept += [*self._blank, line]
        self._blank = []
        self._fence = _after(self._fence, line)
        return finished

    def _close(self) -> str:
        block = "".join(self._kept)
        self._kept, self._blank = [], []
        return block


def hard_lines(text: str) -> str:
    """Markdown in which every line stays a line, as the one who wrote it meant (two spaces say so)."""
    lines: list[str] = []
    fence: str | None = None
    for line in text.split("\n"):
        before, fence = fence, _after(fence, line)
        lines.append(line if before or fence or not line.strip() else f"{line.rstrip()}  ")
    return "\n".join(lines)


def _after(fence: str | None, line: str) -> str | None:
    """The open fence after a line, None if there is none."""
    found = _FENCE.fullmatch(line.rstrip("\n"))
    if found is None:
        return fence
    marks, rest = found.groups()
    if fence is None:
        return None if marks[0] == "`" and "`" in rest else marks
    closes = marks[0] == fence[0] and len(marks) >= len(fence) and not rest.strip()
    return None if closes else fence


def renderer(*, color: bool) -> Callable[[str, int], str]:
    """A function that renders markdown at a width: lines joined by newlines, none after the last."""

    def render(text: str, width: int) -> str:
        if len(text) > MAX_RENDER_CHARACTERS:
            return sanitise(text).strip("\n")
        # Made where used: rich costs as much as starting the interpreter several times.
        from rich.console import Console
        from rich.markdown import Markdown

        out = io.StringIO()
        console = Console(
            file=out,
            width=max(width, 20),
            force_terminal=True,
            color_system="standard" if color else None,
            highlight=False,
            legacy_windows=False,
            _environ={},
        )
        # Links are written out: one that shows another address than it opens is a trap.
        console.print(Markdown(hard_lines(sanitise(text)), code_theme="ansi_dark", hyperlinks=False))
        lines = out.getvalue().strip("\n").split("\n")
        return sanitise_styled("\n".join(line.rstrip() for line in lines))

    return render


def warm_up() -> None:
    """Import what rendering needs, so that the first answer does not wait for it."""
    renderer(color=False)("`warm`", 80)


def wrapped(text: str, width: int, max_lines: int) -> str:
    """The end of a plain text, wrapped hard at a width: what is shown of a block too long to render."""
    return "\n".join(fold(sanitise(text[-width * max_lines :]), width)[-max_lines:])
