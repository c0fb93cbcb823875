"""When to make a failed model call again, and how much of an answer is kept. Pure."""

import msgspec
from msgspec.structs import replace

from protocol.transcript import Item, Text, Thinking


def retry_at_ms(
    *,
    now_ms: int,
    attempt: int,
    attempts_max: int,
    backoff_s: float,
    backoff_max_s: float,
    retry_after_s: float | None,
    retry_after_max_s: float,
    jitter: float,
) -> int | None:
    """When attempt ``attempt`` (from 1), which failed in a way that may pass, is to be followed by another.

    The pause doubles with every attempt; ``jitter`` (0 to 1) takes up to half of it away, so that many
    that failed together do not come back together. What the provider asks for (``retry_after_s``) is
    waited in full.

    Shape:  Unix milliseconds; None when there were enough attempts, or the provider asks for more
            patience than ``retry_after_max_s``.
    """
    if attempt >= attempts_max:
        return None
    if retry_after_s is not None:
        return None if retry_after_s > retry_after_max_s else now_ms + round(retry_after_s * 1000)
    pause = min(backoff_s * 2.0 ** (attempt - 1), backoff_max_s)
    return now_ms + round(pause * (1 - jitter / 2) * 1000)


def fitted(items: list[Item], bytes_max: int) -> tuple[list[Item], bool]:
    """The items as far as they fit into ``bytes_max`` bytes of JSON, and whether anything was left out.

    The last text or thinking is cut between characters; a tool call is kept whole or not at all.
    """
    kept: list[Item] = []
    room = bytes_max
    for item in items:
        size = len(msgspec.json.encode(item))
        if size > room:
            return [*kept, *_cut(item, room)], True
        kept.append(item)
        room -= size
    return kept, False


def _cut(item: Item, room: int) -> list[Item]:
    if not isinstance(item, Text | Thinking):
        return []
    shortest, longest = 0, len(item.text)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if len(msgspec.json.encode(replace(item, text=item.text[:middle]))) <= room:
            shortest = middle
        else:
            longest = middle - 1
    return [replace(item, text=item.text[:shortest])] if shortest else []
