"""The part of the Hook that reads, finds and changes files of a run's workspace."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import trio

from kheishd.hooks.files.arguments import (
    ApplyPatch,
    EditFile,
    ListFiles,
    Pattern,
    ReadFile,
    WriteFile,
    decoded,
)
from kheishd.hooks.files.changing import changed, looked_into, noted, shown
from kheishd.hooks.files.confine import Root, open_root, relative
from kheishd.hooks.files.locks import PathLocks
from kheishd.hooks.files.planning import Change, Order, orders_of, paths_of
from kheishd.hooks.files.reading import read_file
from kheishd.hooks.files.ripgrep import InThread, regex_search
from kheishd.hooks.files.searching import glob_search, list_files, literal_search, told
from kheishd.hooks.files.tools import tools
from kheishd.kernel.hook import Invocation, Outcome, ProbeResult, RunContext, Stale, SubHook, Tool, ToolError
from protocol.limits.call import MAX_PARALLEL_CALLS
from protocol.objects.approval import Preview

log = logging.getLogger("kheishd.hooks.files")

T = TypeVar("T")

_CHANGES: Final[dict[str, type[WriteFile | EditFile | ApplyPatch]]] = {
    "write_file": WriteFile,
    "edit_file": EditFile,
    "apply_patch": ApplyPatch,
}


class Files(SubHook):
    """File tools. ``locks`` outlive a reload; ``find`` gives the path of a program, if it is installed.

    ``in_thread`` runs what waits for the disk, so that the loop does not.
    """

    name = "files"

    def __init__(
        self,
        locks: PathLocks | None = None,
        *,
        find: Callable[[str], str | None] = shutil.which,
        in_thread: InThread | None = None,
    ) -> None:
        ripgrep = find("rg")
        # It is started in the workspace, where a relative path would mean another program.
        self._ripgrep = os.path.abspath(ripgrep) if ripgrep is not None else None
        self._tools = tools(regex=ripgrep is not None)
        self._locks = locks if locks is not None else PathLocks()
        # Threads of our own: a disk that hangs shall not take those that others wait for.
        limiter = trio.CapacityLimiter(MAX_PARALLEL_CALLS)
        self._in_thread = in_thread or partial(trio.to_thread.run_sync, limiter=limiter)

    @property
    def tools(self) -> Sequence[Tool]:
        """The seven tools."""
        return self._tools

    def sections(self, place: RunContext) -> Sequence[str]:
        """Where the workspace is, and how paths are meant; nothing to a run that has no file tool."""
        allowed = place.pinned.tools
        if allowed is not None and not any(tool.name in allowed for tool in self.tools):
            return ()
        return (
            f"# Workspace\n\nFile tools work in {place.workspace} and nowhere else. Paths are relative to "
            "it, with '/' between names. Links are not followed.",
        )

    def subject(self, use: Invocation) -> str:
        """The path that a call is about, relative to the workspace; of a patch the paths, a line each."""
        try:
            if use.tool.name in _CHANGES:
                return "\n".join(paths_of(_orders(use)))
            asked = use.arguments.get("path", use.arguments.get("base", "."))
            return relative(str(asked), use.context.workspace)
        except ToolError:
            # The call will be refused, whatever is decided about it.
            return ""

    async def preview(self, use: Invocation) -> Preview | None:
        """The change as a diff."""
        if use.tool.name not in _CHANGES:
            return None
        return await self._do(partial(shown, use.context.workspace, _orders(use)))

    async def evidence(self, use: Invocation) -> dict[str, Any]:
        """What the files are, and what they are to be."""
        if use.tool.name not in _CHANGES:
            return {}
        try:
            return await self._do(partial(noted, use.context.workspace, _orders(use)))
        except ToolError:
            return {}

    async def dispatch(self, use: Invocation) -> Outcome:
        """Carry out a call."""
        if use.tool.name in _CHANGES:
            return Outcome(_told(use, await self._change(use)))
        if use.tool.name == "grep_search":
            return Outcome(await self._grep(use.context.workspace, decoded(Pattern, use.arguments)))
        return await self._do(partial(_read, use.tool.name, use.context.workspace, use.arguments))

    async def probe(self, use: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Compare the files with what was noted; what is left of the call's own files is removed."""
        try:
            orders = _orders(use)
            async with self._locks.held(_held(use, orders)):
                return await self._do(partial(looked_into, use.context.workspace, orders, use.key, evidence))
        except ToolError as error:
            return ProbeResult("unknown", f"the files could not be looked at: {error}")

    async def _change(self, use: Invocation) -> list[Change]:
        orders = _orders(use)
        async with self._locks.held(_held(use, orders)):
            try:
                return await self._do(partial(changed, use.context.workspace, orders, use.key, use.binding))
            except Stale as stale:
                if use.binding is not None:
                    raise
                raise ToolError(f"{stale}; read it again, then change it") from None

    async def _grep(self, workspace: str, asked: Pattern) -> str:
        if self._ripgrep is not None:
            try:
                return await regex_search(self._ripgrep, workspace, asked, self._in_thread)
            except OSError as error:
                log.warning("ripgrep cannot be run", extra={"program": self._ripgrep, "error": str(error)})
                raise ToolError(
                    "the search cannot be run at the moment; use glob_search and read_file"
                ) from None
        return await self._do(partial(_in_root, workspace, partial(literal_search, asked=asked)))

    async def _do(self, work: Callable[[], T]) -> T:
        done: T = await self._in_thread(work)
        return done


def _orders(use: Invocation) -> list[Order]:
    """Errors: ToolError."""
    return orders_of(decoded(_CHANGES[use.tool.name], use.arguments), use.context.workspace)


def _held(use: Invocation, orders: Sequence[Order]) -> list[str]:
    """The files by their whole paths: a workspace may lie inside another."""
    return [os.path.join(use.context.workspace, path) for path in paths_of(orders)]


def _read(tool: str, workspace: str, arguments: Mapping[str, Any]) -> Outcome:
    match tool:
        case "read_file":
            return _in_root(workspace, partial(read_file, asked=decoded(ReadFile, arguments)))
        case "list_files":
            return Outcome(_in_root(workspace, partial(list_files, asked=decoded(ListFiles, arguments))))
        case "glob_search":
            return Outcome(_in_root(workspace, partial(glob_search, asked=decoded(Pattern, arguments))))
        case _:
            raise ToolError(f"there is no file tool '{tool}'")


def _in_root(workspace: str, work: Callable[[Root], T]) -> T:
    with open_root(workspace) as root:
        return work(root)


def _told(use: Invocation, changes: Sequence[Change]) -> str:
    """What a model is told of changes that were made."""
    if use.tool.name == "write_file":
        (change,) = changes
        return told({"path": change.path, "bytes_written": len(change.after), "sha256": change.digest})
    rows = [{"path": each.path, "replacements": each.replacements, "sha256": each.digest} for each in changes]
    return told(
        {"changed_files": rows, "file_count": len(rows)} if use.tool.name == "apply_patch" else rows[0]
    )
