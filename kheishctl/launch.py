"""Launch ``kheishd``: in the background, in the foreground, or for a maintenance command."""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from kheishctl import exit_codes
from kheishctl.client import Client, ConnectionLost, Failure, NoDaemon, TimedOut, resolve_socket
from protocol.text import sanitize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishctl.contract import Json

LOG_NAME = os.path.join("run", "kheishd.log")

# The log of a daemon in the background. A start empties a longer one.
MAX_LOG_BYTES = 10 * 1024 * 1024

# Variables that systemd sets for one service. They must not reach a daemon that a child of it starts.
SERVICE_VARIABLES = (
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)

# Append only, never through a link and never into a pipe.
LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

READY_SECONDS = 60.0
PROBE_PAUSE_SECONDS = 0.02
PROBE_SECONDS = 5.0

LOG_TAIL_LINES = 5
# Marks of lines, in text and JSON, that do not explain why a daemon ended.
ROUTINE = ("Z info ", "Z debug ", '"level":"info"', '"level":"debug"')


class StartFailed(Failure):
    """A daemon that ended before it answered: its exit code, and the end of its log as the message."""

    reason = "not_started"

    def __init__(self, message: str, exit_code: int = exit_codes.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def build_command(home: str, *arguments: str) -> list[str]:
    """Return the command line of ``kheishd``, run by this process's interpreter."""
    return [sys.executable, "-m", "kheishd", "--home", home, *arguments]


def build_environment() -> dict[str, str]:
    """Return an environment in which the command imports the same ``kheishd`` from any directory."""
    environ = {name: value for name, value in os.environ.items() if name not in SERVICE_VARIABLES}
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # In a source tree that is not installed, only the current directory makes the package importable.
    if root not in sys.path[1:]:
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))
    return environ


def exec_daemon(home: str, *arguments: str) -> NoReturn:
    """Replace this process by ``kheishd``."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, build_command(home, *arguments), build_environment())


def run_maintenance(home: str, *arguments: str) -> tuple[int, str]:
    """Run a maintenance command of ``kheishd`` on the store: its exit code, 0 or 1, and its output.

    Errors: Failure with the program's message, exit code 4 if a daemon uses the home.
    """
    import subprocess

    process = subprocess.run(
        build_command(home, *arguments),
        env=build_environment(),
        capture_output=True,
        check=False,
    )
    output, errors = (stream.decode(errors="replace").strip() for stream in (process.stdout, process.stderr))
    if process.returncode and not output:
        failure = Failure(errors.removeprefix("kheishd: ") or f"kheishd ended with {process.returncode}")
        failure.exit_code = exit_codes.HOME_TAKEN if process.returncode == 4 else exit_codes.FAILED
        raise failure
    sys.stderr.write(f"{sanitize(errors)}\n" if errors else "")
    return (exit_codes.FAILED if process.returncode else exit_codes.OK), output


def get_log_path(home: str) -> str:
    """Return the path of the log of a daemon in the background."""
    return os.path.join(home, LOG_NAME)


def start(home: str, arguments: Sequence[str] = (), *, note: Callable[[str], None] = lambda _: None) -> Json:
    """Start a daemon in the background, wait until it answers, and return its status.

    The daemon has its own session, the working directory ``/`` and its log in ``<home>/run``.
    Errors: StartFailed with the daemon's exit code and the end of its log; TimedOut.
    """
    # Imported here because 'status' is in the same module as 'start'.
    import subprocess

    run = os.path.join(home, "run")
    os.makedirs(run, mode=0o700, exist_ok=True)
    _require_own_directory(home)
    _require_own_directory(run)
    # On a full disk, the daemon writes its last message to its output, which is in memory.
    with os.fdopen(os.memfd_create("kheishd"), "rb") as output:
        log = _open_log(home)
        try:
            if os.fstat(log).st_size > MAX_LOG_BYTES:
                os.ftruncate(log, 0)
            offset = os.fstat(log).st_size
            child = subprocess.Popen(
                build_command(home, *arguments),
                env=build_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            code = child.poll()
            if code is not None:
                output.seek(0)
                message = _format_problems(_read_log(home, offset) + output.read())
                raise StartFailed(
                    f"the daemon did not start: {message or f'exit code {code}, no message'}",
                    code if code > 0 else exit_codes.FAILED,
                )
            status = probe(resolve_socket(home))
            # Another daemon may answer on the socket until the new one notices and ends.
            # A starting daemon may still find that its installation is damaged.
            if status is not None and status.get("pid") == child.pid and not status.get("starting"):
                return status
            time.sleep(PROBE_PAUSE_SECONDS)
    note(f"the daemon is still running, pid {child.pid}")
    raise TimedOut(f"the daemon has not answered in {READY_SECONDS:.0f} s; its log is {get_log_path(home)}")


def _open_log(home: str) -> int:
    """Open the log, or an always full file if the disk has no room for a new one. Errors: OSError."""
    try:
        return os.open(get_log_path(home), LOG_FLAGS, 0o600)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)


def _require_own_directory(directory: str) -> None:
    """Reject another user's directory, before anything is written into it. Errors: StartFailed."""
    owner = os.stat(directory).st_uid
    if owner != os.geteuid():
        raise StartFailed(
            f"{directory} belongs to the user with uid {owner}; run as that user, or choose another home "
            "with --home"
        )


def _read_log(home: str, offset: int) -> bytes:
    """Return the log from an offset on; nothing if there is no log."""
    try:
        with open(get_log_path(home), "rb") as log:
            log.seek(offset)
            return log.read()
    except FileNotFoundError:
        return b""


def _format_problems(log: bytes) -> str:
    """Return the last lines of a log, without those that report no problem."""
    lines = log.decode(errors="replace").strip().splitlines()
    problems = [line for line in lines if not any(word in line[:60] for word in ROUTINE)]
    return "\n  ".join(problems[-LOG_TAIL_LINES:])


def probe(path: str) -> Json | None:
    """Return the status of the daemon on a socket; None without a daemon.

    Errors: SocketForbidden, RequestRefused.
    """
    try:
        with Client.dial(path, PROBE_SECONDS) as client:
            status: Json = client.call("daemon.status", timeout_s=PROBE_SECONDS)
            return status
    except (NoDaemon, ConnectionLost, TimedOut):
        return None


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except OSError:
        return False


def wait_for_exit(pid: int, timeout_s: float) -> bool:
    """Wait until a process has ended; return whether it ended in time."""
    deadline = time.monotonic() + timeout_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(PROBE_PAUSE_SECONDS)
    return True
