"""Starting the daemon's program: in the background, or in this process's place."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from kheishctl import exits
from kheishctl.client import Client, ConnectionLost, Failure, Json, NoDaemon, TimedOut, socket_path
from kheishctl.render.layout import clean

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

LOG_NAME = os.path.join("run", "kheishd.log")

# The log of a daemon that was started by hand. It is begun anew when a start finds it longer.
MAX_LOG_BYTES = 10 * 1024 * 1024

# What systemd passes to a service belongs to that service, not to a daemon that one of its children starts.
_NOT_INHERITED = (
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)

# Only ever added to, and neither through a link nor into a pipe.
LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

READY_SECONDS = 60.0
PROBE_PAUSE_SECONDS = 0.02
PROBE_SECONDS = 5.0

LOG_TAIL_LINES = 5


class StartFailed(Failure):
    """The daemon ended before it answered; the message is the end of its log."""

    reason = "not_started"

    def __init__(self, message: str, exit_code: int = exits.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def command(home: str, *arguments: str) -> list[str]:
    """The command line of ``kheishd``, run by the interpreter that runs us."""
    return [sys.executable, "-m", "kheishd", "--home", home, *arguments]


def environment() -> dict[str, str]:
    """Our environment, in which the command finds the same ``kheishd`` from any directory."""
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Run from a source tree without being installed: the tree is only on the path because we are in it.
    if root not in sys.path[1:]:
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))
    return environ


def replace(home: str, *arguments: str) -> NoReturn:
    """Become ``kheishd``: its output and its exit code are ours."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command(home, *arguments), environment())


def offline(home: str, *arguments: str) -> tuple[int, str]:
    """Have ``kheishd`` work on the store itself: the exit code, 0 or 1, and what it printed.

    Errors: Failure in its words, exit code 4 if a daemon holds the home.
    """
    import subprocess

    done = subprocess.run(
        command(home, *arguments),
        env=environment(),
        capture_output=True,
        check=False,
    )
    said, complaint = (stream.decode(errors="replace").strip() for stream in (done.stdout, done.stderr))
    if done.returncode and not said:
        failure = Failure(complaint.removeprefix("kheishd: ") or f"kheishd ended with {done.returncode}")
        failure.exit_code = exits.HOME_TAKEN if done.returncode == 4 else exits.FAILED
        raise failure
    sys.stderr.write(f"{clean(complaint)}\n" if complaint else "")
    return (exits.FAILED if done.returncode else exits.OK), said


def log_path(home: str) -> str:
    """Where a daemon started in the background writes its log."""
    return os.path.join(home, LOG_NAME)


def start(home: str, arguments: Sequence[str] = (), *, tell: Callable[[str], None] = lambda _: None) -> Json:
    """Start a daemon in the background and wait until it answers: its status.

    The daemon has its own session, ``/`` as its directory and its log in ``<home>/run``.
    Errors: StartFailed with what its log says, exit code 4 if another one holds the home; TimedOut.
    """
    # Made where used: 'status' is in the same module as 'start'.
    import subprocess

    run = os.path.join(home, "run")
    os.makedirs(run, mode=0o700, exist_ok=True)
    _see_that_it_is_ours(home)
    _see_that_it_is_ours(run)
    log = os.open(log_path(home), LOG_FLAGS, 0o600)
    try:
        if os.fstat(log).st_size > MAX_LOG_BYTES:
            os.ftruncate(log, 0)
        offset = os.fstat(log).st_size
        child = subprocess.Popen(
            command(home, *arguments),
            env=environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    return _ready(child, home, offset, tell)


def _see_that_it_is_ours(directory: str) -> None:
    """Errors: StartFailed for another user's directory, before anything in it is written to."""
    owner = os.stat(directory).st_uid
    if owner != os.geteuid():
        raise StartFailed(
            f"{directory} belongs to the user with uid {owner}; run as that user, or choose another home "
            "with --home"
        )


def _ready(child: subprocess.Popen[bytes], home: str, offset: int, tell: Callable[[str], None]) -> Json:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        code = child.poll()
        if code is not None:
            raise StartFailed(
                _last_words(home, offset, code), exits.HOME_TAKEN if code == 4 else exits.FAILED
            )
        status = probe(socket_path(home))
        # Another daemon may answer at the socket while ours is on its way to say so.
        if status is not None and status.get("pid") == child.pid:
            return status
        time.sleep(PROBE_PAUSE_SECONDS)
    tell(f"it still runs, with pid {child.pid}")
    raise TimedOut(f"the daemon has not answered in {READY_SECONDS:.0f} s; its log is {log_path(home)}")


def probe(path: str) -> Json | None:
    """The status of the daemon at a socket; None if none answers. Errors: NotPermitted, Refused."""
    try:
        with Client.dial(path, PROBE_SECONDS) as client:
            status: Json = client.call("daemon.status", timeout_s=PROBE_SECONDS)
            return status
    except (NoDaemon, ConnectionLost, TimedOut):
        return None


def _last_words(home: str, offset: int, code: int) -> str:
    """Why a daemon ended, in its own words."""
    with open(log_path(home), "rb") as log:
        log.seek(offset)
        said = log.read().decode(errors="replace").strip().splitlines()
    lines = said[-LOG_TAIL_LINES:] or [f"exit code {code}, no message"]
    return "the daemon did not start: " + "\n  ".join(lines)


def alive(pid: int) -> bool:
    """Whether a process of that id runs; one that ended and was not yet waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except OSError:
        return False


def wait_gone(pid: int, timeout_s: float) -> bool:
    """Wait until a process has ended: whether it has, in time."""
    deadline = time.monotonic() + timeout_s
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(PROBE_PAUSE_SECONDS)
    return True
