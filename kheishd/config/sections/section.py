"""The base of all sections of ``config.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta, Struct

from protocol.limits.budget import MAX_MICROS
from protocol.limits.names import MAX_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.config.toml import KeyPath
    from kheishd.config.validation import Problem

DAY_SECONDS = 24 * 3600
YEAR_SECONDS = 366 * DAY_SECONDS

Pause = Annotated[float, Meta(ge=0, le=DAY_SECONDS)]
Timeout = Annotated[float, Meta(gt=0, le=DAY_SECONDS)]
Age = Annotated[float, Meta(ge=0, le=YEAR_SECONDS)]
# The system's functions reject a NUL character in a path.
FilePath = Annotated[str, Meta(pattern=r"^[^\x00]+$", max_length=MAX_PATH_BYTES)]
Money = Annotated[float, Meta(ge=0, le=MAX_MICROS // 1_000_000)]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of ``config.toml``: its fields are the keys, their defaults apply to absent keys.

    The string below a field describes the key; ``contrib/generate`` writes it into the table of settings.
    """

    KEY_HINTS: ClassVar[Mapping[str, str]] = {}
    """The remedies for keys that do not exist, but that people expect."""

    def find_problems(self, path: KeyPath) -> Iterator[Problem]:
        """Yield the problems that the types cannot express; ``path`` is the section's own."""
        yield from ()
