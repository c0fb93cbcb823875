"""The working directory of a command, opened once so that a later rename or link cannot replace it."""

import os
import posixpath

from msgspec import Struct

from kheishd.hooks.os.files.confinement import explain_errors, open_root, relative_path


class Workdir(Struct, frozen=True):
    """Two open directories and their paths: where a command begins, ``inner``, and its workspace, ``outer``.

    They are opened as files are (see ``files.confinement``), and no link is followed. Whatever their names
    lead to later, the command begins in the opened directory, and its sandbox holds the opened workspace. The
    caller closes them. ``repository`` is the top of the repository, if the workspace is the worktree of an
    agent.
    """

    inner: int
    path: str
    outer: int
    workspace: str
    repository: str | None = None

    def close(self) -> None:
        """Close both."""
        os.close(self.inner)
        os.close(self.outer)


def open_workdir(workspace: str, name: str, repository: str | None = None) -> Workdir:
    """Open the directory ``name`` of a workspace. The workspace is created if it is missing.

    Errors: ToolError if the directory cannot be entered, is outside, or a link is on the way.
    """
    path = relative_path(name, workspace)
    with open_root(workspace) as root, explain_errors(path), root.directory(path) as directory:
        absolute = posixpath.normpath(posixpath.join(workspace, path))
        return Workdir(os.dup(directory), absolute, os.dup(root.descriptor), workspace, repository)
