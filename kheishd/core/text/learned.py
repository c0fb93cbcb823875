"""The secrets that a daemon has learned, which it redacts: the current ones, and former ones within limits.

A former secret is still redacted, because a provider or a file may repeat it. Tokens that are renewed every
hour would fill the memory, though, and slow down every search. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Former tokens of a week that are renewed every hour, or four former values of the maximum size.
MAX_FORMER: Final = 200
MAX_FORMER_CHARACTERS: Final = 256 * 1024


class LearnedSecrets:
    """Secrets in the order in which they were learned."""

    def __init__(self) -> None:
        self._secrets: dict[str, None] = {}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the secrets, oldest first."""
        return iter(self._secrets)

    def learn(self, secrets: Iterable[str], current: Iterable[str]) -> bool:
        """Add secrets, and forget the oldest of those that are neither new nor current beyond the limits.

        Return whether anything has changed.
        """
        new = dict.fromkeys(secrets)
        has_changed = not new.keys() <= self._secrets.keys()
        self._secrets |= new
        former = list(self._secrets.keys() - new.keys() - set(current))
        if len(former) <= MAX_FORMER and sum(map(len, former)) <= MAX_FORMER_CHARACTERS:
            return has_changed
        kept = characters = 0
        unused = set(former)
        for secret in reversed(list(self._secrets)):
            if secret in unused:
                kept += 1
                characters += len(secret)
                if kept > MAX_FORMER or characters > MAX_FORMER_CHARACTERS:
                    del self._secrets[secret]
        return True
