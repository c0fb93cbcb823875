"""The skills of a runtime: a catalogue of the discovered ones, and the text of each. Types only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from protocol.errors.skill import SkillNotFound
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kheishd.core.skill import ParsedSkill
    from protocol.objects.skill import Skill


class Catalogue(Value, frozen=True):
    """Skills by name, in the order of their names, and the problems of bad files, each with its line."""

    skills: Mapping[str, Skill] = {}
    warnings: tuple[str, ...] = ()


class Skills(Protocol):
    """The skills of one configuration.

    ``workspaces`` are trusted directories whose own skills count as well, the nearest first.
    """

    @property
    def warnings(self) -> Sequence[str]:
        """The problems of the daemon's skills that the last scan found; none before the first one."""
        ...

    @property
    def scanned(self) -> Mapping[str, Skill] | None:
        """The daemon's skills that the last scan found, by name; None before the first one."""
        ...

    def catalogue(self, workspaces: Sequence[str] = (), *, fresh: bool = False) -> Catalogue:
        """Return the skills of the last scan; scan roots that never were.

        ``fresh`` looks for new and removed skills first. It blocks, for microseconds if there are none.
        """
        ...

    async def refresh(self, workspaces: Sequence[str] = ()) -> None:
        """Find new and removed skills, in a thread if there are any. Changed files are not noticed."""
        ...

    def reload(self) -> Catalogue:
        """Read everything again that has changed, in a thread of the caller; return the daemon's skills."""
        ...

    def read(self, skill: Skill) -> ParsedSkill:
        """Return the current text of a skill. Errors: SkillUnusable."""
        ...


class NoSkills:
    """The skills of a runtime without any."""

    warnings: Sequence[str] = ()
    scanned: Mapping[str, Skill] | None = None

    def catalogue(self, workspaces: Sequence[str] = (), *, fresh: bool = False) -> Catalogue:
        """Return the empty catalogue."""
        return Catalogue()

    async def refresh(self, workspaces: Sequence[str] = ()) -> None:
        """Find nothing."""

    def reload(self) -> Catalogue:
        """Return the empty catalogue."""
        return Catalogue()

    def read(self, skill: Skill) -> ParsedSkill:
        """Refuse. Errors: SkillNotFound."""
        raise SkillNotFound
