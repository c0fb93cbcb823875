"""Calls on the screen: one line for what became of each, and those that run in the live area.

Everything here was written by a model, a tool or somebody else. It is made harmless, and each of its lines
stands behind a mark or a rule of ours, so that none looks like a prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from kheishctl.render.calls import Tail, take_first_lines
from kheishctl.render.layout import count_columns, fit, paint
from kheishctl.render.pieces import CallOutput, CallRequest, CallResult, CallStart, CallVerdict
from kheishctl.render.units import format_duration
from protocol.text import one_line

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINS_A_SECOND = 8

RULE = "  │ "

OUTPUT_LINES = 3
ERROR_LINES = 3
VERBOSE_LINES = 10

# How a call may end: its mark, the mark's color, and what is said besides; None: others say it.
ENDS: dict[str, tuple[str, str, str] | None] = {
    "returned": ("✓", "green", ""),
    "failed": ("✗", "red", "failed"),
    "denied": ("✗", "red", "denied"),
    "stopped": ("■", "yellow", "stopped"),
    "in_doubt": None,
    "answered": None,
}

OfCalls = CallRequest | CallVerdict | CallStart | CallOutput | CallResult


@dataclass(slots=True)
class _Running:
    """A call that runs, or that was heard before it was known to: ``at_ms`` is None then."""

    tool: str = ""
    about: str = ""
    at_ms: int | None = None
    tail: Tail = field(default_factory=Tail)


class Working:
    """The calls of one conversation. ``width`` gives the columns there are, ``now_s`` the wall clock."""

    def __init__(
        self, width: Callable[[], int], now_s: Callable[[], float], *, color: bool, verbose: bool
    ) -> None:
        self._width = width
        self._now_s = now_s
        self._color = color
        self._verbose = verbose
        self._running: dict[str, _Running] = {}

    @property
    def busy(self) -> bool:
        """Whether a call runs: the live area changes by itself then."""
        return any(call.at_ms is not None for call in self._running.values())

    def clear(self) -> None:
        """No call runs any more."""
        self._running.clear()

    def show(self, piece: OfCalls) -> str:
        """What one piece adds to the scrollback: whole lines, or nothing."""
        match piece:
            case CallRequest(_, tool, about):
                return self.line("→", "cyan", tool, about)
            case CallVerdict(_, tool, decision, why):
                said = {"allow": "allowed", "ask": "to be asked about"}.get(decision)
                return self.line("·", "dim", tool, f"{said}: {why}") if said and self._verbose else ""
            case CallStart(call_id, tool, about, at_ms):
                call = self._running.setdefault(call_id, _Running())
                call.tool, call.about, call.at_ms = tool, about, at_ms
                return ""
            case CallOutput(call_id, text, fresh):
                call = self._running.setdefault(call_id, _Running())
                call.tail = Tail() if fresh else call.tail
                call.tail.add(text)
                return ""
            case CallResult():
                return self._returned(piece)
            case _:
                assert_never(piece)

    def _returned(self, piece: CallResult) -> str:
        self._running.pop(piece.call_id, None)
        end = ENDS.get(piece.how, ("·", "dim", piece.how))
        if end is None or (piece.how == "denied" and piece.told):
            return ""
        mark, style, word = end
        if piece.why:
            # What was denied says by whom or what; what could not be carried out at all says only that.
            word = f"{word} by {piece.why}" if piece.how == "denied" else piece.why
        took = format_duration(piece.took_ms / 1000) if piece.took_ms is not None else ""
        how = " after ".join(filter(None, (word, took)))
        line = self.line(mark, style, piece.tool, how, piece.about)
        shown = ERROR_LINES if piece.how in ("failed", "denied") else VERBOSE_LINES if self._verbose else 0
        return line + self.under(take_first_lines(piece.text, shown))

    def line(self, mark: str, style: str, tool: str, *said: str) -> str:
        """A line about a call: a mark, its tool, and as much of what is said as fits."""
        columns = self._width()
        name = fit(one_line(tool) or "a call", columns // 2)
        text = one_line(" · ".join(filter(None, said)))
        rest = fit(text, max(1, columns - count_columns(mark) - count_columns(name) - 3))
        return f"{paint(mark, style, self._color)} {paint(name, 'bold', self._color)}  {rest}".rstrip() + "\n"

    def under(self, lines: Sequence[str]) -> str:
        """Lines that say more about the line above them."""
        return "".join(f"{line}\n" for line in self.ruled(lines))

    def ruled(self, lines: Sequence[str]) -> list[str]:
        """Lines behind a rule, cut to what fits."""
        room = max(1, self._width() - len(RULE))
        return [paint(RULE + fit(line, room), "dim", self._color) for line in lines]

    def live(self, max_lines: int) -> list[str]:
        """The calls that run: what each is about and since when, and the end of what it wrote."""
        running = [call for call in self._running.values() if call.at_ms is not None]
        shown = running[: max(1, max_lines)]
        spare = max(0, max_lines - len(shown))
        lines: list[str] = []
        for call in shown:
            lines.append(self._spinning(call))
            output = call.tail.lines(min(OUTPUT_LINES, spare)) if spare else []
            spare -= len(output)
            lines += self.ruled(output)
        if len(shown) < len(running):
            lines[-1] = paint(f"… and {len(running) - len(shown) + 1} more", "dim", self._color)
        return lines

    def _spinning(self, call: _Running) -> str:
        now_s = self._now_s()
        spinner = SPINNER[int(now_s * SPINS_A_SECOND) % len(SPINNER)]
        gone_s = max(0, int(now_s - (call.at_ms or 0) / 1000))
        since = f"{gone_s} s" if gone_s < 10 else format_duration(gone_s)
        room = max(1, self._width() // 2 - len(since) - 6)
        return self.line(spinner, "cyan", call.tool, fit(call.about, room), since).rstrip("\n")
