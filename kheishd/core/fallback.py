"""The routes and keys that a run may ask, in order, and the failures after which it asks the next one. Pure.

A failure moves a run on if another provider, or another key, may well succeed where this one could not:
status 429 and 408, every 5xx (529 among them), no capacity, a timeout, a connection that failed. A prompt
that is too long, a refused key and a bad request are the operator's to repair: another route would only hide
them. An answer that has begun is repeated at its own route.
"""

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from protocol.limits.route import MAX_CHAIN_FAILURE_BYTES
from protocol.objects.run import Pinned, PinnedRoute, RunError
from protocol.structs import Value, fields_of
from protocol.text import truncate

_TEMPORARY: Final = frozenset(
    ("rate_limited", "overloaded", "server_error", "timed_out", "connection_failed")
)

_MOVING_STATUSES: Final = frozenset((408, 429, 498))
"""Those of 4xx that say "not now": a timeout, too many requests, and no capacity (Groq)."""


class Candidate(Value, frozen=True):
    """A route with one of its keys."""

    route: PinnedRoute
    auth_ref: str | None

    @property
    def name(self) -> str:
        """The route, and the key of a route with several."""
        return f"{self.route.route} ({self.auth_ref})" if self.route.auth_refs else self.route.route


def has_chain(pinned: Pinned) -> bool:
    """Whether a run may ask more than one route or key."""
    return bool(pinned.fallbacks or pinned.auth_refs)


def list_candidates(pinned: Pinned) -> list[Candidate]:
    """Return all routes and keys of a run as it was accepted, in order."""
    routes = [PinnedRoute(**fields_of(PinnedRoute, pinned)), *pinned.fallbacks]
    return [Candidate(route, key) for route in routes for key in (*route.auth_refs,) or (route.auth_ref,)]


def use_candidate(pinned: Pinned, candidate: Candidate) -> Pinned:
    """Return the values of a run that asks this route with this key."""
    fields = fields_of(PinnedRoute, candidate.route)
    return replace(pinned, **{**fields, "auth_ref": candidate.auth_ref})


def use_route(pinned: Pinned, route_id: str | None) -> Pinned:
    """Return the values of a run whose route answered last; None: the one that it pinned."""
    if route_id is None or route_id == pinned.route:
        return pinned
    routes = (route for route in pinned.fallbacks if route.route == route_id)
    return next((use_candidate(pinned, Candidate(route, route.auth_ref)) for route in routes), pinned)


def falls_over(error: RunError) -> bool:
    """Whether the next route or key is asked after a failure without any part of an answer."""
    if error.reason == "context_too_long":
        return False
    if error.status is not None and error.status >= 400:
        return error.status >= 500 or error.status in _MOVING_STATUSES
    return error.reason in _TEMPORARY


def concerns_key(error: RunError) -> bool:
    """Whether a failure says something about the key alone, and not about the whole route."""
    return error.status == 429 or error.reason == "rate_limited"


def join_failures(error: RunError, failures: Iterable[tuple[str, str]]) -> RunError:
    """Return the error of a run none of whose routes answered: each with its failure, the last one's reason.

    ``routes_failed`` is the reason if another attempt later may succeed.
    """
    parts = (f"{name}: {truncate(message, MAX_CHAIN_FAILURE_BYTES)}" for name, message in failures)
    reason = "routes_failed" if falls_over(error) else error.reason
    message = f"no route of the chain answered: {'; '.join(parts)}"
    return RunError(reason, message, error.status, error.retryable)
