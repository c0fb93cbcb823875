"""The free space on the disk of the store that only the store may use.

Tools, commands, their output and debug captures refuse to write below it, so that none of them can fill the
disk on which the journal grows. Files on another disk are not limited.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from protocol.limits.units import MIB

if TYPE_CHECKING:
    from pathlib import Path

MAX_SHARE: Final = 20
"""On a small disk the reserve is at most this part of it: one twentieth."""


class DiskReserve:
    """The reserve of one store: its disk, and the free bytes that are kept for it. A process has one."""

    def __init__(self) -> None:
        self._device: int | None = None
        self._bytes = 0

    def keep(self, directory: Path, size: int) -> None:
        """Keep free space on the disk of a directory. A directory that does not exist has none."""
        self._device, self._bytes = None, size
        with suppress(OSError):
            self._device = os.stat(directory).st_dev

    def get_bytes(self, target: int | str) -> int:
        """Return the free bytes to keep on the disk of a path or an open file; 0 on any other disk."""
        if self._device is None:
            return 0
        try:
            if os.stat(target).st_dev != self._device:
                return 0
            status = os.statvfs(target)
        except OSError:
            return 0
        return min(self._bytes, status.f_blocks * status.f_frsize // MAX_SHARE)

    def find_problem(self, target: int | str, size: int) -> str | None:
        """Return the reason if ``size`` bytes may not be written to the disk of a path or an open file."""
        kept = self.get_bytes(target)
        if not kept:
            return None
        status = os.statvfs(target)
        if status.f_bavail * status.f_frsize - size >= kept:
            return None
        return (
            f"the disk is nearly full: its last {kept / MIB:.1f} MiB are kept for the daemon's store "
            "(the operator can lower daemon.reserve_bytes); free some space first"
        )


RESERVE: Final = DiskReserve()
