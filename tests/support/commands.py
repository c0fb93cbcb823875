"""Shell commands for tests: calls of the tool, their results, and their processes."""

import os
import select
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from kheishd.config.sections.workspace import SandboxMode
from kheishd.hooks.os.shell.tools import Bash
from kheishd.hooks.validation import Validator
from kheishd.kernel.hook import Invocation, Outcome, RunContext
from tests.support.workspaces import run_context


def context_at(workspace: Path, sandbox: SandboxMode = "off") -> RunContext:
    """Return the context of a run with this confinement."""
    return replace(run_context(workspace), sandbox=sandbox)


class Shell:
    """The tool in one workspace, with the output it ``streamed`` and the evidence it ``observed``."""

    def __init__(self, bash: Bash, context: RunContext) -> None:
        self.bash = bash
        self.context = context
        self.streamed: list[str] = []
        self.observed: list[dict[str, Any]] = []
        self._calls = 0

    def use(self, command: str, *, binding: str | None = None, **arguments: Any) -> Invocation:
        """Return a new call."""
        self._calls += 1
        call_id = f"call_{self._calls}"
        checked = Validator().validate(self.bash.bash, {"command": command, **arguments})
        return Invocation(
            self.context, call_id, self.bash.bash, checked, binding, self.streamed.append, self._observe
        )

    async def outcome(self, command: str, **arguments: Any) -> Outcome:
        """Run a command and return its outcome."""
        outcome = await self.bash.dispatch(self.use(command, **arguments))
        if outcome.evidence is not None:
            await self._observe(outcome.evidence)
        return outcome

    async def run(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Run a command and return its decoded result."""
        outcome = await self.outcome(command, **arguments)
        decoded: dict[str, Any] = msgspec.json.decode(outcome.text)
        return decoded

    async def _observe(self, evidence: Any) -> None:
        self.observed.append(dict(evidence))


def running_with(word: str) -> list[int]:
    """Return the live processes with a word in their arguments."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if word in _arguments(pid)]


def wait_for_processes(word: str, number: int, seconds: float = 20.0) -> list[int]:
    """Wait until that many processes have a word in their arguments. Errors: AssertionError."""
    deadline = time.monotonic() + seconds
    while len(pids := running_with(word)) < number:
        assert time.monotonic() < deadline, f"only {len(pids)} processes with {word}"
    return pids


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def wait_ended(pids: list[int], seconds: float = 20.0) -> bool:
    """Wait for the end of processes; return whether all ended in time."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with open(handle, "rb", buffering=0):
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
    return True
