"""Markdown for the terminal, block by block, so that an answer can be shown as it arrives.

A text is split into blocks where no later text can change the rendering of a block: at a blank line outside a
code fence that is followed by a line without indentation. A finished block is rendered once; only the last
block is rendered again as it grows. Of rich's output only the styles survive: everything else that acts on a
terminal, such as a control character written as an entity, is sanitized after rendering.
"""

from __future__ import annotations

import io
import re
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from kheishctl.render.layout import fold, sanitize_styled
from protocol.text import sanitize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
    from rich.markdown import MarkdownElement

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")

# Rich takes half a millisecond per kilobyte of prose, 16 for code and 24 for a list. A growing block is
# rendered repeatedly, so a block longer than this is shown as plain text while it grows: 50 ms for a list.
MAX_LIVE_CHARACTERS = 2 * 1_024

# A block longer than this is never rendered: the prompt would not react for more than half a second.
MAX_RENDER_CHARACTERS = 20 * 1_024


class BlockSplitter:
    """A splitter of growing text into blocks. It reads every line once, so long texts take linear time."""

    def __init__(self) -> None:
        self._block: list[str] = []
        self._blank: list[str] = []
        self._fence: str | None = None
        self._line = ""

    def feed(self, text: str) -> list[str]:
        """Add text and return the blocks that it finishes.

        Shape: the blocks in order and ``rest`` are the text, except for blank lines between blocks.
        """
        *lines, self._line = (self._line + text).split("\n")
        finished = [block for line in lines if (block := self._add_line(f"{line}\n"))]
        # The first character of a line already tells whether it continues the block before a blank line.
        if self._blank and self._line and not self._line[0].isspace():
            finished.append(self._end_block())
        return finished

    @property
    def rest(self) -> str:
        """The text of the unfinished block."""
        return "".join([*self._block, *self._blank, self._line])

    def _add_line(self, line: str) -> str:
        """Add a complete line and return the block that it finishes, else an empty text."""
        finished = ""
        if self._fence is None:
            if not line.strip():
                self._blank += [line] if self._block else []
                return ""
            if self._blank and not line[0].isspace():
                finished = self._end_block()
        self._block += [*self._blank, line]
        self._blank = []
        self._fence = _track_fence(self._fence, line)
        return finished

    def _end_block(self) -> str:
        block = "".join(self._block)
        self._block, self._blank = [], []
        return block


def keep_line_breaks(text: str) -> str:
    """Return markdown in which every line break is rendered: two spaces at the end of a line request it."""
    lines: list[str] = []
    fence: str | None = None
    for line in text.split("\n"):
        previous, fence = fence, _track_fence(fence, line)
        lines.append(line if previous or fence or not line.strip() else f"{line.rstrip()}  ")
    return "\n".join(lines)


def _track_fence(fence: str | None, line: str) -> str | None:
    """Return the open code fence after a line; None if no fence is open."""
    match = _FENCE.fullmatch(line.rstrip("\n"))
    if match is None:
        return fence
    marks, rest = match.groups()
    if fence is None:
        return None if marks[0] == "`" and "`" in rest else marks
    closes = marks[0] == fence[0] and len(marks) >= len(fence) and not rest.strip()
    return None if closes else fence


@cache
def _load_elements() -> dict[str, type[MarkdownElement]]:
    """Return the elements that are drawn otherwise than rich draws them."""
    from rich.markdown import CodeBlock, Heading
    from rich.syntax import Syntax

    class TightCode(CodeBlock):
        """A code block without blank lines of its own: those of the paragraphs around it are enough."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            code = str(self.text).rstrip()
            yield Syntax(code, self.lexer_name, theme=self.theme, word_wrap=True, padding=(0, 1))

    class LeftHeading(Heading):
        """A heading at the left, whatever its level."""

        LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}

    return {"fence": TightCode, "code_block": TightCode, "heading_open": LeftHeading}


def is_light(theme: str, environ: Mapping[str, str]) -> bool:
    """Whether the terminal's background is light: by the setting, else as the terminal says in COLORFGBG."""
    if theme != "auto":
        return theme == "light"
    # Foreground and background as numbers of colors, "0;15": white, and the light gray, are light.
    return environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")


def make_renderer(*, color: bool, light: bool = False) -> Callable[[str, int], str]:
    """Return a function that renders markdown at a width: lines joined by newlines, none after the last.

    ``light``: the colors of code suit a light background.
    """

    def render(text: str, width: int) -> str:
        if len(text) > MAX_RENDER_CHARACTERS:
            return sanitize(text).strip("\n")
        # Imported here, because rich costs several times the start of the interpreter.
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
        # The address of a link is written out: a link that shows another address than its own is a trap.
        theme = "ansi_light" if light else "ansi_dark"
        markdown = Markdown(keep_line_breaks(sanitize(text)), code_theme=theme, hyperlinks=False)
        markdown.elements = markdown.elements | _load_elements()  # type: ignore[misc]
        console.print(markdown)
        lines = out.getvalue().strip("\n").split("\n")
        return sanitize_styled("\n".join(line.rstrip() for line in lines))

    return render


def preload() -> None:
    """Import the modules for rendering, so that the first answer does not wait for them."""
    make_renderer(color=False)("`warm`", 80)


def fold_end(text: str, width: int, max_lines: int) -> str:
    """Return the last lines of a plain text at a width; a block that is too long to render looks so."""
    return "\n".join(fold(sanitize(text[-width * max_lines :]), width)[-max_lines:])
