"""Cooldowns of keys and routes."""

from trio.testing import MockClock

from kheishd.kernel.cooldowns import Cooldowns
from protocol.limits.route import (
    DEFAULT_COOLDOWN_SECONDS,
    MAX_COOLDOWN_SECONDS,
    MAX_PROVIDER_COOLDOWN_SECONDS,
)
from protocol.objects.route import Cooldown
from protocol.objects.run import RunError

BUSY = RunError("rate_limited", "busy", 429)
DOWN = RunError("server_error", "down", 503)


async def test_a_cooldown_doubles(autojump_clock: MockClock) -> None:
    """Each failure in a row doubles the cooldown, up to its limit; an answer forgets them."""
    cooldowns = Cooldowns()
    seconds = []
    for _ in range(8):
        cooldowns.note_failure("r", "k", BUSY, None)
        seconds.append(round(cooldowns.remaining_s("r", "k"), 6))
        autojump_clock.jump(seconds[-1])
    assert seconds[:3] == [DEFAULT_COOLDOWN_SECONDS * factor for factor in (1, 2, 4)]
    assert seconds[-1] == MAX_COOLDOWN_SECONDS
    assert cooldowns.remaining_s("r", "k") == 0
    cooldowns.note_answer("r", "k")
    cooldowns.note_failure("r", "k", BUSY, None)
    assert round(cooldowns.remaining_s("r", "k"), 6) == DEFAULT_COOLDOWN_SECONDS


async def test_runs_that_fail_together(autojump_clock: MockClock) -> None:
    """Failures side by side are one; after a long time without one, the count begins anew."""
    cooldowns = Cooldowns()
    for _ in range(50):
        cooldowns.note_failure("r", None, DOWN, None)
    assert cooldowns.remaining_s("r", None) == DEFAULT_COOLDOWN_SECONDS
    autojump_clock.jump(DEFAULT_COOLDOWN_SECONDS + MAX_COOLDOWN_SECONDS + 1)
    cooldowns.note_failure("r", None, DOWN, None)
    assert cooldowns.list_current("r", 0)[0].failures == 1


async def test_the_provider_says_how_long(autojump_clock: MockClock) -> None:
    """The provider's own delay is respected, up to an hour; none at all is no cooldown."""
    cooldowns = Cooldowns()
    for delay, expected in ((0.0, 0.0), (20.0, 20.0), (1e9, MAX_PROVIDER_COOLDOWN_SECONDS)):
        cooldowns.note_failure("r", "k", BUSY, delay)
        assert cooldowns.remaining_s("r", "k") == expected


async def test_a_repair_ends_a_cooldown(autojump_clock: MockClock) -> None:
    """A route with other settings, or a key with another value, has not failed."""
    values: dict[str | None, int] = {"k": 1, None: 1}
    cooldowns = Cooldowns(lambda route, auth_ref: (route, values[auth_ref]))
    cooldowns.note_failure("r", "k", BUSY, 600.0)
    cooldowns.note_failure("r", None, DOWN, 60.0)
    assert cooldowns.remaining_s("r", "k") == 600
    values["k"] = 2
    assert cooldowns.remaining_s("r", "k") == 60
    values[None] = 2
    assert (cooldowns.remaining_s("r", "k"), cooldowns.list_current("r", 0)) == (0, [])
    cooldowns.note_failure("r", "k", BUSY, None)
    assert cooldowns.list_current("r", 0)[0].failures == 1


async def test_keys_and_routes(autojump_clock: MockClock) -> None:
    """A busy key is passed over alone; a broken server with all keys of its route."""
    cooldowns = Cooldowns()
    cooldowns.note_failure("r", "k1", BUSY, 10.0)
    assert [cooldowns.remaining_s("r", key) > 0 for key in ("k1", "k2")] == [True, False]
    assert cooldowns.list_current("r", 1_000) == [
        Cooldown(reason="rate_limited", failures=1, until_ms=11_000, auth_ref="k1")
    ]
    cooldowns.note_failure("r", "k1", DOWN, None)
    assert cooldowns.remaining_s("r", "k2") == DEFAULT_COOLDOWN_SECONDS
    assert cooldowns.list_current("other", 0) == []
