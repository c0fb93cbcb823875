"""Read the files of lifecycle hooks: ``<home>/hooks/*.toml``, and ``.kheish/hooks.toml`` of a workspace.

Reading is strict. An invalid file may have lost a guard, a hook with ``failure = "closed"``, so it is skipped
only if nothing in it looks like one.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from kheishd.config.toml import KeyPath, find_key_lines, find_line
from kheishd.config.validation import Problem, find_problems
from kheishd.kernel.lifecycle import WORKSPACE_FILE, HookSpec
from protocol.errors.daemon import ConfigInvalid
from protocol.limits.hook import (
    DEFAULT_HOOK_TIMEOUT_MS,
    MAX_HOOK_COMMAND_BYTES,
    MAX_HOOK_MATCHER_BYTES,
    MAX_HOOK_RETRIES,
    MAX_HOOK_TIMEOUT_MS,
    MAX_HOOK_URL_BYTES,
    MAX_HOOKS,
    MAX_HOOKS_FILE_BYTES,
    MAX_HOOKS_FILES,
)
from protocol.objects.hook import POLICY_EVENTS, HookEvent, HookFailurePolicy, HookName

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GUARD: Final = re.compile(rb"clos", re.IGNORECASE)
"""Something that may be meant as ``failure = "closed"``."""

_PATH: Final = re.compile(r"\.{0,2}/[\w./+-]+(?=\s|$)")
"""A program at the begin of a line for the shell, given as a path without quotes and variables."""

_HEADER: Final = r"^[A-Za-z0-9-]{1,64}$(?!\n)"
_OWN_HEADERS: Final = frozenset(
    ("connection", "content-length", "content-type", "host", "transfer-encoding", "upgrade")
)
_REFERENCE: Final = r"^(env|credential|slot):[A-Za-z0-9_.-]{1,255}$(?!\n)"

Part = Annotated[str, Meta(min_length=1, max_length=MAX_HOOK_COMMAND_BYTES)]


class HookSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hook as people write it. ``command`` is a list, or a line for the shell."""

    name: HookName
    event: HookEvent
    matcher: Annotated[str, Meta(max_length=MAX_HOOK_MATCHER_BYTES)] | None = None
    command: Part | Annotated[list[Part], Meta(min_length=1, max_length=64)] | None = None
    url: Annotated[str, Meta(max_length=MAX_HOOK_URL_BYTES)] | None = None
    auth_ref: Annotated[str, Meta(pattern=_REFERENCE)] | None = None
    auth_header: Annotated[str, Meta(pattern=_HEADER)] = "authorization"
    failure: HookFailurePolicy = "open"
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_HOOK_TIMEOUT_MS / 1000)] = DEFAULT_HOOK_TIMEOUT_MS / 1000
    max_retries: Annotated[int, Meta(ge=0, le=MAX_HOOK_RETRIES)] = 0

    def find_problems(self, path: KeyPath, private_hosts: tuple[str, ...]) -> Iterator[Problem]:
        """Yield the problems of values that contradict each other."""
        if (self.command is None) == (self.url is None):
            yield Problem(path, "give either 'command' or 'url'")
        if "\0" in "".join(self.command or ""):
            yield Problem((*path, "command"), "a command holds no NUL")
        if self.url is not None and (problem := _find_url_problem(self.url, private_hosts)):
            yield Problem((*path, "url"), problem)
        if self.auth_header.lower() in _OWN_HEADERS:
            yield Problem((*path, "auth_header"), "the daemon sets this header itself")
        if self.auth_ref is not None and self.url is None:
            yield Problem((*path, "auth_ref"), "only a hook with a 'url' sends a credential")
        if self.failure == "closed" and self.event not in POLICY_EVENTS:
            text = f"hooks of {self.event} run after the event and cannot block it; leave 'failure' out"
            yield Problem((*path, "failure"), text)


class HooksFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of hooks. ``private_hosts`` are the hosts that need not be on the public internet."""

    hook: Annotated[list[HookSection], Meta(max_length=MAX_HOOKS)] = []
    private_hosts: Annotated[list[str], Meta(max_length=64)] = []


class InvalidHooksFile(Exception):
    """A file that cannot be used. ``may_guard``: it has, or may have had, a hook that fails closed."""

    def __init__(self, message: str, *, may_guard: bool) -> None:
        super().__init__(message)
        self.may_guard = may_guard


def _find_url_problem(url: str, private_hosts: tuple[str, ...]) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable():
        return "expected an http:// or https:// URL"
    if parts.username is not None or parts.password is not None:
        return "a URL holds no credential; use 'auth_ref'"
    if parts.scheme == "http" and host not in private_hosts:
        return f"a host on the internet needs https; a private one is listed in 'private_hosts': {host}"
    return None


def parse_file(content: bytes, path: str, *, is_operators: bool, directory: str) -> list[HookSpec]:
    """Return the hooks of a file.

    Errors: InvalidHooksFile, with every problem as ``guard.toml:3: hook[0].event: ...``.
    """
    name, may_guard = os.path.basename(path), _GUARD.search(content) is not None
    import tomllib

    try:
        text = content.decode("utf-8-sig")
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidHooksFile(f"{name}:{line}: not UTF-8", may_guard=True) from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        # An escape may hide a letter.
        may_guard = may_guard or b"\\u" in content.lower()
        raise InvalidHooksFile(f"{name}: not TOML: {error}", may_guard=may_guard) from None
    may_guard = may_guard or _GUARD.search(repr(table).encode()) is not None
    problems = list(find_problems(HooksFile, table))
    if not problems:
        file = msgspec.convert(table, HooksFile)
        hosts = tuple(file.private_hosts)
        for index, section in enumerate(file.hook):
            problems += section.find_problems(("hook", index), hosts)
        if hosts and not is_operators:
            problems.append(Problem(("private_hosts",), "only a file of the operator lists these"))
    if problems:
        lines = find_key_lines(text)
        located = [f"{name}:{find_line(lines, problem.path) or 1}: {problem}" for problem in problems]
        raise InvalidHooksFile("; ".join(located), may_guard=may_guard)
    return [
        HookSpec(
            name=section.name,
            event=section.event,
            path=path,
            directory=directory,
            argv=_make_argv(section.command),
            url=section.url,
            auth_ref=section.auth_ref,
            auth_header=section.auth_header,
            matcher=section.matcher,
            policy=section.failure,
            timeout_s=section.timeout_s,
            max_retries=section.max_retries,
            is_operators=is_operators,
            private_hosts=hosts,
        )
        for section in file.hook
    ]


def _make_argv(command: str | list[str] | None) -> tuple[str, ...]:
    if command is None:
        return ()
    return ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)


def find_missing_program(hook: HookSpec) -> str | None:
    """Return the problem of a hook whose program cannot be run. Of a shell's line, only a path counts."""
    word = hook.argv[0] if hook.argv else ""
    if hook.argv[:2] == ("/bin/sh", "-c"):
        path = _PATH.match(hook.argv[2])
        word = path[0] if path is not None else ""
    if not word or shutil.which(os.path.join(hook.directory, word) if "/" in word else word):
        return None
    effect = ", so all that it guards is blocked" if hook.policy == "closed" else ""
    text = f"the program {word} of the hook '{hook.name}' is missing or not executable{effect}"
    return f"{text}; create it in {hook.directory}, or make it executable"


def _read(path: str) -> bytes:
    """Return the content of a regular file. Errors: InvalidHooksFile."""
    name = os.path.basename(path)
    try:
        # Opening a pipe would otherwise wait for a writer.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidHooksFile(f"{name}: not a regular file", may_guard=True)
            content = file.read(MAX_HOOKS_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidHooksFile(f"{name}: cannot be read: {error.strerror}", may_guard=True) from None
    if len(content) > MAX_HOOKS_FILE_BYTES:
        raise InvalidHooksFile(f"{name}: larger than {MAX_HOOKS_FILE_BYTES} bytes", may_guard=True)
    return content


def read_operators_hooks(directory: Path) -> tuple[tuple[HookSpec, ...], list[str]]:
    """Return the operator's hooks, in the order of the files' names, and the problems of skipped files.

    Errors: ConfigInvalid for an invalid file that has a guard, or may have had one.
    """
    hooks: dict[str, HookSpec] = {}
    problems: list[str] = []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return (), []
    except OSError as error:
        raise ConfigInvalid(f"the directory {directory} cannot be read: {error.strerror}") from None
    names = [name for name in names if name.endswith(".toml") and not name.startswith(".")]
    if len(names) > MAX_HOOKS_FILES:
        raise ConfigInvalid(f"{directory} has {len(names)} files of hooks; the maximum is {MAX_HOOKS_FILES}")
    for name in names:
        path = str(directory / name)
        try:
            specs = parse_file(_read(path), path, is_operators=True, directory=str(directory))
            duplicate = next((spec for spec in specs if spec.name in hooks), None)
            names_here = [spec.name for spec in specs]
            if duplicate is not None or len(set(names_here)) < len(names_here):
                repeated = duplicate or next(spec for spec in specs if names_here.count(spec.name) > 1)
                text = f"{name}: another hook is called '{repeated.name}', too; choose another name"
                raise InvalidHooksFile(text, may_guard=any(spec.policy == "closed" for spec in specs))
        except InvalidHooksFile as error:
            if error.may_guard:
                text = f"hooks/{error}; the file may hold a hook that fails closed, so it is not skipped"
                raise ConfigInvalid(text) from None
            problems.append(f"skipped the hooks in {error}")
        else:
            hooks |= {spec.name: spec for spec in specs}
            problems += [problem for spec in specs if (problem := find_missing_program(spec)) is not None]
    if len(hooks) > MAX_HOOKS:
        raise ConfigInvalid(f"{directory} has {len(hooks)} hooks; the maximum is {MAX_HOOKS}")
    return tuple(hooks.values()), problems


def read_workspace_hooks(workspace: str) -> list[HookSpec]:
    """Return the hooks of a trusted workspace. Errors: InvalidHooksFile."""
    path = f"{workspace}/{WORKSPACE_FILE}"
    if os.path.realpath(path) != path:
        raise InvalidHooksFile(f"{WORKSPACE_FILE}: it is a link, or lies behind one", may_guard=True)
    return parse_file(_read(path), path, is_operators=False, directory=workspace)
