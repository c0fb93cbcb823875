"""Transactions: all files change or none, whatever fails, and no temporary file remains."""

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kheishd.hooks.os.files.confinement import Root, open_root
from kheishd.hooks.os.files.edits import (
    ABSENT,
    PIECE_BYTES,
    ApplyPatch,
    Edit,
    EditFile,
    FileChange,
    FileState,
    WriteFile,
    edits_of,
    read_state,
)
from kheishd.hooks.os.files.transaction import (
    PathLocks,
    apply_changes,
    collect_digests,
    lock_workspace,
    make_changes,
    preview_changes,
    probe_changes,
    remove_temporary_files,
    restore_file,
    temporary_names,
)
from kheishd.hooks.os.umask import restrict_umask
from kheishd.kernel.hook import ProbeResult, Stale, ToolError
from protocol.limits.call import MAX_EVIDENCE_BYTES, MAX_SUBJECT_BYTES
from protocol.limits.files import MAX_PATCH_FILES
from tests.support.desk import full_disk


class GivenUp(Exception):
    """The caller was cancelled."""


def change(root: Root, path: str, updated: bytes) -> FileChange:
    """Return a change of a file in its current state."""
    return FileChange(read_state(root, path), updated)


def make(workspace: Path, *, check: Callable[[], object] = lambda: None, **files: bytes) -> None:
    """Give files new contents."""
    with open_root(str(workspace)) as root:
        apply_changes(root, [change(root, path, updated) for path, updated in files.items()], "key", check)


def contents(workspace: Path) -> dict[str, bytes]:
    """Return the contents of all files, hidden ones included."""
    return {
        str(path.relative_to(workspace)): path.read_bytes() for path in workspace.rglob("*") if path.is_file()
    }


@pytest.fixture
def starter_umask() -> Iterator[int]:
    """Provide the umask of the process that starts a daemon, under which the daemon restricts its own."""
    previous = os.umask(0o027)
    restrict_umask()
    yield 0o027
    os.umask(previous)
    restrict_umask()
    os.umask(previous)


def test_new_and_old_files(tmp_path: Path, starter_umask: int) -> None:
    """Directories are created; an old file keeps its mode, new ones have that of the starter's umask."""
    (tmp_path / "old").write_bytes(b"before")
    (tmp_path / "old").chmod(0o750)
    with open_root(str(tmp_path)) as root:
        apply_changes(root, [change(root, "old", b"after"), change(root, "a/b/new", b"")], "key")
    assert contents(tmp_path) == {"old": b"after", "a/b/new": b""}
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "a" / "b" / "new").stat().st_mode & 0o777 == 0o666 & ~starter_umask
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o777 & ~starter_umask


def test_new_directories_stay_in_the_group(tmp_path: Path) -> None:
    """A directory below one with the setgid bit has the bit, too, so that its files belong to the group."""
    tmp_path.chmod(0o2770)
    with open_root(str(tmp_path)) as root:
        apply_changes(root, [change(root, "a/b/new", b"")], "key")
    assert (tmp_path / "a" / "b").stat().st_mode & stat.S_ISGID


def test_an_edit_keeps_the_attributes(tmp_path: Path) -> None:
    """An edited file keeps owner, group, mode and extended attributes, and remains one file of one name."""
    file = tmp_path / "f"
    file.write_bytes(b"before")
    if os.geteuid() == 0:
        os.chown(file, 1234, 2345)
    file.chmod(0o4755)
    os.setxattr(file, "user.origin", b"elsewhere")
    before = file.stat()
    make(tmp_path, f=b"after")
    after = file.stat()
    assert file.read_bytes() == b"after"
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert os.getxattr(file, "user.origin") == b"elsewhere"


def test_an_edit_keeps_hard_links(tmp_path: Path) -> None:
    """A file with two names is overwritten in place; a longer, a shorter and an empty content fit."""
    (tmp_path / "f").write_bytes(b"before")
    os.link(tmp_path / "f", tmp_path / "other")
    for content in (b"something longer", b"short", b""):
        make(tmp_path, f=content)
        assert contents(tmp_path) == {"f": content, "other": content}


def test_a_failed_patch_restores_a_file_with_two_names(tmp_path: Path) -> None:
    """If a later file of a patch cannot be changed, an overwritten one gets its old content back."""
    (tmp_path / "a").write_bytes(b"one")
    os.link(tmp_path / "a", tmp_path / "other")
    (tmp_path / "b").write_bytes(b"two")
    with open_root(str(tmp_path)) as root:
        changes = [change(root, "a", b"longer than before"), change(root, "b", b"2")]
        (tmp_path / "b").write_bytes(b"changed by another program")
        with pytest.raises(Stale):
            apply_changes(root, changes, "key")
    assert contents(tmp_path) == {"a": b"one", "other": b"one", "b": b"changed by another program"}


@pytest.mark.parametrize("written", [0, 3, 9, 12])
def test_a_half_written_file_is_restored(tmp_path: Path, written: int) -> None:
    """After a crash in the middle of overwriting, the probe restores the old content."""
    new, old = b"new content.", b"the old content, which is longer"
    (tmp_path / "f").write_bytes(old)
    os.link(tmp_path / "f", tmp_path / "other")
    edits = edits_of(WriteFile(path="f", content=new.decode()), str(tmp_path))
    evidence = collect_digests(str(tmp_path), edits)
    for name, content in zip(temporary_names("key", "f"), (new, old), strict=True):
        (tmp_path / name).write_bytes(content)
    with (tmp_path / "f").open("r+b") as file:
        file.write(new[:written])
    assert probe_changes(str(tmp_path), edits, "key", evidence).outcome == "not_done"
    assert contents(tmp_path) == {"f": old, "other": old}


def test_an_edit_by_a_person_after_a_crash_is_not_undone(tmp_path: Path) -> None:
    """A file with content of its own stays as it is, and the call's outcome is unknown."""
    (tmp_path / "f").write_bytes(b"old")
    edits = edits_of(WriteFile(path="f", content="new"), str(tmp_path))
    evidence = collect_digests(str(tmp_path), edits)
    for name, content in zip(temporary_names("key", "f"), (b"new", b"old"), strict=True):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "f").write_bytes(b"a person's")
    assert probe_changes(str(tmp_path), edits, "key", evidence).outcome == "unknown"
    assert contents(tmp_path) == {"f": b"a person's"}


def is_refused(workspace: Path) -> bool:
    """Whether the preview and the change of a read-only file are refused, and the file stays."""
    edits = edits_of(WriteFile(path="f", content="after"), str(workspace))
    for attempt in (partial(preview_changes, str(workspace), edits), partial(make, workspace, f=b"after")):
        try:
            attempt()
        except ToolError as error:
            if "f is read-only for the daemon's user (its mode is 0444)" not in str(error):
                return False
        else:
            return False
    return (workspace / "f").read_bytes() == b"before"


def test_a_read_only_file_is_refused() -> None:
    """A file that the system would not let the daemon write is not replaced; the preview says so."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        (Path(directory) / "f").write_bytes(b"before")
        (Path(directory) / "f").chmod(0o444)
        if os.geteuid() != 0:
            assert is_refused(Path(directory))
            return
        # Nothing is read-only for root, so a child without its rights tries.
        for path in (directory, f"{directory}/f"):
            os.chown(path, 65534, 65534)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os._exit(0 if is_refused(Path(directory)) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_the_old_file_is_never_torn(tmp_path: Path) -> None:
    """A reader that has the old file open still reads all of it."""
    (tmp_path / "f").write_bytes(b"before")
    with (tmp_path / "f").open("rb") as reader:
        make(tmp_path, f=b"after")
        assert reader.read() == b"before"


def test_the_preview_names_a_file_with_two_names(tmp_path: Path) -> None:
    """A file with another name, perhaps outside the workspace, changes under both; the preview says so."""
    (tmp_path / "ws").mkdir()
    (tmp_path / "outside").write_bytes(b"before")
    os.link(tmp_path / "outside", tmp_path / "ws" / "f")
    workspace = str(tmp_path / "ws")
    preview = preview_changes(workspace, edits_of(WriteFile(path="f", content="after"), workspace))
    assert preview.text.startswith("# f has 2 hard links: the file changes under each of its names.\n")
    make(tmp_path / "ws", f=b"after")
    assert (tmp_path / "outside").read_bytes() == b"after"


@pytest.mark.parametrize("stop_at", range(1, 7))
def test_given_up_before_the_first_renaming(tmp_path: Path, stop_at: int) -> None:
    """A cancellation before the first rename leaves everything unchanged."""
    original = {"f": b"one", "g": b"two"}
    for path, content in original.items():
        (tmp_path / path).write_bytes(content)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise GivenUp

    large = b"x" * (PIECE_BYTES * 2 + 1)
    with pytest.raises(GivenUp):
        make(tmp_path, check=check, f=large, g=large)
    assert contents(tmp_path) == original


def test_a_full_disk(tmp_path: Path) -> None:
    """If the second file does not fit, the first is unchanged, too, and nothing remains."""
    (tmp_path / "f").write_bytes(b"one")
    (tmp_path / "g").write_bytes(b"two")
    with full_disk(), pytest.raises(ToolError, match="g: the file would be larger than this system allows"):
        make(tmp_path, f=b"fits", g=b"x" * 10_000)
    assert contents(tmp_path) == {"f": b"one", "g": b"two"}


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    """The system's error is reported; in /sys not even root can create a file."""
    for path in ("kheish", "kheish/new"):
        with pytest.raises(
            ToolError, match=rf"{path}: (permission denied|operation not permitted|it cannot be)"
        ):
            with open_root("/sys/kernel") as root:
                apply_changes(root, [FileChange(FileState(path, "absent"), b"x")], "key")


def test_what_was_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """A file that changes, vanishes or appears before the rename makes the call stale."""
    (tmp_path / "f").write_bytes(b"one")
    (tmp_path / "gone").write_bytes(b"one")
    with open_root(str(tmp_path)) as root:
        changes = {path: change(root, path, b"mine") for path in ("f", "gone", "new")}
        (tmp_path / "f").write_bytes(b"theirs")
        (tmp_path / "gone").unlink()
        (tmp_path / "new").symlink_to("f")
        for item in changes.values():
            with pytest.raises(Stale, match=f"{item.path} was changed by another program"):
                apply_changes(root, [item], "key")
    assert contents(tmp_path) == {"f": b"theirs", "new": b"theirs"}


def test_several_files_are_rolled_back(tmp_path: Path) -> None:
    """If the last rename fails, old files are restored and new ones removed."""
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "a").chmod(0o640)
    (tmp_path / "z").write_bytes(b"two")
    with open_root(str(tmp_path)) as root:
        changes = [change(root, path, b"mine") for path in ("a", "new", "z")]
        (tmp_path / "z").write_bytes(b"theirs")
        with pytest.raises(Stale):
            apply_changes(root, changes, "key")
    assert contents(tmp_path) == {"a": b"one", "z": b"theirs"}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    """A directory is not replaced, and the other files stay unchanged."""
    with open_root(str(tmp_path)) as root:
        changes = [change(root, "a", b"mine"), change(root, "b", b"mine")]
        (tmp_path / "b").mkdir()
        with pytest.raises(Stale):
            apply_changes(root, changes, "key")
    assert contents(tmp_path) == {}


def test_what_a_killed_call_left_is_overwritten(tmp_path: Path) -> None:
    """A call that is run again overwrites its own temporary files, and follows no link."""
    new, old = temporary_names("key", "f")
    (tmp_path / "f").write_bytes(b"one")
    (tmp_path / "g").write_bytes(b"two")
    (tmp_path / new).write_bytes(b"half")
    (tmp_path / old).symlink_to("/dev/null")
    make(tmp_path, f=b"after", g=b"after")
    assert contents(tmp_path) == {"f": b"after", "g": b"after"}


def test_put_back_and_tidy(tmp_path: Path) -> None:
    """The old content is restored if its digest is right, and temporary files are removed."""
    with open_root(str(tmp_path)) as root:
        for path in ("f", "g", "h"):
            _, old = temporary_names("key", path)
            (tmp_path / path).write_bytes(b"after")
            if path != "h":
                (tmp_path / old).write_bytes(b"before")
        digest = read_state(root, temporary_names("key", "f")[1]).digest
        restore_file(root, "f", "key", digest)
        restore_file(root, "g", "key", "0" * 64)
        restore_file(root, "h", "key", digest)
        restore_file(root, "gone/x", "key", digest)
        for path in ("f", "g", "h", "gone/x"):
            remove_temporary_files(root, path, "key")
    assert contents(tmp_path) == {"f": b"before", "g": b"after", "h": b"after"}


def test_the_lock_keeps_others_out(tmp_path: Path) -> None:
    """Another daemon waits for the lock, for a limited time, and can be cancelled."""
    with open_root(str(tmp_path)) as root:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(GivenUp):
                with lock_workspace(root, _give_up):
                    raise AssertionError("held by two")
            with pytest.raises(ToolError, match="another program holds"), lock_workspace(root, wait_s=0.02):
                raise AssertionError("held by two")
        finally:
            os.close(descriptor)
        with lock_workspace(root), pytest.raises(BlockingIOError):
            fcntl.flock(another_one := os.open(tmp_path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(another_one)


def _give_up() -> None:
    raise GivenUp


# The uses of a call: preview, evidence, change and probe agree.


def digest(content: bytes) -> str:
    """Return the digest as evidence has it."""
    return hashlib.sha256(content).hexdigest()


def patch(workspace: Path, **new: str) -> list[Edit]:
    """Return edits that replace "old" in some files."""
    hunks = [EditFile(path=path, old_text="old", new_text=text) for path, text in new.items()]
    return edits_of(ApplyPatch(hunks=hunks), str(workspace))


@pytest.fixture
def ws(tmp_path: Path) -> Path:
    """Return a workspace with two files."""
    for path in ("f", "g"):
        (tmp_path / path).write_text("old")
    return tmp_path


def test_shown_noted_done(ws: Path) -> None:
    """The preview binds to the current state, the evidence has both, and then the change is made."""
    orders = patch(ws, g="two", f="one")
    preview = preview_changes(str(ws), orders)
    assert (preview.kind, preview.text.count("-old")) == ("diff", 2)
    assert collect_digests(str(ws), orders) == {
        "before": [digest(b"old")] * 2,
        "after": [digest(b"one"), digest(b"two")],
    }
    changes = make_changes(str(ws), orders, "key", preview.binding)
    assert [change.digest for change in changes] == [digest(b"one"), digest(b"two")]
    assert ((ws / "f").read_text(), (ws / "g").read_text()) == ("one", "two")


def test_showing_and_noting_make_nothing(tmp_path: Path) -> None:
    """Preview and evidence create nothing, not even directories."""
    orders = edits_of(WriteFile(path="a/b", content="new"), str(tmp_path))
    assert preview_changes(str(tmp_path), orders).text.startswith("--- /dev/null\n+++ b/a/b\n")
    assert collect_digests(str(tmp_path), orders) == {"before": [ABSENT], "after": [digest(b"new")]}
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done(ws: Path) -> None:
    """An impossible change has no preview and no evidence, and changes no file."""
    orders = patch(ws, f="one", gone="two")
    with pytest.raises(ToolError, match="there is no gone"):
        preview_changes(str(ws), orders)
    assert collect_digests(str(ws), orders) == {}
    with pytest.raises(ToolError, match="there is no gone"):
        make_changes(str(ws), orders, "key", None)
    assert (ws / "f").read_text() == "old"


@pytest.mark.parametrize("content", ["other", "old and more", None])
def test_what_was_shown_is_not_there_any_more(ws: Path, content: str | None) -> None:
    """A changed state makes the call stale, even if the edit is still possible."""
    orders = patch(ws, f="one", g="two")
    binding = preview_changes(str(ws), orders).binding
    (ws / "g").unlink()
    if content is not None:
        (ws / "g").write_text(content)
    with pytest.raises(Stale):
        make_changes(str(ws), orders, "key", binding)
    assert (ws / "f").read_text() == "old"


def test_a_file_that_came_into_being_is_stale_too(tmp_path: Path) -> None:
    """A file that appeared since the preview is not overwritten."""
    orders = edits_of(WriteFile(path="f", content="new"), str(tmp_path))
    binding = preview_changes(str(tmp_path), orders).binding
    (tmp_path / "f").write_text("")
    with pytest.raises(Stale):
        make_changes(str(tmp_path), orders, "key", binding)


def after_kill(ws: Path, saved: str = "old", **contents: str) -> tuple[ProbeResult, dict[str, str]]:
    """Return the finding of a probe with these files after a kill, and their contents then."""
    orders = patch(ws, f="one", g="two")
    evidence = collect_digests(str(ws), orders)
    for path, content in contents.items():
        new, old = temporary_names("key", path)
        (ws / path).write_text(content)
        (ws / old).write_text(saved)
        (ws / new).write_text("half")
    finding = probe_changes(str(ws), orders, "key", evidence)
    return finding, {path.name: path.read_text() for path in ws.iterdir()}


def test_killed_after_all(ws: Path) -> None:
    """A call that was killed at its end is done, and its temporary files are removed."""
    finding, files = after_kill(ws, f="one", g="two")
    assert (finding.outcome, files) == ("done", {"f": "one", "g": "two"})


def test_killed_before_anything(ws: Path) -> None:
    """A call that was killed before its first rename may be run again."""
    finding, files = after_kill(ws, f="old", g="old")
    assert (finding.outcome, files) == ("not_done", {"f": "old", "g": "old"})


def test_killed_half_way(ws: Path) -> None:
    """A half-made change is rolled back."""
    finding, files = after_kill(ws, f="one", g="old")
    assert (finding.outcome, files) == ("not_done", {"f": "old", "g": "old"})


def test_killed_half_way_and_what_was_replaced_is_lost(ws: Path) -> None:
    """If the saved content is wrong, the outcome is unknown, and the digests are returned."""
    finding, files = after_kill(ws, saved="something", f="one", g="old")
    assert (finding.outcome, files) == ("unknown", {"f": "one", "g": "old"})
    assert finding.evidence == {"found": [digest(b"one"), digest(b"old")]}


def test_killed_and_changed_by_somebody_since(ws: Path) -> None:
    """Nothing is rolled back over another program's change."""
    finding, files = after_kill(ws, f="one", g="theirs")
    assert (finding.outcome, files) == ("unknown", {"f": "one", "g": "theirs"})


@pytest.mark.parametrize("evidence", [{}, {"before": ["x"], "after": ["x"]}])
def test_without_evidence_nobody_can_tell(ws: Path, evidence: dict[str, Any]) -> None:
    """Without evidence, or with another call's, the outcome is unknown."""
    assert probe_changes(str(ws), patch(ws, f="one", g="two"), "key", evidence).outcome == "unknown"


def test_the_same_content_written_again_is_done(ws: Path) -> None:
    """A call that changes nothing is done: before and after are one state."""
    orders = edits_of(WriteFile(path="f", content="old"), str(ws))
    assert probe_changes(str(ws), orders, "key", collect_digests(str(ws), orders)).outcome == "done"


def test_evidence_fits(tmp_path: Path) -> None:
    """The evidence of the largest patch fits its limit."""
    width = MAX_SUBJECT_BYTES // MAX_PATCH_FILES - 1
    paths = [f"{number:0{width}}" for number in range(MAX_PATCH_FILES)]
    for path in paths:
        (tmp_path / path).write_text("old")
    orders = patch(tmp_path, **dict.fromkeys(paths, "new"))
    evidence = collect_digests(str(tmp_path), orders)
    assert len(evidence["after"]) == MAX_PATCH_FILES
    assert len(msgspec.json.encode(evidence)) <= MAX_EVIDENCE_BYTES
    assert len(make_changes(str(tmp_path), orders, "key", None)) == MAX_PATCH_FILES


# Locks of paths.


async def test_one_at_a_time() -> None:
    """A second call waits for the path; other paths are free."""
    locks = PathLocks()
    order: list[str] = []

    async def hold(name: str, *paths: str) -> None:
        async with locks.lock(paths):
            order.append(f"{name} in")
            await trio.lowlevel.checkpoint()
            order.append(f"{name} out")

    async with trio.open_nursery() as nursery:
        async with locks.lock(["a"]):
            nursery.start_soon(hold, "second", "a")
            await wait_all_tasks_blocked()
            await hold("other", "b")
        assert order == ["other in", "other out"]
    assert order[2:] == ["second in", "second out"]
    assert len(locks) == 0


async def test_nobody_waits_in_a_ring() -> None:
    """Calls cannot deadlock, in whatever order they name paths, also twice."""
    locks = PathLocks()

    async def hold(*paths: str) -> None:
        for _ in range(20):
            async with locks.lock(paths):
                await trio.lowlevel.checkpoint()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, "a", "b", "a")
            nursery.start_soon(hold, "b", "a")
            nursery.start_soon(hold, "b")
    assert len(locks) == 0


async def test_who_gives_up_waiting_leaves_the_lock_to_others() -> None:
    """A cancelled wait neither loses nor duplicates the lock."""
    locks = PathLocks()
    async with locks.lock(["a"]):
        with trio.move_on_after(0) as scope:
            async with locks.lock(["a"]):
                raise AssertionError("held by two")
        assert scope.cancelled_caught
        assert len(locks) == 1
    assert len(locks) == 0
