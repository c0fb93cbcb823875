"""Notifications to systemd: readiness, reloads, the watchdog.

Without systemd there is no ``NOTIFY_SOCKET``, and nothing is sent.
"""

import os
import socket
import time
from collections.abc import MutableMapping

# The time of a stop beyond that of runs and connections: the last commit on a slow disk.
STOP_MARGIN_SECONDS = 10.0


class Notifier:
    """A sender of states to the service manager; failures to send are ignored."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        # Removed from the environment, so that no child process sends states of the daemon.
        name = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name

    def starting(self, status: str, within_s: float) -> None:
        """Extend the start timeout of the unit for a long step."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(within_s * 1_000_000)}\nSTATUS={status}")

    def ready(self, status: str) -> None:
        """Notify that the daemon answers requests, or that a reload has ended."""
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """Notify that a reload begins; the time identifies it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=Reloading")

    def stopping(self, status: str, within_s: float) -> None:
        """Notify that the daemon stops, and extend the stop timeout of the unit if necessary."""
        microseconds = round((within_s + STOP_MARGIN_SECONDS) * 1_000_000)
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={microseconds}\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Show a state in the service's status."""
        self._send(f"STATUS={' '.join(status.split())}")

    def alive(self) -> None:
        """Reset the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(1.0)
            try:
                channel.sendto(state.encode(), self._address)
            except OSError:
                return


def read_watchdog_seconds(environ: MutableMapping[str, str]) -> float | None:
    """Return the timeout of systemd's watchdog; None if there is no watchdog for this process."""
    pid, interval = environ.pop("WATCHDOG_PID", None), environ.pop("WATCHDOG_USEC", "")
    if pid not in (None, str(os.getpid())) or not interval.isdecimal() or not int(interval):
        return None
    return int(interval) / 1_000_000
