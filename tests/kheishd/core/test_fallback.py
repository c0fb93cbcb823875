"""The routes and keys of a run, and the failures that move it on."""

import pytest

from kheishd.core.fallback import (
    concerns_key,
    falls_over,
    has_chain,
    join_failures,
    list_candidates,
    use_candidate,
    use_route,
)
from protocol.budget import Prices
from protocol.limits.route import MAX_CHAIN_FAILURE_BYTES
from protocol.objects.run import Pinned, PinnedRoute, RunError

PRICES = Prices(currency="EUR", input=1, output=2)
PINNED = Pinned(
    route="a",
    driver="openai",
    model="m",
    auth_ref="env:A1",
    auth_refs=["env:A1", "env:A2"],
    workspace="/w",
    fallbacks=[PinnedRoute(route="b", driver="google", model="n", auth_ref="env:B", prices=PRICES)],
)


def test_candidates() -> None:
    """Each key of each route is a candidate, in order; its values replace those of the run's route."""
    candidates = list_candidates(PINNED)
    assert [candidate.name for candidate in candidates] == ["a (env:A1)", "a (env:A2)", "b"]
    second, other = (use_candidate(PINNED, candidate) for candidate in candidates[1:])
    assert (second.route, second.auth_ref, second.workspace) == ("a", "env:A2", "/w")
    assert (other.route, other.driver, other.auth_ref, other.prices) == ("b", "google", "env:B", PRICES)
    assert (other.auth_refs, other.fallbacks, other.workspace) == ([], PINNED.fallbacks, "/w")


def test_a_run_with_one_route() -> None:
    """A run with one route and one key has no chain."""
    simple = Pinned(route="a", driver="openai", model="m", auth_ref="env:A")
    assert [has_chain(simple), has_chain(PINNED)] == [False, True]
    assert use_route(simple, None) is simple


def test_the_route_that_answered_last() -> None:
    """A run continues with the route that answered last, as it pinned it."""
    assert use_route(PINNED, "b").model == "n"
    assert use_route(PINNED, "a") is PINNED
    assert use_route(PINNED, "unknown") is PINNED


@pytest.mark.parametrize(
    ("reason", "status", "moves"),
    [
        ("rate_limited", 429, True),
        ("quota_exhausted", 429, True),
        ("rate_limited", 408, True),
        ("overloaded", 498, True),
        ("overloaded", 529, True),
        ("server_error", 500, True),
        ("server_error", 501, True),
        ("timed_out", None, True),
        ("connection_failed", None, True),
        ("overloaded", None, True),
        ("quota_exhausted", 529, True),
        ("bad_request", 503, True),
        ("context_too_long", 429, False),
        ("context_too_long", 500, False),
        ("unauthorized", 401, False),
        ("unauthorized", 403, False),
        ("bad_request", 400, False),
        ("quota_exhausted", 402, False),
        ("rate_limited", 409, False),
        ("bad_response", None, False),
        ("empty_answer", None, False),
        ("credential_missing", None, False),
        ("route_forbidden", None, False),
    ],
)
def test_failures_that_move_a_run_on(reason: str, status: int | None, moves: bool) -> None:
    """Temporary failures of a provider move a run on; mistakes and long prompts never do."""
    assert falls_over(RunError(reason, "", status)) is moves


def test_every_status() -> None:
    """Of all statuses, only 408, 429, 498 and 5xx move a run on, and none does if the prompt is too long."""
    for status in range(400, 600):
        moves = status in (408, 429, 498) or status >= 500
        for reason in ("bad_request", "unauthorized", "server_error"):
            assert falls_over(RunError(reason, "", status)) is moves
        assert not falls_over(RunError("context_too_long", "", status))


def test_failures_of_a_key() -> None:
    """Too many requests concern one key; a broken server concerns all of them."""
    errors = [RunError("rate_limited", "", 429), RunError("quota_exhausted", "", 429), RunError("x", "", 503)]
    assert list(map(concerns_key, errors)) == [True, True, False]


def test_the_error_of_a_chain() -> None:
    """The error lists each route, shortened; its reason says whether a later attempt may help."""
    failures = [("a", "busy"), ("b", "x" * 1000)]
    error = join_failures(RunError("server_error", "down", 503, retryable=True), failures)
    assert (error.reason, error.status, error.retryable) == ("routes_failed", 503, True)
    assert "a: busy; b: xxx" in error.message
    assert len(error.message) < MAX_CHAIN_FAILURE_BYTES + 100
    assert join_failures(RunError("unauthorized", "no", 401), failures).reason == "unauthorized"
