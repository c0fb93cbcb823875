"""Directories of captures are private, and links are not followed."""

import os
import stat
from pathlib import Path

import pytest

from kheishd.debug.directories import (
    ArtifactFile,
    CaptureRefused,
    create_file,
    find_unused_stem,
    list_files,
    open_directory,
    open_run_directory,
    read_file,
    write_all,
)

STEM = "turn-0001-attempt-0001"


def test_directories_are_private(tmp_path: Path) -> None:
    """Directories and files are private whatever the umask is, and existing directories are made so."""
    (tmp_path / "debug").mkdir(mode=0o755)
    umask = os.umask(0)
    try:
        with open_directory(str(tmp_path / "debug")) as parent:
            directory = open_run_directory("run_1", parent, create=True)
            os.close(create_file(directory, "x"))
            os.close(directory)
    finally:
        os.umask(umask)
    for path, mode in (("debug", 0o700), ("debug/run_1", 0o700), ("debug/run_1/x", 0o600)):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode


def test_links_are_refused(tmp_path: Path) -> None:
    """A link to a directory is not opened, and neither is a file."""
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with (
            pytest.raises(CaptureRefused, match="is a link or not a directory"),
            open_directory(str(tmp_path / name), create=True),
        ):
            pass


@pytest.mark.parametrize("run_id", ["..", ".", "a/b", "", "a" * 200])
def test_ids_that_cannot_name_a_directory(tmp_path: Path, run_id: str) -> None:
    """A run's id never leads out of the directory of captures."""
    with open_directory(str(tmp_path)) as parent, pytest.raises(CaptureRefused, match="cannot be the name"):
        open_run_directory(run_id, parent, create=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_directory_of_another_user(tmp_path: Path) -> None:
    """A directory that belongs to another user is refused."""
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(CaptureRefused, match="uid 12345"), open_directory(str(tmp_path)):
        pass


def test_only_artifacts_are_listed(tmp_path: Path) -> None:
    """Files with other names and links are ignored; artifacts are in the order of a call."""
    with open_directory(str(tmp_path)) as directory:
        for kind in ("answer.json", "events.jsonl", "request.json"):
            descriptor = create_file(directory, f"{STEM}-{kind}")
            write_all(descriptor, b"12345")
            os.close(descriptor)
        (tmp_path / "notes").write_text("")
        (tmp_path / "turn-0001-attempt-0002-request.json").symlink_to(f"{STEM}-request.json")
        files = list_files(directory)
        assert [file.kind for file in files] == ["request", "events", "answer"]
        modified_ns = (tmp_path / f"{STEM}-request.json").stat().st_mtime_ns
        assert files[0] == ArtifactFile(f"{STEM}-request.json", STEM, "request", 5, modified_ns)
        assert read_file(directory, files[0].name) == b"12345"
        assert find_unused_stem(directory, STEM) == f"{STEM}-again-0002"
