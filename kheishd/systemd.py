"""What systemd and the daemon tell each other: readiness, reloads, the watchdog.

Without systemd there is no ``NOTIFY_SOCKET`` and everything here does nothing.
"""

import os
import socket
import time
from collections.abc import MutableMapping

# What a stop takes beyond the time that runs and connections are given: the last commit on a slow disk.
STOP_MARGIN_SECONDS = 10.0


class Notifier:
    """Sends states to the service manager; a lost one is not worth an error."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        # Taken out of the environment, so that no child process speaks in our name.
        name = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name

    def ready(self, status: str) -> None:
        """The daemon answers requests; also said when a reload is done."""
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """A reload begins. The time tells systemd which of several reloads is meant."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=Reloading")

    def stopping(self, status: str, within_s: float) -> None:
        """The daemon stops, and wants this long before it is killed: longer than the unit says, perhaps."""
        microseconds = round((within_s + STOP_MARGIN_SECONDS) * 1_000_000)
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={microseconds}\nSTATUS={status}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """The watchdog need not bite."""
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


def watchdog_seconds(environ: MutableMapping[str, str]) -> float | None:
    """How long systemd waits for a sign of life before it kills us; None: it does not watch."""
    pid, interval = environ.pop("WATCHDOG_PID", None), environ.pop("WATCHDOG_USEC", "")
    if pid not in (None, str(os.getpid())) or not interval.isdecimal() or not int(interval):
        return None
    return int(interval) / 1_000_000
