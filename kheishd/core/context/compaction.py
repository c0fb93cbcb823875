"""When a conversation has become too long, and what is done about it. Pure.

Three things are done, each a journaled event whose effect on the messages is in ``core/shortening.py``:

* *results*: after a pause, when no provider remembers the conversation any more and all of it is read anew,
  old results of tools are left out, of which there are often many and of which little is needed again;
* *summary*: once there is not much room left, all but the last messages are replaced by a summary that the
  run's own model makes;
* *snip*: where no summary can be had, the oldest messages are left out, and that is said. The model forgets
  them, so this is the last resort.

How long the prompt is, is known for everything that a provider counted for the newest answer; only what came
after it is estimated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kheishd.config.sections.context import ContextSection
from kheishd.core.context.reduction import Placed, snipped, summed_up, without_results
from kheishd.core.context.tokens import of_bytes, of_messages
from kheishd.core.context.transcript import Measured

OUTPUT_TOKENS: Final = 8_192
"""What is kept free for an answer where the route does not say how long one may be."""

# No summary is shorter than a few sentences, so fewer messages than these are not worth a model call.
SUMMED_UP_MIN: Final = 2

SNIP_KEEP_MIN: Final = 2
"""What even a provider that refuses everything longer is shown: what was said last, and what it answers."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is about to be shown to a model: the messages, and how long all of it is.

    ``overhead`` are the tokens of instructions and tools, as estimated; ``tokens`` are those of everything.
    ``droppable`` are the names of the tools whose old results may be dropped.
    """

    placed: Sequence[Placed]
    overhead: int
    tokens: int
    droppable: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LeaveOutResults:
    """Old results of tools, up to a cursor, are to be left out."""

    upto: int


@dataclass(frozen=True, slots=True)
class SumUp:
    """What was said up to a cursor is to be replaced by a summary."""

    upto: int


@dataclass(frozen=True, slots=True)
class Snip:
    """The oldest messages, up to a cursor, are to be left out."""

    upto: int


Step = LeaveOutResults | SumUp | Snip


def prompt_of(
    placed: Sequence[Placed],
    measured: Measured | None,
    speaker: str | None,
    overhead_bytes: int,
    droppable: Sequence[str] = (),
) -> Prompt:
    """How long a prompt is: what was counted for the same speaker's last answer, and what came after it."""
    overhead = of_bytes(overhead_bytes)
    if measured is None or measured.speaker != speaker:
        return Prompt(placed, overhead, overhead + of_messages(each.message for each in placed), droppable)
    after = of_messages(each.message for each in placed if each.cursor > measured.cursor)
    return Prompt(placed, overhead, measured.tokens + after, droppable)


def threshold(limits: ContextSection, window: int, options: Mapping[str, Any]) -> int:
    """How long a prompt may become on a route before it is made shorter.

    In a small window what is kept free by the rule would be nearly all of it; a third of it may be filled.
    """
    left = window - output_tokens(options) - limits.margin_tokens
    return min(limits.compact_tokens, max(left, window // 3))


def output_tokens(options: Mapping[str, Any]) -> int:
    """How long an answer may be, as a route's options say; else what is usual."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = options.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return OUTPUT_TOKENS


def due(prompt: Prompt, ceiling: int, now_ms: int, limits: ContextSection, *, resting: bool) -> Step | None:
    """What is to be done before the model is asked; None if the prompt may be sent as it is.

    ``ceiling`` is how long it may be; ``resting``: summaries failed too often to be tried again.
    """
    upto = results_cut(prompt, now_ms, limits)
    if upto is not None:
        return LeaveOutResults(upto)
    if prompt.tokens > ceiling and not resting:
        upto = summary_cut(prompt.placed, ceiling, limits)
        return SumUp(upto) if upto is not None else None
    target = min(ceiling, limits.snip_tokens)
    if prompt.tokens > target and resting:
        upto = snip_cut(prompt, target, limits.snip_keep_messages)
        return Snip(upto) if upto is not None else None
    return None


def results_cut(prompt: Prompt, now_ms: int, limits: ContextSection) -> int | None:
    """Up to where results are to be left out; None while the last answer is recent, or there are none."""
    placed, droppable = prompt.placed, list(prompt.droppable)
    answers = [each.at_ms for each in placed if each.message.role == "assistant"]
    if not answers or now_ms - answers[-1] <= limits.drop_results_after_s * 1000:
        return None
    seen = 0
    for each in reversed(placed):
        if seen >= limits.keep_results:
            changed = without_results(list(placed), each.cursor, droppable) != list(placed)
            return each.cursor if changed else None
        if each.message.role == "tool":
            seen += sum(getattr(item, "name", "") in droppable for item in each.message.items)
    return None


def summary_cut(placed: Sequence[Placed], ceiling: int, limits: ContextSection) -> int | None:
    """Up to where messages are to be summed up; None if there is too little before the last ones.

    The last ``keep_messages`` stay, or as many of them as take half the room. A call stays with its results.
    """
    number, room = len(placed), ceiling // 2
    while number and len(placed) - number < limits.keep_messages:
        room -= of_messages([placed[number - 1].message])
        if room < 0 and number < len(placed):
            break
        number -= 1
    number = _whole(placed, number)
    before = [each for each in placed[:number] if each.kind != "summary"]
    return placed[number - 1].cursor if len(before) >= SUMMED_UP_MIN else None


def snip_cut(prompt: Prompt, target: int, keep: int) -> int | None:
    """Up to where the oldest messages are to be left out for the rest to take ``target`` tokens.

    Not the last ``keep`` messages, even if they take more; None if nothing can be left out.
    """
    placed = prompt.placed
    latest = _whole(placed, max(len(placed) - keep, 0))
    left = prompt.overhead + of_messages(each.message for each in placed)
    number = 0
    while number < latest and left > target:
        left -= of_messages([placed[number].message]) if placed[number].kind != "summary" else 0
        number += 1
    # Never more than may go, and never the results of a call that stays.
    number = min(_onward(placed, number), latest)
    if number == 0:
        return None
    upto = placed[number - 1].cursor
    return upto if snipped(list(placed), upto) != list(placed) else None


def _whole(placed: Sequence[Placed], number: int) -> int:
    """The next place at or before ``number`` at which a transcript may be cut."""
    while 0 < number < len(placed) and not _apart(placed, number):
        number -= 1
    return number


def _onward(placed: Sequence[Placed], number: int) -> int:
    """The next place at or after ``number`` at which a transcript may be cut."""
    while 0 < number < len(placed) and not _apart(placed, number):
        number += 1
    return number


def _apart(placed: Sequence[Placed], number: int) -> bool:
    """Whether a message can be told from the one before it by its cursor, and needs no call of it."""
    return placed[number].message.role != "tool" and placed[number].cursor > placed[number - 1].cursor


def after(prompt: Prompt, step: Step, summary: str = "") -> int:
    """The tokens that are shown after a step: as many fewer as the estimates of before and after differ."""
    before, left = estimates(prompt, step, summary)
    return -(-prompt.tokens * left // before) if before else 0


def estimates(prompt: Prompt, step: Step, summary: str = "") -> tuple[int, int]:
    """The tokens of everything before a step and after it, both estimated."""
    placed = list(prompt.placed)
    before = prompt.overhead + of_messages(each.message for each in placed)
    match step:
        case LeaveOutResults(upto):
            placed = without_results(placed, upto, list(prompt.droppable))
        case SumUp(upto):
            placed = summed_up(placed, upto, 0, summary)
        case Snip(upto):
            placed = snipped(placed, upto)
    return before, prompt.overhead + of_messages(each.message for each in placed)
