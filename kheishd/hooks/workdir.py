"""Where a command runs: a directory inside the workspace, opened before it is judged.

A name is looked up once. What is judged is where the opened directory is, and what is used is the opened
directory: exchanging it for a symbolic link in between changes nothing.
"""

import os

from msgspec import Struct

from kheishd.hooks.files.confine import open_root
from kheishd.kernel.hook import ToolError


class Workdir(Struct, frozen=True):
    """An open directory (whoever asked for it closes it), where it is, and where its workspace really is."""

    descriptor: int
    path: str
    workspace: str


def open_workdir(workspace: str, name: str) -> Workdir:
    """The directory ``name`` of a workspace, open. Links that stay in the workspace are followed.

    Errors: ToolError if it is none, cannot be entered, or is elsewhere.
    """
    with open_root(workspace) as root:
        descriptor = _open(name or ".", root.descriptor, f"the workdir '{name}'")
        inside, outside = _place(descriptor), _place(root.descriptor)
    if inside != outside and not inside.startswith(outside.rstrip("/") + "/"):
        os.close(descriptor)
        raise ToolError(f"the workdir '{name}' is outside of the workspace; name a directory inside of it")
    return Workdir(descriptor, inside, outside)


def _open(name: str, root: int, what: str) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except ValueError:
        raise ToolError(f"{what} is no name of a directory") from None
    except OSError as error:
        raise ToolError(f"{what} cannot be used: {error.strerror}") from None


def _place(descriptor: int) -> str:
    """Where an open directory is now, whichever way it was found."""
    return os.readlink(f"/proc/self/fd/{descriptor}")
