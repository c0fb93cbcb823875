"""When to make a failed model call again, and how much of an answer is kept. Pure."""

import msgspec
from msgspec.structs import replace

from protocol.limits.call import MAX_CALL_OVERHEAD_BYTES
from protocol.transcript import Item, Text, Thinking, ToolCall


def retry_at_ms(
    *,
    now_ms: int,
    attempt: int,
    max_attempts: int,
    backoff_s: float,
    max_backoff_s: float,
    retry_after_s: float | None,
    max_retry_after_s: float,
    jitter: float,
) -> int | None:
    """When attempt ``attempt`` (from 1), which failed in a way that may pass, is to be followed by another.

    The pause doubles with every attempt; ``jitter`` (0 to 1) takes up to half of it away, so that many
    that failed together do not come back together. What the provider asks for (``retry_after_s``) is
    waited in full.

    Shape:  Unix milliseconds; None when there were enough attempts, or the provider asks for more
            patience than ``max_retry_after_s`` or for what is no time at all.
    """
    if attempt >= max_attempts:
        return None
    if retry_after_s is not None:
        patient = 0 <= retry_after_s <= max_retry_after_s
        return now_ms + round(retry_after_s * 1000) if patient else None
    # 64 doublings are more than any ceiling; more would be more than a float can hold.
    pause = min(backoff_s * 2.0 ** min(attempt - 1, 64), max_backoff_s)
    return now_ms + round(pause * (1 - jitter / 2) * 1000)


def fitted(items: list[Item], max_bytes: int) -> tuple[list[Item], bool]:
    """The items as far as they fit into ``max_bytes`` bytes of JSON, and whether anything was left out.

    Text is cut between characters, and so is thinking that nobody signed; everything else is kept whole
    or not at all: half a signed thought is no longer what was signed. A call takes the room of its place in
    the run's record and of a short result too, as it may not stand without one.
    """
    kept: list[Item] = []
    room = max_bytes
    for item in items:
        size = _size(item)
        if size > room:
            return [*kept, *_cut(item, room)], True
        kept.append(item)
        # A comma stands between items.
        room -= size + 1
    return kept, False


def room_of(items: list[Item]) -> int:
    """What some items take of the transaction of their message, calls with what they need besides."""
    return sum(_size(item) + 1 for item in items)


def _size(item: Item) -> int:
    size = len(msgspec.json.encode(item))
    return size + MAX_CALL_OVERHEAD_BYTES if isinstance(item, ToolCall) else size


def _cut(item: Item, room: int) -> list[Item]:
    if not isinstance(item, Text | Thinking) or (isinstance(item, Thinking) and _sealed(item)):
        return []
    shortest, longest = 0, len(item.text)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if len(msgspec.json.encode(replace(item, text=item.text[:middle]))) <= room:
            shortest = middle
        else:
            longest = middle - 1
    return [replace(item, text=item.text[:shortest])] if shortest else []


def _sealed(item: Thinking) -> bool:
    return item.signature is not None or item.redacted
