"""The types of lifecycle hooks, and which of them an event has. Their runner is loaded when it is needed."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import field

from kheishd.core.hook import matches
from protocol.limits.hook import DEFAULT_HOOK_TIMEOUT_MS
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kheishd.core.hook import HookVerdict
    from protocol.objects.hook import HookEvent, HookFailurePolicy, HookTrial


WORKSPACE_FILE: Final = ".kheish/hooks.toml"

MAX_KEPT_WORKSPACES: Final = 10_000
"""The directories that are remembered, with or without hooks: about 200 bytes each."""


class HookSpec(Value, frozen=True):
    """A configured hook.

    ``argv`` is its command, or ``url`` its server. ``directory`` is where a command runs. ``is_operators``:
    it is from a file of the operator; else it is from a workspace, and may only restrict. ``private_hosts``
    are the hosts that need not be on the public internet.
    """

    name: str
    event: HookEvent
    path: str
    directory: str
    argv: tuple[str, ...] = ()
    url: str | None = None
    auth_ref: str | None = None
    auth_header: str = "authorization"
    matcher: str | None = None
    policy: HookFailurePolicy = "open"
    timeout_s: float = DEFAULT_HOOK_TIMEOUT_MS / 1000
    max_retries: int = 0
    is_operators: bool = True
    private_hosts: tuple[str, ...] = ()


class HookSubject(Value, frozen=True):
    """An occurrence of an event, as hooks learn of it.

    ``key`` names it: it is the same when the daemon repeats the event after a crash. ``payload`` holds the
    event's own data.
    """

    event: HookEvent
    subject: str
    key: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    session_id: str | None = None
    run_id: str | None = None


class HookRunner(Protocol):
    """The runner of hooks. It never raises anything but cancellation."""

    async def decide(self, hooks: Sequence[HookSpec], subject: HookSubject) -> HookVerdict:
        """Run the hooks of a policy event one by one, up to the first block."""
        ...

    async def notify(self, hooks: Sequence[HookSpec], subject: HookSubject) -> None:
        """Run the hooks of any other event side by side."""
        ...

    async def test(self, hook: HookSpec, subject: HookSubject) -> HookTrial:
        """Run a hook and return its outcome, from which nothing follows."""
        ...

    def preview(self, hook: HookSpec, subject: HookSubject) -> HookTrial:
        """Return the input that a hook would get; nothing is run."""
        ...

    def workspace_hooks(self, workspace: str, generation: int) -> tuple[Sequence[HookSpec], str | None]:
        """Return the hooks of a trusted workspace; and the problem if a guard among them is invalid.

        The file is read once in each generation of the configuration.
        """
        ...


class Lifecycle:
    """The lifecycle hooks of the daemon. ``load`` returns their runner."""

    def __init__(self, load: Callable[[], HookRunner] | None = None) -> None:
        self._load = load
        self._generation = 0
        self._with_file: dict[str, bool] = {}

    def has_file(self, directory: str, generation: int, *, above: bool = False) -> bool:
        """Whether a directory had a file of hooks when this was first asked; with ``above``, or one above it.

        An agent can write files in its workspace, and what it writes must not run outside of its sandbox. So
        a new file, like a change of one, takes effect with the next generation of the configuration. Beyond
        the limit, directories are not remembered: a file there is no hook, but a reason to block.
        """
        if generation != self._generation:
            self._generation, self._with_file = generation, {}
        has_any = False
        while True:
            has_own = self._with_file.get(directory)
            if has_own is None:
                has_own = os.path.lexists(f"{directory}/{WORKSPACE_FILE}")
                # Forgetting one that had none would let a later file count.
                if len(self._with_file) < MAX_KEPT_WORKSPACES:
                    self._with_file[directory] = has_own
            has_any = has_any or has_own
            parent = os.path.dirname(directory)
            if not above or parent == directory:
                return has_any
            directory = parent

    def remembers(self, directory: str) -> bool:
        """Whether it is known since when a directory has a file of hooks."""
        return directory in self._with_file

    @cached_property
    def runner(self) -> HookRunner:
        """The runner, which is loaded at its first use."""
        assert self._load is not None, "only a daemon runs hooks"
        return self._load()


def find_hooks(hooks: Sequence[HookSpec], event: HookEvent, subject: str) -> list[HookSpec]:
    """Return the hooks of an event whose pattern matches its subject, in their order."""
    return [hook for hook in hooks if hook.event == event and matches(hook.matcher, subject)]
