"""Services for tests, on a real store."""

import os

from kheishd.debug.captures import CaptureService
from kheishd.debug.files import CaptureFiles
from kheishd.hooks.lifecycle.runner import LifecycleRunner
from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.kernel.captures import Captures
from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.lifecycle import Lifecycle
from kheishd.kernel.live import Live
from kheishd.kernel.runtime import Runtime, Runtimes
from kheishd.kernel.services import Services
from kheishd.kernel.shells import Shells
from kheishd.kernel.state import State
from kheishd.providers.credentials import resolve


def make_services(
    state: State,
    runtimes: Runtime | Runtimes,
    *,
    live: Live | None = None,
    captures: Captures | None = None,
    shells: Shells | None = None,
) -> Services:
    """Return services around a store, with one constant runtime.

    Captures and shells have their files next to the store, unless others are passed.
    """
    home = state.store.directory.parent
    if isinstance(runtimes, Runtime):
        runtimes = RuntimeHolder(runtimes, lambda old: None)
    used = live or Live()
    return Services(
        state,
        used,
        runtimes,
        captures or CaptureService(CaptureFiles(home / "debug")),
        shells or ShellFiles(home / "shells"),
        lifecycle=Lifecycle(lambda: LifecycleRunner(state, used, resolve, os.environ)),
    )
