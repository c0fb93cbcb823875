"""Control groups: where they are found, and how the delegated one is divided."""

import logging
import os
from pathlib import Path

import pytest

from kheishd.hooks.os.shell.cgroup import CommandGroups, find_own_group, is_delegated

MOUNTS = "24 1 0:21 / /proc rw - proc proc rw\n30 1 0:26 {root} {mounted} rw - cgroup2 cgroup2 rw\n"


def make_proc(directory: Path, own: str, mounted: Path, root: str = "/") -> Path:
    """Make the files of a process in a group of a tree."""
    directory.mkdir()
    (directory / "cgroup").write_text(f"9:name=systemd:/\n0::{own}\n")
    (directory / "mountinfo").write_text(MOUNTS.format(root=root, mounted=mounted))
    return directory


def make_group(path: Path, controllers: str = "cpu memory pids", *, delegated: bool = True) -> Path:
    """Make a directory with the files of a group, marked as the service manager does."""
    path.mkdir(parents=True)
    (path / "cgroup.controllers").write_text(controllers)
    (path / "cgroup.procs").write_text("11\n12\n")
    if delegated:
        os.setxattr(path, "user.delegate", b"1")
    return path


@pytest.mark.parametrize(
    ("own", "root", "place"),
    [
        ("/a.slice/b.service", "/", "a.slice/b.service"),
        ("/a/b", "/a", "b"),
        ("/", "/", "."),
        ("/x", "/a", None),
    ],
)
def test_the_own_group(tmp_path: Path, own: str, root: str, place: str | None) -> None:
    """The group is found below the mount of the tree, of which a container may see a part only."""
    proc = make_proc(tmp_path / "proc", own, tmp_path / "tree", root)
    assert find_own_group(proc) == (None if place is None else tmp_path / "tree" / place)


def test_names_of_any_bytes(tmp_path: Path) -> None:
    """Names of other mounts and of the own group may contain any byte that the kernel does not escape."""
    proc = make_proc(tmp_path / "proc", "/a\v\u2028b", tmp_path / "tree")
    mounts = (proc / "mountinfo").read_bytes()
    (proc / "mountinfo").write_bytes(b"23 1 0:9 / /mnt/u\xff\v\xc2\x85\r\x1c rw - tmpfs none rw\n" + mounts)
    assert find_own_group(proc) == tmp_path / "tree" / "a\v\u2028b"


def test_no_unified_tree(tmp_path: Path) -> None:
    """Without cgroup v2, or without /proc, there is no group."""
    assert find_own_group(tmp_path / "missing") is None
    proc = make_proc(tmp_path / "proc", "/x", tmp_path)
    (proc / "mountinfo").write_text("24 1 0:21 / /proc rw - proc proc rw\n")
    assert find_own_group(proc) is None


@pytest.mark.parametrize("own", ["/k.service", "/k.service/daemon"])
def test_a_delegated_group_is_divided(tmp_path: Path, own: str, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon moves into a group of its own, and each command gets one with limits."""
    caplog.set_level(logging.INFO, "kheishd.sandbox")
    unit = make_group(tmp_path / "tree/k.service")
    make_group(unit / "commands/old", delegated=False)
    (unit / "commands/empty").mkdir()
    groups = CommandGroups()
    assert groups.name("mark") == ""
    groups.prepare(make_proc(tmp_path / "proc", own, tmp_path / "tree"))
    assert groups.name("mark") == str(unit / "commands/mark")
    assert (unit / "daemon/cgroup.procs").read_text() == "12"
    for group in (unit, unit / "commands"):
        assert (group / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert sorted(path.name for path in (unit / "commands").iterdir() if path.is_dir()) == ["old"]
    assert "commands have control groups" in caplog.text


def test_groups_of_others_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A group that was not delegated, or lacks a controller, is not touched; an unusable one is reported."""
    for name, group in {
        "foreign": make_group(tmp_path / "tree/foreign", delegated=False),
        "few": make_group(tmp_path / "tree/few", "cpu memory"),
    }.items():
        groups = CommandGroups()
        groups.prepare(make_proc(tmp_path / name, f"/{name}", tmp_path / "tree"))
        assert groups.name("mark") == ""
        assert not (group / "daemon").exists()
    assert caplog.text == ""
    broken = make_group(tmp_path / "tree/broken")
    (broken / "daemon").write_text("not a directory")
    groups.prepare(make_proc(tmp_path / "broken", "/broken", tmp_path / "tree"))
    assert groups.name("mark") == ""
    assert "the limits of commands are watched instead" in caplog.text
    assert not is_delegated(tmp_path / "missing")


def test_a_command_without_its_keeper(tmp_path: Path) -> None:
    """The group of a command whose keeper was killed is killed; one that is not there is no problem."""
    groups = CommandGroups()
    groups.kill("mark")
    make_group(tmp_path / "tree" / "unit")
    groups.prepare(make_proc(tmp_path / "proc", "/unit", tmp_path / "tree"))
    groups.kill("mark")
    group = Path(groups.name("mark"))
    group.mkdir()
    groups.kill("mark")
    assert (group / "cgroup.kill").read_text() == "1"
