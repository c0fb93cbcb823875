"""Pages: their limits and their tokens."""

from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kheishd.kernel.call import Call, Caller
from kheishd.kernel.state import State
from kheishd.objects.pages import PageTokens, cursor_after, id_after, page_of
from kheishd.store.writer import Store
from protocol.errors.rpc import InvalidParams
from protocol.ids import ID_PATTERN
from protocol.limits.page import MAX_PAGE_BYTES, MAX_PAGE_EXAMINED_ROWS, MAX_PAGE_MS


def rows(size: int, start: int = -1) -> Iterator[tuple[tuple[str, int], int]]:
    """Yield numbered rows after a number."""
    return ((("s", number), number) for number in range(start + 1, size))


@given(st.integers(0, 60), st.integers(1, 20), st.sets(st.integers(0, 60)))
def test_pages_join_without_a_gap(size: int, limit: int, accepted: set[int]) -> None:
    """Every accepted row is on exactly one page, in order, whatever the limit."""
    collected: list[int] = []
    last = -1
    while True:
        page, following = page_of(rows(size, last), limit, accepted.__contains__)
        assert len(page) <= limit
        collected += page
        if following is None:
            break
        last = int(following)
    assert collected == [number for number in range(size) if number in accepted]


def test_a_page_ends_at_a_mebibyte() -> None:
    """A page ends at a mebibyte, whatever the limit."""
    large = "x" * (MAX_PAGE_BYTES // 4)
    page, following = page_of((((number,), large) for number in count()), 500, lambda row: True)
    assert (len(page), following) == (4, "3")
    # As JSON: a control character is one byte in a record and six on the wire.
    escaped = "\x01" * (MAX_PAGE_BYTES // 24 + 1)
    page, following = page_of((((number,), escaped) for number in count()), 500, lambda row: True)
    assert (len(page), following) == (4, "3")


def test_a_page_ends_when_enough_was_examined() -> None:
    """A page ends after 5,000 examined rows, even empty, with a token; missing rows are skipped."""
    endless: Iterator[tuple[tuple[int], int | None]] = (((number,), None) for number in count())
    assert page_of(endless, 50, lambda row: True) == ([], str(MAX_PAGE_EXAMINED_ROWS - 1))
    numbers = (((number,), number) for number in count())
    assert page_of(numbers, 50, lambda row: False) == ([], str(MAX_PAGE_EXAMINED_ROWS - 1))


def test_a_page_ends_when_it_took_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends after 30 ms of work."""
    worked = 0.0

    def heavy() -> Iterator[tuple[tuple[int], int]]:
        nonlocal worked
        for number in count():
            worked += 0.0005
            yield (number,), number

    monkeypatch.setattr("kheishd.objects.pages.time.thread_time", lambda: worked)
    page, following = page_of(heavy(), 500, lambda row: row % 2 == 0)
    assert following is not None
    assert MAX_PAGE_MS / 0.5 < int(following) < 2 * MAX_PAGE_MS / 0.5
    assert page == list(range(0, int(following) + 1, 2))


def test_nothing_is_read_beyond_a_page() -> None:
    """A scan stops where the page ends."""
    read: list[int] = []

    def scan() -> Iterator[tuple[tuple[int], int]]:
        for number in count():
            read.append(number)
            yield (number,), number

    page_of(scan(), 3, lambda row: True)
    assert read == [0, 1, 2]


def test_page_tokens_are_validated() -> None:
    """A page token is accepted; any other text is refused by its field."""
    assert (cursor_after(None), cursor_after("17")) == (None, 17)
    assert (id_after(None), id_after("ses_1")) == (None, "ses_1")
    for check, wrong in (
        (cursor_after, ("", "x", "-1", "1.0", "٣", "9" * 20)),
        (id_after, ("", "a b", "a\n", "a\x00", "x" * 129)),
    ):
        for token in wrong:
            with pytest.raises(InvalidParams) as refused:
                check(token)
            assert refused.value.field == "$.params.after"


def tokens_of(state: State, *, limited: bool) -> PageTokens:
    """Return the page tokens of a caller."""
    caller = Caller("token:t", frozenset(), agents=frozenset(("a",)) if limited else None)
    return PageTokens(cast("Call", SimpleNamespace(caller=caller, state=state)))


@given(text=st.from_regex(ID_PATTERN, fullmatch=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_page_tokens_of_a_limited_caller_are_encrypted(store: Store, text: str) -> None:
    """The token hides the id of the row and still leads to it."""
    state = cast("State", SimpleNamespace(store=store))
    plain, veiled = (tokens_of(state, limited=limited) for limited in (False, True))
    assert plain.token_of(("s", text)) == text == plain.id_of(text)
    mark = veiled.token_of(("s", text))
    assert len(text) < 8 or text not in mark
    assert veiled.id_of(mark) == text
    assert mark == tokens_of(state, limited=True).token_of((text,))
    # A plain id is a page token, too.
    assert veiled.id_of(text) == text
    assert (veiled.id_of(None), plain.id_of(None)) == (None, None)


@pytest.mark.parametrize("token", ["+", "+AAAA", "+" + "A" * 40, "+ü", "+=", "a b", ""])
def test_forged_page_tokens_are_refused(store: Store, token: str) -> None:
    """An encrypted token that no page returned is refused."""
    state = cast("State", SimpleNamespace(store=store))
    for limited in (True, False):
        with pytest.raises(InvalidParams) as caught:
            tokens_of(state, limited=limited).id_of(token)
        assert caught.value.field == "$.params.after"
