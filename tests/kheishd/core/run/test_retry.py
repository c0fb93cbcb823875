"""When a call is made again, and how much of an answer is kept."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.run.retry import fitted, retry_at_ms
from protocol.limits.call import MAX_CALL_OVERHEAD_BYTES
from protocol.transcript import AssetReference, Item, Text, Thinking, ToolCall


def at(attempt: int = 1, **changes: Any) -> int | None:
    """When to try again, with patience for four attempts, from time 0."""
    usual = {
        "now_ms": 0,
        "max_attempts": 4,
        "backoff_s": 1.0,
        "max_backoff_s": 60.0,
        "retry_after_s": None,
        "max_retry_after_s": 3600.0,
        "jitter": 0.0,
    }
    return retry_at_ms(attempt=attempt, **(usual | changes))


def test_the_pause_doubles_until_its_ceiling() -> None:
    """1, 2, 4 seconds and so on, never more than the ceiling, however many attempts there were."""
    assert [at(n, max_attempts=100) for n in (1, 2, 3, 6, 7, 99)] == [1000, 2000, 4000, 32000, 60000, 60000]
    assert at(5000, max_attempts=10_000) == 60_000


def test_enough_attempts_are_enough() -> None:
    """The last of them is not followed by another, whatever the provider asks for."""
    assert at(3) == 4000
    assert at(4) is None
    assert at(9) is None
    assert at(4, retry_after_s=1.0) is None


@given(st.floats(0, 1), st.integers(1, 50))
def test_jitter_takes_up_to_half_of_the_pause_away(jitter: float, attempt: int) -> None:
    """So that many that failed together do not come back together."""
    full, some = at(attempt, max_attempts=100), at(attempt, max_attempts=100, jitter=jitter)
    assert full is not None
    assert some is not None
    assert full / 2 <= some <= full


def test_what_the_provider_asks_for_is_waited_in_full() -> None:
    """Jitter takes nothing of it away; more patience than there is means no other attempt."""
    assert at(1, now_ms=500, retry_after_s=90.5, jitter=1.0) == 91_000
    assert at(1, retry_after_s=3600.0) == 3_600_000
    assert at(1, retry_after_s=3600.1) is None
    assert at(1, retry_after_s=0.0) == 0


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -1.0])
def test_what_is_no_time_is_not_waited_for(nonsense: float) -> None:
    """A provider that asks for no time at all in this sense is not asked again."""
    assert at(1, retry_after_s=nonsense) is None


def size(items: list[Item]) -> int:
    """The bytes of some items as a list of JSON."""
    return len(msgspec.json.encode(items))


def test_what_fits_is_kept_as_it_is() -> None:
    """Nothing is copied or changed when there is room."""
    items: list[Item] = [Thinking("hm", "signed"), Text("hello"), ToolCall("c", "t", {})]
    assert fitted(items, 1_000) == (items, False)
    assert fitted([], 0) == ([], False)


@pytest.mark.parametrize("text", ["aaaaaaaaaa", "ääääääääää", "😀😀😀😀😀", '""""""""""', "\n\x00\n\x00\n"])
def test_text_is_cut_between_characters_to_the_byte(text: str) -> None:
    """As much as fits in JSON, escapes and all; one character more would not."""
    whole = size([Text(text)]) - 2
    for room in range(whole + 2):
        kept, cut = fitted([Text(text)], room)
        assert cut == (room < whole)
        got = kept[0].text if kept and isinstance(kept[0], Text) else ""
        assert text.startswith(got)
        assert not kept or size(kept) - 2 <= room
        if cut:
            assert size([Text(text[: len(got) + 1])]) - 2 > room


def test_signed_thinking_and_calls_are_kept_whole_or_not_at_all() -> None:
    """Half of what was signed is refused by who signed it; half a call is no call."""
    for whole in (
        Thinking("x" * 100, "signed"),
        Thinking("x" * 100, redacted=True),
        ToolCall("c", "t" * 100, {}),
    ):
        assert fitted([whole], 110) == ([], True)
    assert fitted([AssetReference("a" * 100)], 50) == ([], True)
    kept, cut = fitted([Thinking("x" * 100)], 60)
    assert cut
    assert isinstance(kept[0], Thinking)
    assert 0 < len(kept[0].text) < 100


def test_a_call_takes_the_room_of_its_result_too() -> None:
    """A call whose result would not fit is left out, for it may not stand without one."""
    call = ToolCall("c", "t", {})
    room = size([call]) - 2 + MAX_CALL_OVERHEAD_BYTES
    assert fitted([call], room) == ([call], False)
    assert fitted([call], room - 1) == ([], True)


ITEMS = st.lists(
    st.one_of(
        st.builds(Text, st.text(max_size=40)),
        st.builds(Thinking, st.text(max_size=40), st.none() | st.just("signed")),
        st.builds(ToolCall, st.text(max_size=8), st.text(max_size=8), st.just({"a": 1})),
    ),
    max_size=6,
)


@given(ITEMS, st.integers(0, 2_000))
def test_what_is_kept_is_a_beginning_and_within_its_limit(items: list[Item], room: int) -> None:
    """In order, whole but for the last, and never over the limit."""
    kept, cut = fitted(items, room)
    assert not kept or size(kept) - 2 <= room
    assert cut or kept == items
    assert kept[:-1] == items[: len(kept) - 1 if kept else 0]
