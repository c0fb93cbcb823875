"""Small file systems that are soon full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 2**20


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """Provide a small file system that is soon full."""
    directory.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(directory)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill_disk(descriptor: int) -> None:
    """Write to a file until not even one more byte fits."""
    for size in (MIB, 4096, 1):
        try:
            while True:
                os.write(descriptor, b"x" * size)
        except OSError:
            continue
