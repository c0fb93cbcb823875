"""Fixtures of all tests: the directory of a store, a store, a state, a sandbox."""

import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

# Imported before any test runs: later it would be in a thread, which a mock clock does not wait for.
import jsonschema_rs  # noqa: F401
import pytest
from hypothesis import settings

from kheishd.kernel.state import State, open_state
from kheishd.store.writer import Store

# Shells start background jobs with SIGINT ignored, and children inherit that; tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that is busy with something else is no counterexample.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    """Return the path of a state directory that does not exist yet."""
    return tmp_path / "state"


@pytest.fixture
def store(store_dir: Path) -> Iterator[Store]:
    """Provide a store whose writer runs inline: an update is done when ``submit`` returns."""
    store = Store.open(store_dir, on_group=lambda group: None, threaded=False, version="test")
    yield store
    store.close()


@pytest.fixture
async def state(store_dir: Path) -> AsyncIterator[State]:
    """Provide a state with its writer thread, as in the daemon."""
    async with open_state(store_dir, version="test") as state:
        yield state


@pytest.fixture
async def inline_state(store_dir: Path) -> AsyncIterator[State]:
    """Provide a state whose writer runs inline, for tests on a mock clock."""
    async with open_state(store_dir, version="test", threaded=False) as state:
        yield state


@pytest.fixture(scope="session")
def bubblewrap() -> None:
    """Skip where Bubblewrap cannot make a sandbox: it is missing, or may not make namespaces."""
    binary = shutil.which("bwrap")
    if binary is None:
        pytest.skip("bubblewrap is not installed")
    done = subprocess.run(
        [binary, "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "/bin/sh", "-c", ":"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"bubblewrap does not work here: {done.stderr.decode()}")
