"""Format sizes, money, times and actors for people."""

from collections.abc import Mapping
from typing import Any

# The fields of a route's prices, each with its label.
PRICES = (("input", "in"), ("cached_input", "cached"), ("cache_write", "cache writes"), ("output", "out"))


def format_size(amount: int) -> str:
    """Format a number of bytes: ``512 B``, ``1.4 MiB``."""
    value = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_count(amount: int) -> str:
    """Format a count, such as one of tokens, in at most three digits: ``950``, ``9.5k``, ``120k``."""
    value, unit = float(amount), ""
    for larger in ("k", "M", "G"):
        # A value that would be rounded to four digits takes the next unit.
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"


def format_money(amount: Mapping[str, Any] | None) -> str | None:
    """Format an amount of money: ``0.012345 USD``, ``3.00 USD``; None stays None."""
    if amount is None:
        return None
    whole, micros = divmod(int(amount["micros"]), 1_000_000)
    cents, rest = divmod(micros, 10_000)
    return f"{whole}.{cents:02d}{f'{rest:04d}'.rstrip('0')} {amount['currency']}"


def format_prices(prices: Mapping[str, Any]) -> str:
    """Format the prices of a million tokens: ``3.00 USD in, 0.30 USD cached, 15.00 USD out``."""
    amounts = [(prices[name], label) for name, label in PRICES if prices.get(name) is not None]
    currency = prices["currency"]
    return ", ".join(f"{format_money({'micros': n, 'currency': currency})} {label}" for n, label in amounts)


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units: ``4.0 s``, ``3 min 5 s``, ``2 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    rest = int(seconds)
    parts: list[tuple[int, str]] = []
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or parts:
            parts.append((count, name))
    return " ".join(f"{count} {name}" for count, name in parts[:2] if count)


def format_age(at_ms: int, now_ms: int) -> str:
    """Format a time relative to now, in one unit: ``3 min ago``, or ``in 2 h`` for a future time."""
    seconds = (now_ms - at_ms) / 1000
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= length:
            count = int(abs(seconds) // length)
            return f"{count} {name} ago" if seconds > 0 else f"in {count} {name}"
    return "now" if abs(seconds) < 1 else f"{seconds:.0f} s ago" if seconds > 0 else f"in {-seconds:.0f} s"


def format_utc(at_ms: int) -> str:
    """Format a time for machines: ISO 8601 in UTC with milliseconds."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def format_local(at_ms: int) -> str:
    """Format a time for people: local date and time with seconds."""
    from datetime import datetime

    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_actor(actor: str) -> str:
    """Return the login name of an actor ``uid:N`` if it has one, else the actor; not yet sanitized."""
    kind, _, number = actor.partition(":")
    if kind != "uid" or not number.isdecimal():
        return actor
    import pwd

    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, OverflowError):
        return actor
