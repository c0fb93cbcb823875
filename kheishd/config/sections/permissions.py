"""``[permissions]``: the managed rules and modes."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from kheishd.config.sections.section import Section
from kheishd.config.toml import KeyPath
from kheishd.config.validation import Problem
from protocol.audience import find_audience_problem
from protocol.limits.permission import MAX_RULES
from protocol.objects.permission import MODES, PermissionMode, Rule


class PermissionsSection(Section, frozen=True):
    """``[permissions]``: the broadest layer of rules."""

    mode: PermissionMode = "default"
    """Permission mode of sessions and agents that set none, see `contrib/docs/permissions.md`."""

    max_mode: PermissionMode = "bypassPermissions"
    """Widest permission mode of any session."""

    protected: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=MAX_RULES)] = []
    """More paths, such as `deploy/*`, whose edits a person approves even in the mode `acceptEdits`."""

    rules: Annotated[list[Rule], Meta(max_length=MAX_RULES)] = []
    """The broadest rules: `tool` and `decision`, optionally `subject`, `origin`, `note` and `audience`."""

    def find_problems(self, path: KeyPath) -> Iterator[Problem]:
        """Yield the problems that the types cannot express."""
        if MODES.index(self.mode) > MODES.index(self.max_mode):
            yield Problem((*path, "mode"), f"wider than max_mode ({self.max_mode})")
        for index, rule in enumerate(self.rules):
            problem = find_audience_problem(rule.decision, rule.audience)
            if problem is not None:
                yield Problem((*path, "rules", index, "audience"), problem)
