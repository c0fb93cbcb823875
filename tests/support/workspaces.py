"""Workspaces for tests: calls of file tools, and an attacker who swaps directories for links."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec

from kheishd.core.run.record import RunRecord
from kheishd.hooks.os.files.tools import Files
from kheishd.hooks.validation import Validator
from kheishd.kernel.hook import Invocation, Outcome, RunContext
from protocol.objects.run import Pinned
from protocol.objects.session import Session

ID = "0J3R5K8T1VQ6L2M9N4P7S0U3AB"


def run_context(workspace: Path, tools: list[str] | None = None) -> RunContext:
    """Return a run in a workspace, which is made, and which may use these tools, or all."""
    workspace.mkdir(parents=True, exist_ok=True)
    session = Session(
        session_id=f"ses_{ID}", agent="default", status="open", created_at_ms=1, updated_at_ms=1
    )
    pinned = Pinned(route="offline", driver="offline", model="offline", workspace=str(workspace), tools=tools)
    run = RunRecord(
        run_id=f"run_{ID}",
        session_id=session.session_id,
        agent="default",
        input_id=f"inp_{ID}",
        status="running",
        accepted_at_ms=1,
        updated_at_ms=1,
        accepted_cursor=1,
        updated_cursor=1,
    )
    return RunContext(session, run, pinned, str(workspace), "off", cast("Any", None))


@dataclass
class Workshop:
    """A workspace and the tools that work in it."""

    path: Path
    files: Files = field(default_factory=Files)
    calls: int = 0

    def use(self, tool: str, *, binding: str | None = None, **arguments: Any) -> Invocation:
        """Return a call in the form in which it is dispatched."""
        self.calls += 1
        row = next(row for row in self.files.tools if row.name == tool)
        return Invocation(
            run_context(self.path), f"call_{self.calls}", row, Validator().validate(row, arguments), binding
        )

    async def outcome(self, tool: str, **arguments: Any) -> Outcome:
        """Return the outcome of a call."""
        return await self.files.dispatch(self.use(tool, **arguments))

    async def do(self, tool: str, **arguments: Any) -> Any:
        """Return the decoded text of a call's outcome."""
        return msgspec.json.decode((await self.outcome(tool, **arguments)).text)

    def list_leftovers(self) -> list[str]:
        """Return the temporary files of calls that still exist."""
        return sorted(str(path) for path in self.path.rglob(".kheish-*"))


@contextmanager
def swapping(directory: Path, outside: Path) -> Iterator[None]:
    """Swap a directory and a link to the outside, again and again, while the block runs."""
    link = directory.with_name(f"{directory.name}.link")
    link.symlink_to(outside)
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            _exchange(directory, link)
            _exchange(directory, link)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


_LIBC = ctypes.CDLL(None, use_errno=True)
_HERE, _EXCHANGE = -100, 2


def _exchange(first: Path, second: Path) -> None:
    """Exchange two names atomically, which Python's own rename cannot do."""
    if _LIBC.renameat2(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(first))
