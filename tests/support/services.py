"""Services for tests, on a real store."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from kheishd.core.text.scrub import Scrubber
from kheishd.debug.captures import CaptureService
from kheishd.debug.files import CaptureFiles
from kheishd.hooks.lifecycle.runner import LifecycleRunner
from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.kernel.captures import Captures
from kheishd.kernel.credentials import resolve_credential
from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.lifecycle import Lifecycle
from kheishd.kernel.live import Live
from kheishd.kernel.runtime import Runtime, Runtimes
from kheishd.kernel.secrets import Vault
from kheishd.kernel.services import Services
from kheishd.kernel.shells import Shells
from kheishd.kernel.state import State


def open_vault(
    state: State, home: Path, environ: Mapping[str, str] | None = None, live: Live | None = None
) -> Vault:
    """Return the open slots of a store, whose values are redacted in the journal, answers and live texts."""
    learned: set[str] = set()

    def learn(secrets: Iterable[str]) -> None:
        learned.update(secrets)
        if learned:
            scrubber = Scrubber(learned)
            state.store.set_scrub(scrubber.scrub_journal_line)
            if live is not None:
                live.scrub(scrubber)

    vault = Vault(home, environ or {}, learn)
    vault.open(state)
    return vault


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
    vault = open_vault(state, home, live=used)

    def read_credential(reference: str) -> str:
        return resolve_credential(reference, vault) or ""

    return Services(
        state,
        used,
        runtimes,
        captures or CaptureService(CaptureFiles(home / "debug")),
        shells or ShellFiles(home / "shells"),
        lifecycle=Lifecycle(
            lambda: LifecycleRunner(state, used, read_credential, os.environ, f"test.{os.getpid()}")
        ),
        secrets=vault,
    )
