"""The file tools: read, find and change files of a run's workspace."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

import trio

from kheishd.core.permissions.judge import is_path_closed
from kheishd.hooks.os.files.confinement import Root, open_root, relative_path
from kheishd.hooks.os.files.edits import (
    ApplyPatch,
    EditArguments,
    EditFile,
    FileChange,
    WriteFile,
    edits_of,
    paths_of,
    written_paths,
)
from kheishd.hooks.os.files.links import find_link_use
from kheishd.hooks.os.files.reader import ReadFile, read_file
from kheishd.hooks.os.files.repositories import find_git_use
from kheishd.hooks.os.files.search import (
    InThread,
    ListFiles,
    SearchFiles,
    encode,
    glob_search,
    list_files,
    literal_search,
    regex_search,
    show_all,
)
from kheishd.hooks.os.files.transaction import (
    PathLocks,
    collect_digests,
    find_changes,
    make_changes,
    preview_changes,
    probe_changes,
)
from kheishd.hooks.os.files.versions import diff_versions, read_versions, saved_file, write_versions
from kheishd.hooks.os.programs import find_program, is_own_code
from kheishd.kernel.hook import (
    CheckpointDraft,
    FileWrite,
    Invocation,
    NeedsApproval,
    Opinion,
    Outcome,
    ProbeResult,
    RunContext,
    SavedFile,
    Stale,
    SubHook,
    ToolError,
    WorkspaceFiles,
    tool,
)
from protocol.limits.call import MAX_PARALLEL_CALLS
from protocol.objects.approval import Preview

log = logging.getLogger("kheishd.hooks.files")

T = TypeVar("T")

_LITERAL: Final = (
    "Find the lines that contain a text, exactly as given: regular expressions are not available here. "
    "Binary files and those over 4 MiB are skipped."
)


def _in_root(workspace: str, work: Callable[[Root], T]) -> T:
    with open_root(workspace) as root:
        return work(root)


class Files(SubHook):
    """File tools. ``locks`` outlive a reload; ``find`` returns the path of a program, if it is installed.

    ``in_thread`` runs work that waits for the disk, so that the loop does not.
    """

    name = "files"

    def __init__(
        self,
        locks: PathLocks | None = None,
        *,
        find: Callable[[str], str | None] = find_program,
        in_thread: InThread | None = None,
    ) -> None:
        self._ripgrep = find("rg")
        if self._ripgrep is None:
            self.revise(self.grep_search, description=_LITERAL)
        self._locks = locks if locks is not None else PathLocks()
        # A limiter of its own: a disk that hangs must not take the threads of other work.
        limiter = trio.CapacityLimiter(MAX_PARALLEL_CALLS)
        self._in_thread = in_thread or partial(trio.to_thread.run_sync, limiter=limiter)

    def sections(self, context: RunContext) -> Sequence[str]:
        """Name the workspace and explain paths, for a run that has a file tool."""
        allowed = context.pinned.tools
        if allowed is not None and not any(row.name in allowed for row in self.tools):
            return ()
        return (
            f"# Workspace\n\nFile tools work in {context.workspace} and nowhere else. Paths are relative to "
            "it, with '/' between names. Links are not followed.",
        )

    # Reading.

    def path_subject(self, call: Invocation, arguments: ReadFile | ListFiles | SearchFiles) -> str:
        """Return the path, relative to the workspace."""
        text = arguments.path if isinstance(arguments, ReadFile) else arguments.base
        try:
            return relative_path(text, call.context.workspace)
        except ToolError:
            # The call itself will be refused, whatever is decided about it.
            return ""

    _READ: ClassVar[dict[str, Any]] = {
        "kind": "read",
        "default": "allow",
        "repeatable": True,
        "parallel": True,
        "in_plan": True,
        "subject": path_subject,
    }

    @tool(
        "read_file",
        description="Read a text file, or some lines of it. Returns the SHA-256 of the whole file. If the "
        "result is truncated, continue at next_line.",
        timeout_s=5.0,
        droppable=True,
        **_READ,
    )
    async def read_file(self, call: Invocation, arguments: ReadFile) -> Outcome:
        """Read lines of a file. Errors: ToolError."""
        return await self._run(
            _in_root,
            call.context.workspace,
            partial(read_file, arguments=arguments, scrub=call.scrub, scrub_cut=call.scrub_cut),
        )

    # Changing.

    def edit_subject(self, call: Invocation, arguments: EditArguments) -> str:
        """Return the paths, relative to the workspace, one per line."""
        try:
            return "\n".join(paths_of(edits_of(arguments, call.context.workspace)))
        except ToolError:
            # The call itself will be refused, whatever is decided about it.
            return ""

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Name a file of an edit that other programs execute: the mode acceptEdits does not allow that."""
        if call.tool.kind != "edit" or not isinstance(call.arguments, EditArguments):
            return None
        workspace = call.context.workspace
        paths = [path for path in self.edit_subject(call, call.arguments).split("\n") if path]
        for path in paths:
            use = await self._run(find_git_use, workspace, path)
            if await self._run(is_own_code, workspace, path):
                use = "it is a part of this installation"
            if use is not None:
                return NeedsApproval(f"other programs execute or obey {path}: {use}", is_firm=False)
        link = await self._run(find_link_use, workspace, paths)
        if link is not None:
            note = "other programs execute or obey {}: the link {} leads to it"
            return NeedsApproval(note.format(*link), is_firm=False)
        return None

    async def preview_edits(self, call: Invocation, arguments: EditArguments) -> Preview:
        """Show the change as a diff. Errors: ToolError."""
        workspace = call.context.workspace
        return await self._run(preview_changes, workspace, edits_of(arguments, workspace))

    async def edit_evidence(self, call: Invocation, arguments: EditArguments) -> dict[str, Any]:
        """Return the digests of the files before and after the change. Errors: ToolError."""
        workspace = call.context.workspace
        return await self._run(collect_digests, workspace, edits_of(arguments, workspace))

    async def edit_checkpoint(self, call: Invocation, arguments: EditArguments) -> CheckpointDraft:
        """Return the files that the call changes, as they are now. Errors: ToolError."""
        workspace = call.context.workspace
        changes = await self._run(find_changes, workspace, edits_of(arguments, workspace))
        return CheckpointDraft(workspace, [saved_file(change) for change in changes])

    async def probe_edits(
        self, call: Invocation, arguments: EditArguments, evidence: Mapping[str, Any]
    ) -> ProbeResult:
        """Compare the files with the recorded digests, and remove the call's temporary files."""
        workspace = call.context.workspace
        try:
            edits = edits_of(arguments, workspace)
            async with self._locks.lock(os.path.join(workspace, path) for path in paths_of(edits)):
                return await self._run(probe_changes, workspace, edits, call.key, evidence)
        except ToolError as error:
            return ProbeResult("unknown", f"the files could not be read: {error}")

    _EDIT: ClassVar[dict[str, Any]] = {
        "kind": "edit",
        "default": "ask",
        "writes": written_paths,
        "subject": edit_subject,
        "preview": preview_edits,
        "evidence": edit_evidence,
        "checkpoint": edit_checkpoint,
        "probe": probe_edits,
    }

    @tool(
        "write_file",
        description="Create a file, or replace all of its content. Give either content or content_base64. "
        "Directories are created as needed. To change part of a file use edit_file.",
        timeout_s=5.0,
        **_EDIT,
    )
    async def write_file(self, call: Invocation, arguments: WriteFile) -> Outcome:
        """Write a file. Errors: ToolError, Stale."""
        (change,) = await self._change(call, arguments)
        row = {"path": change.path, "bytes_written": len(change.content), "sha256": change.digest}
        return Outcome(encode(row))

    @tool(
        "edit_file",
        description="Replace a text in a file. old_text must match exactly and occur once, unless "
        "replace_all is set. Give expected_sha256 to be sure that the file is the one you read.",
        timeout_s=5.0,
        **_EDIT,
    )
    async def edit_file(self, call: Invocation, arguments: EditFile) -> Outcome:
        """Edit a file. Errors: ToolError, Stale."""
        (change,) = await self._change(call, arguments)
        return Outcome(encode(_describe(change)))

    @tool(
        "apply_patch",
        description="Make several replacements, in one file or in many: all of them or none. Each is like a "
        "call of edit_file; later ones apply to the result of earlier ones.",
        timeout_s=10.0,
        **_EDIT,
    )
    async def apply_patch(self, call: Invocation, arguments: ApplyPatch) -> Outcome:
        """Edit several files, all or none. Errors: ToolError, Stale."""
        rows = [_describe(change) for change in await self._change(call, arguments)]
        return Outcome(encode({"changed_files": rows, "file_count": len(rows)}))

    async def _change(self, call: Invocation, arguments: EditArguments) -> list[FileChange]:
        workspace = call.context.workspace
        edits = edits_of(arguments, workspace)
        # Whole paths: a workspace may lie inside another.
        async with self._locks.lock(os.path.join(workspace, path) for path in paths_of(edits)):
            try:
                return await self._run(make_changes, workspace, edits, call.key, call.binding, call.saved)
            except Stale as stale:
                if call.binding is not None:
                    raise
                raise ToolError(f"{stale}; read it again, then change it") from None

    # Finding.

    @tool(
        "list_files",
        description="List everything in a directory and below it, nearest first. Directories end in '/'; "
        ".git is left out.",
        timeout_s=10.0,
        **_READ,
    )
    async def list_files(self, call: Invocation, arguments: ListFiles) -> Outcome:
        """List a directory. Errors: ToolError."""
        work = partial(list_files, arguments=arguments)
        return Outcome(await self._run(_in_root, call.context.workspace, work))

    @tool(
        "glob_search",
        description="Find files whose path below base matches a pattern: '*' and '?' within a name, '[abc]', "
        "'{one,other}', and '**' for any number of directories, as in 'src/**/*.py'. A backslash makes the "
        "character after it literal, as in 'a\\[1\\].txt'.",
        timeout_s=10.0,
        droppable=True,
        **_READ,
    )
    async def glob_search(self, call: Invocation, arguments: SearchFiles) -> Outcome:
        """Find files by a pattern of their paths. Errors: ToolError."""
        work = partial(glob_search, arguments=arguments)
        return Outcome(await self._run(_in_root, call.context.workspace, work))

    @tool(
        "grep_search",
        description="Find the lines that match a regular expression (ripgrep's syntax). Binary files, those "
        "over 4 MiB and those that .gitignore names are skipped.",
        timeout_s=10.0,
        droppable=True,
        **_READ,
    )
    async def grep_search(self, call: Invocation, arguments: SearchFiles) -> Outcome:
        """Find lines by a regular expression, or by a text without ripgrep. Errors: ToolError."""
        workspace = call.context.workspace
        patterns = call.closed_patterns()
        is_closed = partial(is_path_closed, patterns=patterns) if patterns else show_all
        if self._ripgrep is None:
            work = partial(literal_search, arguments=arguments, is_closed=is_closed)
            return Outcome(await self._run(_in_root, workspace, work))
        try:
            result = await regex_search(self._ripgrep, workspace, arguments, self._in_thread, is_closed)
            return Outcome(result)
        except OSError as error:
            log.warning("ripgrep cannot be run", extra={"program": self._ripgrep, "error": str(error)})
            raise ToolError("the search cannot be run at the moment; use glob_search and read_file") from None

    # Checkpoints.

    @property
    def files(self) -> WorkspaceFiles:  # type: ignore[override]
        """The files of workspaces, for restoring checkpoints."""
        return self

    def lock(self, paths: Iterable[str]) -> AbstractAsyncContextManager[None]:
        """Lock paths against other changes of this daemon."""
        return self._locks.lock(paths)

    async def read(self, workspace: str, paths: Sequence[str]) -> list[SavedFile]:
        """Return the current versions of files. Errors: ToolError if the workspace is gone."""
        return await self._run(read_versions, workspace, paths)

    async def write(self, workspace: str, writes: Sequence[FileWrite], key: str) -> None:
        """Write files, if all are as expected. Errors: ToolError, Stale."""
        async with self._locks.lock(os.path.join(workspace, write.path) for write in writes):
            await self._run(write_versions, workspace, writes, key)

    async def diff(self, pairs: Sequence[tuple[SavedFile, SavedFile]]) -> str:
        """Return a unified diff of pairs of versions."""
        return await self._run(diff_versions, pairs)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        result: T = await self._in_thread(partial(work, *arguments))
        return result


def _describe(change: FileChange) -> dict[str, Any]:
    return {"path": change.path, "replacements": change.replacements, "sha256": change.digest}
