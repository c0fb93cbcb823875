"""Changing files: whole or not at all, whatever goes wrong, and nothing left beside."""

import fcntl
import hashlib
import os
from collections.abc import Callable
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
from kheishd.kernel.hook import ProbeResult, Stale, ToolError
from protocol.limits.call import MAX_EVIDENCE_BYTES, MAX_SUBJECT_BYTES
from protocol.limits.files import MAX_PATCH_FILES
from tests.support.desk import full_disk


class GivenUp(Exception):
    """Nobody wants it any more."""


def change(root: Root, path: str, after: bytes) -> FileChange:
    """A change of what is there now."""
    return FileChange(read_state(root, path), after)


def make(workspace: Path, *, check: Callable[[], object] = lambda: None, **files: bytes) -> None:
    """Give files new contents."""
    with open_root(str(workspace)) as root:
        apply_changes(root, [change(root, path, after) for path, after in files.items()], "key", check)


def contents(workspace: Path) -> dict[str, bytes]:
    """Every file there is, whatever it is called."""
    return {
        str(path.relative_to(workspace)): path.read_bytes() for path in workspace.rglob("*") if path.is_file()
    }


def test_new_and_old_files(tmp_path: Path) -> None:
    """Directories are made; the mode of an old file stays, that of a new one is the usual."""
    (tmp_path / "old").write_bytes(b"before")
    (tmp_path / "old").chmod(0o750)
    with open_root(str(tmp_path)) as root:
        apply_changes(root, [change(root, "old", b"after"), change(root, "a/b/new", b"")], "key")
    assert contents(tmp_path) == {"old": b"after", "a/b/new": b""}
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "a" / "b" / "new").stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_old_file_is_never_torn(tmp_path: Path) -> None:
    """Who had it open goes on reading the old one, whole."""
    (tmp_path / "f").write_bytes(b"before")
    with (tmp_path / "f").open("rb") as reader:
        make(tmp_path, f=b"after")
        assert reader.read() == b"before"


def test_a_file_with_two_names_is_changed_under_one(tmp_path: Path) -> None:
    """The other name may lie outside of the workspace."""
    (tmp_path / "ws").mkdir()
    (tmp_path / "outside").write_bytes(b"before")
    os.link(tmp_path / "outside", tmp_path / "ws" / "f")
    make(tmp_path / "ws", f=b"after")
    assert (tmp_path / "outside").read_bytes() == b"before"


@pytest.mark.parametrize("stop_at", range(1, 7))
def test_given_up_before_the_first_renaming(tmp_path: Path, stop_at: int) -> None:
    """Nothing has happened, and nothing is left."""
    before = {"f": b"one", "g": b"two"}
    for path, content in before.items():
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
    assert contents(tmp_path) == before


def test_a_full_disk(tmp_path: Path) -> None:
    """The second file does not fit: the first is not changed either, and nothing is left beside."""
    (tmp_path / "f").write_bytes(b"one")
    (tmp_path / "g").write_bytes(b"two")
    with full_disk(), pytest.raises(ToolError, match="g: the file would be larger than this system allows"):
        make(tmp_path, f=b"fits", g=b"x" * 10_000)
    assert contents(tmp_path) == {"f": b"one", "g": b"two"}


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    """What the system says is told; /sys takes new files from nobody, not even from root."""
    for path in ("kheish", "kheish/new"):
        with pytest.raises(
            ToolError, match=rf"{path}: (permission denied|operation not permitted|it cannot be)"
        ):
            with open_root("/sys/kernel") as root:
                apply_changes(root, [FileChange(FileState(path, "absent"), b"x")], "key")


def test_what_was_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Between looking and renaming: changed, gone, or come into being."""
    (tmp_path / "f").write_bytes(b"one")
    (tmp_path / "gone").write_bytes(b"one")
    with open_root(str(tmp_path)) as root:
        changes = {path: change(root, path, b"mine") for path in ("f", "gone", "new")}
        (tmp_path / "f").write_bytes(b"theirs")
        (tmp_path / "gone").unlink()
        (tmp_path / "new").symlink_to("f")
        for each in changes.values():
            with pytest.raises(Stale, match=f"{each.path} was changed by another program"):
                apply_changes(root, [each], "key")
    assert contents(tmp_path) == {"f": b"theirs", "new": b"theirs"}


def test_several_files_are_rolled_back(tmp_path: Path) -> None:
    """When the last one cannot be renamed, the others are what they were: the old ones back, the new gone."""
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
    """It is not replaced, and what was to be beside it is not, either."""
    with open_root(str(tmp_path)) as root:
        changes = [change(root, "a", b"mine"), change(root, "b", b"mine")]
        (tmp_path / "b").mkdir()
        with pytest.raises(Stale):
            apply_changes(root, changes, "key")
    assert contents(tmp_path) == {}


def test_what_a_killed_call_left_is_overwritten(tmp_path: Path) -> None:
    """By the same call, when it is run again; a link in its place is not followed."""
    new, old = temporary_names("key", "f")
    (tmp_path / "f").write_bytes(b"one")
    (tmp_path / "g").write_bytes(b"two")
    (tmp_path / new).write_bytes(b"half")
    (tmp_path / old).symlink_to("/dev/null")
    make(tmp_path, f=b"after", g=b"after")
    assert contents(tmp_path) == {"f": b"after", "g": b"after"}


def test_put_back_and_tidy(tmp_path: Path) -> None:
    """What was replaced comes back, if it is what it should be; then nothing is left beside."""
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
    """Another daemon that works here waits, not for ever, and not if nobody wants it any more."""
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
            fcntl.flock(other := os.open(tmp_path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)


def _give_up() -> None:
    raise GivenUp


# A call that changes files: what is shown, noted, done and found out afterwards is one thing.


def digest(content: bytes) -> str:
    """As evidence has it."""
    return hashlib.sha256(content).hexdigest()


def patch(workspace: Path, **new: str) -> list[Edit]:
    """Orders to replace "old" by something, in some files."""
    hunks = [EditFile(path=path, old_text="old", new_text=text) for path, text in new.items()]
    return edits_of(ApplyPatch(hunks=hunks), str(workspace))


@pytest.fixture
def ws(tmp_path: Path) -> Path:
    """A workspace with two files."""
    for path in ("f", "g"):
        (tmp_path / path).write_text("old")
    return tmp_path


def test_shown_noted_done(ws: Path) -> None:
    """The preview binds to what is there, evidence has both states, and then the second is there."""
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
    """Not even directories; a new file is shown and noted as absent."""
    orders = edits_of(WriteFile(path="a/b", content="new"), str(tmp_path))
    assert preview_changes(str(tmp_path), orders).text.startswith("--- /dev/null\n+++ b/a/b\n")
    assert collect_digests(str(tmp_path), orders) == {"before": [ABSENT], "after": [digest(b"new")]}
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done(ws: Path) -> None:
    """Is not shown, nothing is noted, and nothing is done, also to the file that comes first."""
    orders = patch(ws, f="one", gone="two")
    with pytest.raises(ToolError, match="there is no gone"):
        preview_changes(str(ws), orders)
    assert collect_digests(str(ws), orders) == {}
    with pytest.raises(ToolError, match="there is no gone"):
        make_changes(str(ws), orders, "key", None)
    assert (ws / "f").read_text() == "old"


@pytest.mark.parametrize("content", ["other", "old and more", None])
def test_what_was_shown_is_not_there_any_more(ws: Path, content: str | None) -> None:
    """The person is asked again, whether or not it could still be done."""
    orders = patch(ws, f="one", g="two")
    binding = preview_changes(str(ws), orders).binding
    (ws / "g").unlink()
    if content is not None:
        (ws / "g").write_text(content)
    with pytest.raises(Stale):
        make_changes(str(ws), orders, "key", binding)
    assert (ws / "f").read_text() == "old"


def test_a_file_that_came_into_being_is_stale_too(tmp_path: Path) -> None:
    """A file that was shown as new is not overwritten."""
    orders = edits_of(WriteFile(path="f", content="new"), str(tmp_path))
    binding = preview_changes(str(tmp_path), orders).binding
    (tmp_path / "f").write_text("")
    with pytest.raises(Stale):
        make_changes(str(tmp_path), orders, "key", binding)


def after_kill(ws: Path, kept: str = "old", **contents: str) -> tuple[ProbeResult, dict[str, str]]:
    """What is found out when the files are these after a kill, and what they are then."""
    orders = patch(ws, f="one", g="two")
    evidence = collect_digests(str(ws), orders)
    for path, content in contents.items():
        new, old = temporary_names("key", path)
        (ws / path).write_text(content)
        (ws / old).write_text(kept)
        (ws / new).write_text("half")
    finding = probe_changes(str(ws), orders, "key", evidence)
    return finding, {path.name: path.read_text() for path in ws.iterdir()}


def test_killed_after_all(ws: Path) -> None:
    """It is done, and what was left beside is removed."""
    finding, files = after_kill(ws, f="one", g="two")
    assert (finding.outcome, files) == ("done", {"f": "one", "g": "two"})


def test_killed_before_anything(ws: Path) -> None:
    """It may be run again."""
    finding, files = after_kill(ws, f="old", g="old")
    assert (finding.outcome, files) == ("not_done", {"f": "old", "g": "old"})


def test_killed_half_way(ws: Path) -> None:
    """The half that was done is undone."""
    finding, files = after_kill(ws, f="one", g="old")
    assert (finding.outcome, files) == ("not_done", {"f": "old", "g": "old"})


def test_killed_half_way_and_what_was_replaced_is_lost(ws: Path) -> None:
    """What stands beside is not what was there: nobody can tell, and what is found is told."""
    finding, files = after_kill(ws, kept="something", f="one", g="old")
    assert (finding.outcome, files) == ("unknown", {"f": "one", "g": "old"})
    assert finding.evidence == {"found": [digest(b"one"), digest(b"old")]}


def test_killed_and_changed_by_somebody_since(ws: Path) -> None:
    """Nothing is undone over what somebody else made."""
    finding, files = after_kill(ws, f="one", g="theirs")
    assert (finding.outcome, files) == ("unknown", {"f": "one", "g": "theirs"})


@pytest.mark.parametrize("evidence", [{}, {"before": ["x"], "after": ["x"]}])
def test_without_evidence_nobody_can_tell(ws: Path, evidence: dict[str, Any]) -> None:
    """Also if it is another call's."""
    assert probe_changes(str(ws), patch(ws, f="one", g="two"), "key", evidence).outcome == "unknown"


def test_the_same_content_written_again_is_done(ws: Path) -> None:
    """Before and after are one state: running it again would change nothing."""
    orders = edits_of(WriteFile(path="f", content="old"), str(ws))
    assert probe_changes(str(ws), orders, "key", collect_digests(str(ws), orders)).outcome == "done"


def test_evidence_fits(tmp_path: Path) -> None:
    """That of the largest patch there may be."""
    width = MAX_SUBJECT_BYTES // MAX_PATCH_FILES - 1
    paths = [f"{number:0{width}}" for number in range(MAX_PATCH_FILES)]
    for path in paths:
        (tmp_path / path).write_text("old")
    orders = patch(tmp_path, **dict.fromkeys(paths, "new"))
    evidence = collect_digests(str(tmp_path), orders)
    assert len(evidence["after"]) == MAX_PATCH_FILES
    assert len(msgspec.json.encode(evidence)) <= MAX_EVIDENCE_BYTES
    assert len(make_changes(str(tmp_path), orders, "key", None)) == MAX_PATCH_FILES


# Locks by name: one at a time, in no ring, and nothing left behind.


async def test_one_at_a_time() -> None:
    """Who comes second waits; other names are free."""
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
    """Whatever order the names are given in, and if one is given twice."""
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
    """It is neither lost nor doubled."""
    locks = PathLocks()
    async with locks.lock(["a"]):
        with trio.move_on_after(0) as scope:
            async with locks.lock(["a"]):
                raise AssertionError("held by two")
        assert scope.cancelled_caught
        assert len(locks) == 1
    assert len(locks) == 0
