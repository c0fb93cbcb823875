"""The directory that a conversation begins in: the current one, if the person trusts it or not.

A directory is asked about once. A yes is a trusted root of the daemon; a no is remembered here, in
``$XDG_STATE_HOME/kheish/untrusted``, one JSON string per line.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from kheishctl.client import ConnectionLost, RequestRefused
from kheishctl.options import drop_unset
from protocol.text import one_line

if TYPE_CHECKING:
    from kheishctl.cli import App
    from kheishctl.contract import Json

MAX_REMEMBERED = 1000
"""The directories that are remembered as untrusted; beyond them, the oldest are asked about again."""


def current_directory() -> str | None:
    """Return the current directory; None if it was removed, or has no name that the daemon could be sent."""
    try:
        path = os.getcwd()
        path.encode()
    except (OSError, UnicodeEncodeError):
        return None
    return path


def resolve_directory(path: str) -> str:
    """Return a directory that a person named, as an absolute path."""
    return os.path.abspath(os.path.expanduser(path))


def offer_trust(app: App, address: Json, directory: str | None, *, fresh: bool = False) -> None:
    """Ask once whether to trust a directory, if the conversation works there, or will.

    Scripts are never asked: this needs a person at a terminal. ``fresh``: the conversation starts over.
    """
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()
    if directory is None or not is_terminal or app.as_json:
        return
    try:
        view = app.call("workspace.get", drop_unset(path=directory, agent=address.get("agent")))
        path = str(view["path"])
        if view.get("root") or view.get("default") or path in read_untrusted():
            return
        if (_find_workspace(app, address, fresh=fresh) or view["workspace"]) != path:
            return
        app.note("In a trusted directory, AGENTS.md, skills, hooks and settings take effect.")
        app.note("Agents work in an untrusted one, too, but without them.")
        if click.confirm(f"Do you trust {one_line(path)}?", default=False):
            _trust(app, path)
        else:
            remember_untrusted(path)
    except ConnectionLost:
        app.disconnect()  # The command itself waits for the daemon.
    except RequestRefused as refused:
        # An earlier daemon knows no such method; the message itself is refused for the other reasons.
        if refused.reason == "method_not_found":
            app.note("This daemon does not say whether the current directory is trusted.")


def _trust(app: App, path: str) -> None:
    """Trust a directory; one that cannot be trusted is not asked about again."""
    try:
        app.call("workspace.trust", {"root": path})
    except RequestRefused as refused:
        app.note(f"It is not trusted: {refused}")
        remember_untrusted(path)


def _find_workspace(app: App, address: Json, *, fresh: bool) -> str | None:
    """Return the directory of an existing conversation; None if there is none."""
    if fresh:
        return None
    try:
        conversation = app.call("conversation.get", drop_unset(**address))
    except RequestRefused as refused:
        if refused.reason != "conversation_not_found":
            raise
        return None
    return str(conversation.get("workspace", ""))


def _locate_untrusted() -> str:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "kheish", "untrusted")


def read_untrusted() -> list[str]:
    """Return the directories that the person does not trust, the oldest first."""
    with suppress(OSError, ValueError), open(_locate_untrusted(), encoding="utf-8") as file:
        return [str(json.loads(line)) for line in file]
    return []


def remember_untrusted(path: str) -> None:
    """Remember that the person does not trust a directory, if that is possible."""
    directories = [*(known for known in read_untrusted() if known != path), path][-MAX_REMEMBERED:]
    location = _locate_untrusted()
    with suppress(OSError):
        os.makedirs(os.path.dirname(location), mode=0o700, exist_ok=True)
        draft = f"{location}.{os.getpid()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(known) + "\n" for known in directories)
        os.replace(draft, location)
