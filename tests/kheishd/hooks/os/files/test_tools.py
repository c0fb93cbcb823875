"""The file tools as the daemon calls them: by name, in parallel, cancelled, and under attack."""

import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import trio

from kheishd.hooks.os.files.reader import ReadFile
from kheishd.hooks.os.files.tools import Files
from kheishd.hooks.os.files.transaction import PathLocks
from kheishd.hooks.validation import Validator
from kheishd.kernel.hook import Stale, Tool, ToolError
from protocol.limits.files import MAX_HASHED_BYTES
from tests.support.workspaces import Workshop, run_context, swapping


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    """Return a workspace beside a directory that is not part of it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_text("secret")
    return Workshop(tmp_path / "ws")


async def test_a_day_at_work(shop: Workshop) -> None:
    """Each tool sees the effects of earlier ones."""
    written = await shop.do("write_file", path="src/a.py", content="one\ntwo\n")
    assert (written["path"], written["bytes_written"]) == ("src/a.py", 8)
    read = await shop.do("read_file", path="src/a.py")
    assert (read["content"], read["sha256"]) == ("one\ntwo\n", written["sha256"])
    edited = await shop.do(
        "edit_file", path="src/a.py", old_text="two", new_text="2", expected_sha256=read["sha256"]
    )
    assert (edited["path"], edited["replacements"]) == ("src/a.py", 1)
    hunks = [{"path": "src/a.py", "old_text": text, "new_text": "x"} for text in ("one", "2")]
    patched = await shop.do("apply_patch", hunks=hunks)
    assert (patched["file_count"], patched["changed_files"][0]["replacements"]) == (1, 2)
    assert (shop.path / "src" / "a.py").read_text() == "x\nx\n"
    assert (await shop.do("list_files"))["paths"] == ["src/", "src/a.py"]
    assert (await shop.do("glob_search", pattern="**/*.py"))["paths"] == ["src/a.py"]
    assert len((await shop.do("grep_search", pattern="x"))["matches"]) == 2
    assert shop.list_leftovers() == []


async def test_without_ripgrep(shop: Workshop) -> None:
    """Without ripgrep the search is for literal text, and the description says so."""
    shop.files = Files(find=lambda name: None)
    await shop.do("write_file", path="f", content="a.b\naxb\n")
    answer = await shop.do("grep_search", pattern="a.b")
    assert (answer["engine"], [match["line"] for match in answer["matches"]]) == ("literal", [1])
    assert "exactly as given" in shop.files.grep_search.description


async def test_a_ripgrep_that_is_gone(shop: Workshop) -> None:
    """If ripgrep has disappeared, the pattern is not searched for as text: the model is told."""
    shop.files = Files(find=lambda name: str(shop.path / "gone"))
    with pytest.raises(ToolError, match="cannot be run at the moment"):
        await shop.do("grep_search", pattern="a.b")


async def test_ripgrep_is_not_taken_from_the_workspace(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of the workspace is not executed, even if ``PATH`` begins there."""
    await shop.do("write_file", path="rg", content="#!/bin/sh\ntouch hacked\n")
    (shop.path / "rg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{shop.path}:.:{os.environ['PATH']}")
    shop.files = Files()
    assert (await shop.do("grep_search", pattern="touch"))["matches"] != []
    assert not (shop.path / "hacked").exists()


@pytest.mark.parametrize(
    ("tool", "arguments", "subject"),
    [
        ("read_file", {"path": "./a/../b"}, "b"),
        ("write_file", {"path": "a//b", "content": ""}, "a/b"),
        ("list_files", {}, "."),
        ("glob_search", {"pattern": "*", "base": "a/"}, "a"),
        ("grep_search", {"pattern": "x"}, "."),
        ("edit_file", {"path": "/etc/passwd", "old_text": "a", "new_text": "b"}, ""),
        ("read_file", {"path": "../x"}, ""),
        (
            "apply_patch",
            {"hunks": [{"path": path, "old_text": "a", "new_text": "b"} for path in ("z", "a/b", "./z")]},
            "a/b\nz",
        ),
    ],
)
def test_subjects(shop: Workshop, tool: str, arguments: dict[str, Any], subject: str) -> None:
    """The subject is the path as it will be opened; empty for a call that will be refused."""
    assert shop.files.subject(shop.use(tool, **arguments)) == subject


async def test_what_only_reads_is_neither_shown_nor_noted(shop: Workshop) -> None:
    """A read has no preview and no evidence: it can be run again."""
    assert await shop.files.preview(shop.use("read_file", path="f")) is None
    assert await shop.files.evidence(shop.use("read_file", path="f")) == {}


async def test_an_approval_holds_for_what_was_shown(shop: Workshop) -> None:
    """A file that changes after the preview makes the call stale; a new preview shows the new change."""
    await shop.do("write_file", path="f", content="one")
    edit = {"path": "f", "old_text": "one", "new_text": "two"}
    first = await shop.files.preview(shop.use("edit_file", **edit))
    assert first is not None
    (shop.path / "f").write_text("one more")
    with pytest.raises(Stale):
        await shop.files.dispatch(shop.use("edit_file", binding=first.binding, **edit))
    second = await shop.files.preview(shop.use("edit_file", **edit))
    assert second is not None
    assert second.text.endswith(
        "-one more\n\\ No newline at end of file\n+two more\n\\ No newline at end of file\n"
    )
    await shop.files.dispatch(shop.use("edit_file", binding=second.binding, **edit))
    assert (shop.path / "f").read_text() == "two more"


async def test_what_cannot_be_done_is_not_asked_about(shop: Workshop) -> None:
    """An impossible edit fails in its preview and leaves no evidence; invalid arguments are an error."""
    use = shop.use("edit_file", path="gone", old_text="a", new_text="b")
    with pytest.raises(ToolError, match="there is no gone"):
        await shop.files.preview(use)
    assert await shop.files.evidence(use) == {}
    with pytest.raises(ToolError, match="give exactly one"):
        await shop.files.evidence(shop.use("write_file", path="f"))
    with pytest.raises(ToolError, match="do not fit"):
        await shop.outcome("read_file", path=3)


async def test_probing(shop: Workshop) -> None:
    """A probe compares the files with the evidence, before and after a call."""
    use = shop.use("write_file", path="a/f", content="new")
    evidence = await shop.files.evidence(use)
    assert (await shop.files.probe(use, evidence)).outcome == "not_done"
    await shop.files.dispatch(use)
    assert (await shop.files.probe(use, evidence)).outcome == "done"
    (shop.path / "a" / "f").write_text("theirs")
    assert (await shop.files.probe(use, evidence)).outcome == "unknown"
    (shop.path / "a" / "f").unlink()
    (shop.path / "a" / "f").mkdir()
    finding = await shop.files.probe(use, evidence)
    assert (finding.outcome, "is a directory" in finding.note) == ("unknown", True)


WORDS = [f"<{number}>" for number in range(24)]


async def test_no_edit_is_lost(shop: Workshop) -> None:
    """No concurrent edit of one file is lost, also from a workspace inside another."""
    locks = PathLocks()
    inner = Workshop(shop.path / "in", Files(locks))
    await edited_by_all([(Workshop(shop.path, Files(locks)), "in/f"), (inner, "f")])
    assert len(locks) == 0


async def test_no_edit_is_lost_between_daemons(shop: Workshop) -> None:
    """No edit is lost if two daemons work in the same workspace."""
    await edited_by_all([(Workshop(shop.path), "f"), (Workshop(shop.path), "f")])


async def edited_by_all(shops: list[tuple[Workshop, str]]) -> None:
    """Change each word of a file by an edit of its own, concurrently, in turns from each workspace."""
    first, path = shops[0]
    await first.do("write_file", path=path, content="\n".join(WORDS))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number, word in enumerate(WORDS):
                here, target = shops[number % len(shops)]
                edit = {"path": target, "old_text": word, "new_text": f"{word}!"}
                nursery.start_soon(partial(here.do, "edit_file", **edit))
    assert (first.path / path).read_text().split() == [f"{word}!" for word in WORDS]
    assert first.list_leftovers() == []


async def test_what_another_program_changed_meanwhile_is_told(shop: Workshop) -> None:
    """Without an approval a stale file is an error that tells the model to read it again."""
    await shop.do("write_file", path="f", content="one")
    changing = _Meanwhile(lambda: (shop.path / "f").write_text("theirs"))
    shop.files = Files(in_thread=changing)
    use = shop.use("write_file", path="f", content="mine")
    with pytest.raises(ToolError, match="was changed by another program meanwhile; read it again"):
        await shop.files.dispatch(use)
    assert (shop.path / "f").read_text() == "theirs"


class _Meanwhile:
    """Runner of work in this thread that changes something before each flush to the disk."""

    def __init__(self, action: Any) -> None:
        self._what = action

    async def __call__(self, work: Any) -> Any:
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self._what()
            real(descriptor)

        await trio.lowlevel.checkpoint()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            return work()


async def test_nothing_outside_is_touched_by_name(shop: Workshop) -> None:
    """Dots, absolute paths and links never lead outside, not even a link for the workspace itself."""
    outside = shop.path.parent / "outside"
    shop.path.mkdir()
    (shop.path / "file").symlink_to(outside / "f")
    (shop.path / "dir").symlink_to(outside)
    hunk = {"old_text": "secret", "new_text": "gone"}
    for path in ("../outside/f", str(outside / "f"), "file", "dir/f"):
        for tool, more in (
            ("read_file", {}),
            ("write_file", {"content": "gone"}),
            ("edit_file", hunk),
        ):
            with pytest.raises(ToolError):
                await shop.do(tool, path=path, **more)
        with pytest.raises(ToolError):
            await shop.do("apply_patch", hunks=[{"path": path, **hunk}])
    for tool in ("list_files", "glob_search", "grep_search"):
        for base in ("..", "dir", str(outside)):
            with pytest.raises(ToolError):
                await shop.do(tool, base=base, **({"pattern": "*"} if tool != "list_files" else {}))
    shop.path = shop.path / "dir"
    with pytest.raises(ToolError, match="is a link"):
        await shop.do("read_file", path="f")
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"f": "secret"}


async def test_nothing_outside_is_touched_in_a_race(shop: Workshop) -> None:
    """A directory that is swapped for a link, again and again, never leads outside."""
    outside = shop.path.parent / "outside"
    await shop.do("write_file", path="d/f", content="inside")
    response = 0
    with swapping(shop.path / "d", outside):
        for number in range(150):
            for tool, arguments in (
                ("write_file", {"path": f"d/{number % 3}", "content": "inside"}),
                ("write_file", {"path": f"d/deep{number}/x", "content": "inside"}),
                ("edit_file", {"path": "d/f", "old_text": "inside", "new_text": "inside "}),
                ("read_file", {"path": "d/f"}),
                ("list_files", {"base": "d"}),
            ):
                try:
                    outcome = await shop.outcome(tool, **arguments)
                except ToolError:
                    continue
                response += 1
                assert "secret" not in outcome.text
    assert response > 0
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"f": "secret"}


async def test_a_target_that_is_no_file_is_refused(shop: Workshop) -> None:
    """A directory, a pipe and the workspace are rejected at once, and none is replaced."""
    (shop.path / "d").mkdir(parents=True)
    os.mkfifo(shop.path / "pipe")
    with trio.fail_after(5):
        for path in ("d", "pipe", "."):
            with pytest.raises(ToolError):
                await shop.do("write_file", path=path, content="x")
            with pytest.raises(ToolError):
                await shop.do("read_file", path=path)
    assert sorted(path.name for path in shop.path.iterdir()) == ["d", "pipe"]


async def test_work_that_is_not_waited_for_ends(shop: Workshop) -> None:
    """A cancelled read ends between two pieces, and its thread has ended with the call."""
    shop.path.mkdir()
    (shop.path / "huge").touch()
    os.truncate(shop.path / "huge", MAX_HASHED_BYTES)
    original = len(os.listdir("/proc/self/fd"))
    scope = trio.CancelScope()
    shop.files = Files(in_thread=_GivenUp(scope, "read"))
    with scope:
        await shop.do("read_file", path="huge")
    assert scope.cancelled_caught
    assert len(os.listdir("/proc/self/fd")) == original


async def test_a_write_that_is_not_waited_for_leaves_nothing(shop: Workshop) -> None:
    """A cancelled write keeps the old file and removes the new one."""
    await shop.do("write_file", path="f", content="before")
    scope = trio.CancelScope()
    shop.files = Files(in_thread=_GivenUp(scope, "write"))
    with scope:
        await shop.do("write_file", path="f", content="x" * 4_000_000)
    assert scope.cancelled_caught
    assert shop.list_leftovers() == []
    assert (shop.path / "f").read_text() == "before"


async def test_what_is_made_is_told_even_if_nobody_waits(shop: Workshop) -> None:
    """A write that is cancelled after its rename reports success."""
    scope = trio.CancelScope()
    shop.files = Files(in_thread=_GivenUp(scope, "rename"))
    with scope:
        assert (await shop.do("write_file", path="f", content="after"))["bytes_written"] == 5
    assert scope.cancel_called
    assert (shop.path / "f").read_text() == "after"


class _GivenUp:
    """Runner of work in a thread that cancels the caller after the first call of a function of ``os``."""

    def __init__(self, scope: trio.CancelScope, function: str) -> None:
        self._scope = scope
        self._function = function

    async def __call__(self, work: Any) -> Any:
        return await trio.to_thread.run_sync(self._work, work)

    def _work(self, work: Any) -> Any:
        real = getattr(os, self._function)
        working = threading.current_thread()
        waited_for = True

        def function(*arguments: Any, **more: Any) -> Any:
            nonlocal waited_for
            done = real(*arguments, **more)
            if threading.current_thread() is working and waited_for:
                waited_for = False
                trio.from_thread.run_sync(self._scope.cancel)
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, self._function, function)
            return work()


async def test_the_loop_is_not_held_up(shop: Workshop) -> None:
    """Files are read in the sub-hook's own threads, never in the loop."""
    seen: list[bool] = []

    async def in_thread(work: Any) -> Any:
        def noting() -> Any:
            seen.append(threading.current_thread() is threading.main_thread())
            return work()

        return await trio.to_thread.run_sync(noting)

    shop.files = Files(in_thread=in_thread)
    await shop.do("write_file", path="f", content="x")
    await shop.do("read_file", path="f")
    await shop.do("grep_search", pattern="x")
    assert seen
    assert not any(seen)


def test_the_section_says_where_the_workspace_is(shop: Workshop) -> None:
    """The section names the workspace and explains paths, for a run with a file tool only."""
    for names in (None, ["bash", "read_file"]):
        (section,) = shop.files.sections(run_context(shop.path, names))
        assert str(shop.path) in section
        assert "relative" in section
    assert shop.files.sections(run_context(shop.path, ["bash"])) == ()


async def test_results_are_json(shop: Workshop) -> None:
    """Every tool's result is JSON, with any paths and texts."""
    await shop.do("write_file", path='a "quoted" näme', content='\\ " \u2028 \x01\n')
    for tool, arguments in (
        ("read_file", {"path": 'a "quoted" näme'}),
        ("list_files", {}),
        ("glob_search", {"pattern": "*"}),
        ("grep_search", {"pattern": '"'}),
    ):
        text = (await shop.outcome(tool, **arguments)).text
        assert isinstance(msgspec.json.decode(text), dict), tool


# The rows of the tools.

TABLE = {
    "read_file": ("read", "allow", 5.0),
    "write_file": ("edit", "ask", 5.0),
    "edit_file": ("edit", "ask", 5.0),
    "apply_patch": ("edit", "ask", 10.0),
    "list_files": ("read", "allow", 10.0),
    "glob_search": ("read", "allow", 10.0),
    "grep_search": ("read", "allow", 10.0),
}


@pytest.mark.parametrize("ripgrep", ["/usr/bin/rg", None])
def test_the_facts_of_each_tool(ripgrep: str | None) -> None:
    """Tools that read run beside others, again, and in plan mode; tools that edit do none of that."""
    rows = Files(find=lambda name: ripgrep).tools
    assert {row.name: (row.kind, row.default, row.timeout_s) for row in rows} == TABLE
    for row in rows:
        reads = row.kind == "read"
        assert (row.parallel, row.repeatable, row.in_plan) == (reads, reads, reads), row.name
        assert row.description, row.name
        assert row.schema["type"] == "object", row.name
    assert {row.name for row in rows if row.droppable} == {"read_file", "glob_search", "grep_search"}


def test_the_description_tells_which_patterns_are_understood() -> None:
    """A regular expression is offered only if ripgrep is installed."""
    assert "match a regular expression" in Files(find=lambda name: "/bin/rg").grep_search.description
    assert "exactly as given" in Files(find=lambda name: None).grep_search.description


@pytest.mark.parametrize(
    ("tool", "arguments", "paths"),
    [
        ("write_file", {"path": "a", "content": ""}, ["a"]),
        ("edit_file", {"path": "./a", "old_text": "b", "new_text": "c"}, ["./a"]),
        (
            "apply_patch",
            {"hunks": [{"path": path, "old_text": "b", "new_text": "c"} for path in ("x", "y", "x")]},
            ["x", "y", "x"],
        ),
        ("read_file", {"path": "a"}, []),
        ("grep_search", {"pattern": "a"}, []),
    ],
)
def test_a_row_names_the_files_that_a_call_writes(
    shop: Workshop, tool: str, arguments: dict[str, Any], paths: list[str]
) -> None:
    """A run that is required to write a file is judged by the paths that its calls name."""
    call = shop.use(tool, **arguments)
    assert [*call.tool.writes(call.arguments)] == paths


# The arguments of the tools.


@pytest.mark.parametrize("row", Files().tools, ids=lambda row: row.name)
def test_a_schema_is_self_contained(row: Tool) -> None:
    """The schema of a tool is an object, closed, valid, without a reference and without null."""
    jsonschema_rs.meta.validate(dict(row.schema))
    assert (row.schema["type"], row.schema["additionalProperties"]) == ("object", False)
    assert b"$ref" not in msgspec.json.encode(row.schema)
    assert b"null" not in msgspec.json.encode(row.schema)


@pytest.mark.parametrize(
    ("tool", "arguments", "fits"),
    [
        ("read_file", {"path": "a"}, True),
        ("read_file", {"path": "a", "start_line": 0}, False),
        ("read_file", {"path": ""}, False),
        ("read_file", {"path": "a", "more": 1}, False),
        ("write_file", {"path": "a", "content": "", "expected_sha256": "0" * 64}, True),
        ("write_file", {"path": "a", "content": "", "expected_sha256": "ab"}, False),
        ("edit_file", {"path": "a", "old_text": "", "new_text": "b"}, False),
        ("apply_patch", {"hunks": []}, False),
        ("apply_patch", {"hunks": [{"path": "a", "old_text": "b", "new_text": ""}]}, True),
    ],
)
def test_schema_and_struct_accept_the_same(tool: str, arguments: dict[str, Any], fits: bool) -> None:
    """A schema that is generated from a struct accepts exactly the struct's arguments."""
    row = next(row for row in Files().tools if row.name == tool)
    assert jsonschema_rs.is_valid(dict(row.schema), arguments) == fits
    if fits:
        assert isinstance(Validator().validate(row, arguments), row.arguments or ())
    else:
        with pytest.raises(ToolError, match="do not fit"):
            Validator().validate(row, arguments)


def test_a_null_stands_for_an_omitted_argument() -> None:
    """Models write null for an argument that they omit, and integers as text; both are coerced."""
    row = Files().read_file
    expected = ReadFile(path="a", line_count=3)
    assert Validator().validate(row, {"path": "a", "line_count": "3", "start_line": None}) == expected
    assert Validator().validate(row, {"path": "a", "line_count": None}) == ReadFile(path="a")
