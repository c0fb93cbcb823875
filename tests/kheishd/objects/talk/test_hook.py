"""Lifecycle hooks of conversations: which ones count, and texts that are added once."""

from pathlib import Path

from kheishd.core.hook import NO_OBJECTION, HookContext
from kheishd.objects.talk.hook import add_contexts, decide, has_hooks
from tests.support.desk import Gate, Scripted, open_desk, working
from tests.support.hooked import shell_hook
from tests.support.runtimes import change_runtime


async def test_without_hooks_nothing_is_read_or_loaded(tmp_path: Path) -> None:
    """An event without hooks makes no input, and loads no runner."""
    async with open_desk(tmp_path) as desk:
        assert not has_hooks(desk.services, str(tmp_path))
        verdict = await decide(desk.services, "stop", "a", "k", lambda: 1 / 0, workspace=str(tmp_path))  # type: ignore[arg-type, return-value]
        assert verdict is NO_OBJECTION
        assert "runner" not in vars(desk.services.lifecycle)
        (tmp_path / ".kheish").mkdir()
        (tmp_path / ".kheish/hooks.toml").touch()
        below = tmp_path / "a/b"
        below.mkdir(parents=True)
        # An agent may have written it, and made the directory below: it does not count before a reload.
        assert not has_hooks(desk.services, str(below))
        assert not has_hooks(desk.services, str(tmp_path))
        desk.holder.replace(change_runtime(desk.holder.current(), generation=2))
        assert has_hooks(desk.services, str(tmp_path))


async def test_the_key_of_an_event_is_that_of_its_repetition(tmp_path: Path) -> None:
    """A hook learns of a repeated event by the same key, so it can tell."""
    line = f"sed 's/.*invocation_key.:.//; s/\".*//' >> {tmp_path}/keys; echo >> {tmp_path}/keys"
    async with open_desk(tmp_path, threaded=True, lifecycle=(shell_hook("a", "stop", line),)) as desk:
        for _ in range(2):
            await decide(desk.services, "stop", "a", "run_1.1.stop", dict)
    assert (tmp_path / "keys").read_text().split() == ["run_1.1.stop.a"] * 2


async def test_a_text_is_added_once_over_a_restart(tmp_path: Path) -> None:
    """The daemon dies after a text was added and runs the hooks again: the text is there already."""
    contexts = [HookContext("a", "one", "program"), HookContext("b", "two", "tool_output")]
    async with open_desk(tmp_path) as desk:
        run_id = (await desk.send()).run_id
        await desk.leave_running(run_id, 1)
        assert await add_contexts(desk.services, desk.run(run_id), "k", contexts[:1])
    gate = Gate()
    async with open_desk(tmp_path, Scripted([gate])) as desk, working(desk):
        await gate.reached.wait()
        run = desk.run(run_id)
        assert run.starts == 2
        assert await add_contexts(desk.services, run, "k", contexts)
        assert not await add_contexts(desk.services, run, "k", contexts)
        assert await add_contexts(desk.services, run, "k2", contexts[:1])
        assert desk.kinds(run.session_id).count("hook_context_added") == 3
        assert desk.run(run_id).origins == ["person", "program", "tool_output"]
        gate.opened.set()
        await desk.until(lambda: desk.ended(run_id))
        assert not await add_contexts(desk.services, run, "k", [])
