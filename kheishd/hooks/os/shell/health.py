"""The health of the sandbox: whether it has worked in this home, and how its last trial ended.

It lives as long as the daemon, so that neither a reload nor a read of the daemon's status has to try the
sandbox again. Every real trial updates it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from protocol.objects.daemon import SandboxStatus

if TYPE_CHECKING:
    from pathlib import Path

    from kheishd.config.sections.workspace import WorkspaceSection

log = logging.getLogger("kheishd.sandbox")

MARK_NAME: Final = ".sandbox"
"""The name of the mark in the daemon's home. Remove it to permit commands without a sandbox again."""


class SandboxHealth:
    """The results of the trials of one home's sandbox. The mark exists once the sandbox has worked."""

    def __init__(self, home: Path) -> None:
        self._mark = home / MARK_NAME
        self._worked = False
        self._tried = False
        self._problem: str | None = None
        self._logged: SandboxStatus | None = None

    @property
    def has_worked(self) -> bool:
        """Whether the sandbox has worked in this home: it is required since."""
        return self._worked or self._mark.exists()

    def record(self, problem: str | None) -> None:
        """Record the result of a trial; None is a success. Log it if it differs from the previous one."""
        if self._tried and problem == self._problem:
            return
        self._tried, self._problem = True, problem
        if problem is not None:
            log.warning("the sandbox of commands does not work", extra={"problem": problem})
            return
        log.info("the sandbox of commands works")
        self._worked = True
        # Without the mark, as on a full disk, the sandbox is required as long as this daemon runs.
        with suppress(OSError):
            self._mark.touch(mode=0o600)

    def describe(self, workspace: WorkspaceSection) -> SandboxStatus:
        """Return the state of the sandbox under a configuration. Tries nothing."""
        mode, problem = workspace.sandbox, self._problem or ""
        if mode == "off":
            asks = self.has_worked and workspace.unsandboxed == "ask"
            note = "commands ran in a sandbox before, so a person approves each one outside" if asks else ""
            return SandboxStatus(state="off", mode=mode, network="open", problem=note)
        network = workspace.network
        if not self._tried:
            return SandboxStatus(state="untested", mode=mode, network=network)
        if not problem:
            return SandboxStatus(state="works", mode=mode, network=network)
        if mode == "required" or self.has_worked:
            return SandboxStatus(state="required", mode=mode, network=network, problem=problem)
        return SandboxStatus(state="unavailable", mode=mode, network="open", problem=problem)

    def log_state(self, workspace: WorkspaceSection) -> None:
        """Log the state under a configuration if it differs from the state logged before."""
        status = self.describe(workspace)
        if status != self._logged:
            self._logged = status
            level = logging.INFO if status.state == "works" else logging.WARNING
            log.log(
                level,
                "the state of the sandbox of commands is '%s'",
                status.state,
                extra={"mode": status.mode, "network": status.network, "problem": status.problem or None},
            )
