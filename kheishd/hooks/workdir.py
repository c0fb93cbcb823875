"""Where a command runs: a directory of the workspace, opened, and used as it was opened.

It is found as files are (see ``files.confine``), and no link is followed. Whatever its name leads to later,
the command begins in the directory that was looked at, and its sandbox holds the workspace that was.
"""

import os
import posixpath

from msgspec import Struct

from kheishd.hooks.files.confine import explained, open_root, relative


class Workdir(Struct, frozen=True):
    """Two open directories and their paths: where a command begins, ``inner``, and its workspace, ``outer``.

    Whoever asked for them closes them.
    """

    inner: int
    path: str
    outer: int
    workspace: str

    def close(self) -> None:
        """Let go of both."""
        os.close(self.inner)
        os.close(self.outer)


def open_workdir(workspace: str, name: str) -> Workdir:
    """The directory ``name`` of a workspace, which is made if it is missing.

    Errors: ToolError if the directory cannot be entered, is outside, or a link is on the way.
    """
    path = relative(name, workspace)
    with open_root(workspace) as root, explained(path), root.directory(path) as directory:
        whole = posixpath.normpath(posixpath.join(workspace, path))
        return Workdir(os.dup(directory), whole, os.dup(root.descriptor), workspace)
