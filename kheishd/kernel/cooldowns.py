"""The keys and routes that failed a moment ago, which runs with other routes or keys pass over. In memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from kheishd.core.fallback import concerns_key
from protocol.limits.route import (
    DEFAULT_COOLDOWN_SECONDS,
    MAX_COOLDOWN_SECONDS,
    MAX_PROVIDER_COOLDOWN_SECONDS,
)
from protocol.objects.route import Cooldown
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.objects.run import RunError


class _Failed(Value, frozen=True):
    """The failures in a row of a key or a route; ``until`` is by trio's clock, ``identity`` what failed."""

    reason: str
    failures: int
    until: float
    identity: object = None


class Cooldowns:
    """The cooldowns of a daemon, by route and key. Without a key, the whole route is meant.

    ``identify`` returns a value that changes with the settings of a route and the value of its key: a
    repaired route or key has no cooldown.
    """

    def __init__(self, identify: Callable[[str, str | None], object] = lambda route, auth_ref: None) -> None:
        self._identify = identify
        self._failed: dict[tuple[str, str | None], _Failed] = {}

    def note_failure(
        self, route: str, auth_ref: str | None, error: RunError, retry_after_s: float | None
    ) -> None:
        """Pass a key over after a failure that concerns it, or else its route.

        The provider's delay is respected; without one, the cooldown doubles with each failure in a row.
        """
        place, now = (route, auth_ref if concerns_key(error) else None), trio.current_time()
        previous = self._find(place)
        if previous is None or now - previous.until > MAX_COOLDOWN_SECONDS:
            previous = _Failed(error.reason, 0, 0.0)
        # Runs that failed side by side are one failure.
        failures = previous.failures + (previous.until <= now)
        if retry_after_s is not None:
            seconds = min(retry_after_s, MAX_PROVIDER_COOLDOWN_SECONDS)
        else:
            # 16 doublings exceed the ceiling.
            seconds = min(DEFAULT_COOLDOWN_SECONDS * 2.0 ** min(failures - 1, 16), MAX_COOLDOWN_SECONDS)
        self._failed[place] = _Failed(
            error.reason, failures, max(previous.until, now + seconds), self._identify(*place)
        )

    def note_answer(self, route: str, auth_ref: str | None) -> None:
        """Forget the failures of a key that has answered, and those of its route."""
        if self._failed:
            self._failed.pop((route, auth_ref), None)
            self._failed.pop((route, None), None)

    def remaining_s(self, route: str, auth_ref: str | None) -> float:
        """Return how long a key is passed over; 0 if it is not."""
        failed = (self._find((route, auth_ref)), self._find((route, None)))
        ends = [entry.until for entry in failed if entry is not None]
        return max(max(ends, default=0.0) - trio.current_time(), 0.0) if ends else 0.0

    def list_current(self, route: str, now_ms: int) -> list[Cooldown]:
        """Return the current cooldowns of a route; ``now_ms`` is the wall clock."""
        now = trio.current_time()
        return [
            Cooldown(
                reason=failed.reason,
                failures=failed.failures,
                until_ms=now_ms + round((failed.until - now) * 1000),
                auth_ref=auth_ref,
            )
            for (route_id, auth_ref), failed in self._failed.items()
            if route_id == route and failed.until > now and self._find((route_id, auth_ref)) is not None
        ]

    def _find(self, place: tuple[str, str | None]) -> _Failed | None:
        """Return the failures of a key or a route as it is now."""
        failed = self._failed.get(place)
        return failed if failed is not None and failed.identity == self._identify(*place) else None
