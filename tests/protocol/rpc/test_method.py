"""The params that all methods share."""

import pytest

from protocol.limits.names import MAX_IDEMPOTENCY_KEY_BYTES
from protocol.limits.page import DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS
from protocol.rpc.method import SCOPES, Method, Mutation, Page, Params
from tests.support.samples import refuse, take


class Rename(Mutation, frozen=True, kw_only=True):
    """Params of a mutation."""

    title: str


def test_params_are_strict() -> None:
    """An unknown field is refused and named, in every kind of params."""
    for kind in (Params, Mutation, Page):
        assert refuse(kind, {"color": "red"}) == "$.params.color"


def test_mutation_takes_a_key_and_check() -> None:
    """Every mutation accepts an idempotency key and ``check``."""
    assert take(Rename, {"title": "x"}) == Rename(title="x", idempotency_key=None, check=False)
    given = take(Rename, {"title": "x", "idempotency_key": "k", "check": True})
    assert (given.idempotency_key, given.check) == ("k", True)


@pytest.mark.parametrize("key", ["", "x" * (MAX_IDEMPOTENCY_KEY_BYTES + 1), 5])
def test_key_has_a_length(key: object) -> None:
    """A key is neither empty nor over its limit."""
    assert refuse(Rename, {"title": "x", "idempotency_key": key}) == "$.params.idempotency_key"


def test_page() -> None:
    """A list has a limit and continues after a page."""
    assert take(Page, {}).limit == DEFAULT_PAGE_ROWS
    assert take(Page, {"limit": MAX_PAGE_ROWS, "after": "x"}).after == "x"


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE_ROWS + 1, 1.5, "5"])
def test_page_limit(limit: object) -> None:
    """A limit over the maximum is refused."""
    assert refuse(Page, {"limit": limit}) == "$.params.limit"


def test_page_after_is_short() -> None:
    """A page token over its length is refused."""
    assert refuse(Page, {"after": "x" * 2000}) == "$.params.after"


def test_method_defaults() -> None:
    """A row requires the scope read by default."""
    row = Method("a.b", "query", Params, dict, "Do nothing.")
    assert (row.scope, row.errors, row.since, row.uncompared, row.secret) == ("read", (), "0.1", (), None)
    assert row.scope in SCOPES
