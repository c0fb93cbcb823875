"""Protected files that file tools wrote."""

import os
from pathlib import Path

import pytest

from kheishd.hooks.os.files import written
from kheishd.hooks.os.files.written import note_written, was_written


def test_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only protected files are remembered, with their identity, and the newest of them only."""
    monkeypatch.setattr(written, "MAX_WRITTEN", 2)
    directory = os.open(tmp_path, os.O_PATH)
    identities = {}
    for name in ("plain", ".envrc", ".bashrc", "AGENTS.md"):
        (tmp_path / name).touch()
        note_written(str(tmp_path), name, directory, name)
        status = (tmp_path / name).stat()
        identities[name] = (status.st_dev, status.st_ino)
    os.close(directory)
    remembered = [
        name for name, identity in identities.items() if was_written(f"{tmp_path}/{name}", identity)
    ]
    assert remembered == [".bashrc", "AGENTS.md"]
    assert not was_written(f"{tmp_path}/AGENTS.md", (0, 0))
    assert was_written(str(tmp_path), (0, 0))
