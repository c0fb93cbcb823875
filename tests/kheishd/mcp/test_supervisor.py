"""The supervisor of one server, on a mock clock and with a scripted connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.kernel.mcp import KeeperKilled, Listing, RemoteResult, RemoteTask, ServerFailure, ServerSpec
from kheishd.mcp.error_output import ErrorOutput
from kheishd.mcp.supervisor import RELIST_SECONDS, STABLE_SECONDS, Supervisor
from protocol.limits.mcp import MAX_KEEPER_KILLS, MAX_RECONNECT_SECONDS
from protocol.objects.mcp import McpServerSettings
from tests.support.mcp_servers import listed, spec_of


async def pass_time(seconds: float) -> None:
    """Let the mock clock run."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


async def call(supervisor: Supervisor) -> RemoteResult:
    """Call a tool."""
    return await supervisor.call("echo", {}, print)


class Line:
    """A scripted server: ``failures`` are those of its next connections; None holds for ever.

    ``end`` ends the connection. ``opened`` are the times of all attempts, ``closed`` counts connections.
    """

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.tools = listed("echo")
        self.opened: list[float] = []
        self.closed = 0
        self.changed = trio.Event()
        self.protocol_version, self.server, self.pid = "v", "s", 1
        self.has_resources = False
        self.wrote = b""
        self.hold = trio.Event()
        self.end = trio.Event()
        self.answer: RemoteResult | RemoteTask = RemoteResult([])
        self.polls: list[RemoteTask | ServerFailure] = []
        self.cancelled: list[str] = []

    @asynccontextmanager
    async def connect(self, spec: ServerSpec, errors: ErrorOutput) -> AsyncIterator[Any]:
        """Connect as scripted."""
        self.opened.append(trio.current_time())
        errors.feed(self.wrote)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._break)
                yield self
                nursery.cancel_scope.cancel()
        finally:
            self.closed += 1

    async def _break(self) -> None:
        await self.end.wait()
        raise ValueError("it ended")

    async def list_tools(self) -> Listing:
        """Return the tools."""
        return Listing(self.tools)

    async def call_tool(
        self, name: str, arguments: Any, progress: Any, origin: Any = None
    ) -> RemoteResult | RemoteTask:
        """Wait until the test lets the call end."""
        await self.hold.wait()
        return self.answer

    async def get_task(self, task_id: str) -> RemoteTask:
        """Return the next state of a task; the last one stays."""
        state = self.polls.pop(0) if len(self.polls) > 1 else self.polls[0]
        if isinstance(state, ServerFailure):
            raise state
        return state

    async def cancel_task(self, task_id: str) -> None:
        """Record the task."""
        self.cancelled.append(task_id)


@asynccontextmanager
async def supervised(line: Line, **settings: Any) -> AsyncIterator[Supervisor]:
    """Supervise a line; ``supervisor.changes`` counts changes of its tools."""
    supervisor = Supervisor(
        spec_of("s", **settings), line.connect, str, lambda: None, lambda: round(trio.current_time() * 1000)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.serve)
        yield supervisor
        nursery.cancel_scope.cancel()


async def test_attempts_come_later_each_time(autojump_clock: MockClock) -> None:
    """A server that fails is tried again after 1, 2, 4 seconds and so on, and the state says when."""
    line = Line(*(ValueError("no") for _ in range(12)))
    async with supervised(line) as supervisor:
        assert (supervisor.view().state, supervisor.view().problem) == ("starting", None)
        await supervisor.settled.wait()
        view = supervisor.view()
        assert (view.state, view.problem, view.retry_at_ms) == ("failed", "no", 1000)
        with pytest.raises(
            ServerFailure, match=r"not connected \(no\); the next attempt is in 1 s"
        ) as caught:
            await call(supervisor)
        assert caught.value.reason == "unavailable"
        await pass_time(10 * MAX_RECONNECT_SECONDS)
        assert supervisor.find_problem() is None
    pauses = [later - earlier for earlier, later in zip(line.opened, line.opened[1:], strict=False)]
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == MAX_RECONNECT_SECONDS


async def test_a_connection_that_ends(autojump_clock: MockClock) -> None:
    """After the end of a good connection the next attempt comes soon; meanwhile the tools stay."""
    line = Line()
    async with supervised(line) as supervisor:
        await supervisor.settled.wait()
        assert supervisor.view().state == "ready"
        assert [tool.remote_name for tool in supervisor.tools] == ["echo"]
        await pass_time(STABLE_SECONDS + 1)
        line.end.set()
        await wait_all_tasks_blocked()
        assert supervisor.view().state == "failed"
        assert supervisor.view().problem is not None
        assert supervisor.view().tools == 1
        line.end = trio.Event()
        await pass_time(1.5)
        assert (supervisor.view().state, supervisor.view().restarts) == ("ready", 1)
        assert line.opened == [0, STABLE_SECONDS + 2]


async def test_a_server_that_is_not_ready_in_time(autojump_clock: MockClock) -> None:
    """Connecting and listing have a time limit."""
    line = Line()

    async def never() -> Listing:
        await trio.sleep_forever()

    line.list_tools = never  # type: ignore[method-assign]
    async with supervised(line, start_timeout_s=3) as supervisor:
        assert supervisor.find_problem() == "it is being connected"
        await supervisor.settled.wait()
        assert trio.current_time() == 3
        assert supervisor.view().problem == "it was not ready within 3 s"
    assert line.closed == 1


async def test_changes_are_followed(autojump_clock: MockClock) -> None:
    """An announced list is read, once for announcements in quick succession."""
    line = Line()
    async with supervised(line) as supervisor:
        await supervisor.settled.wait()
        first = supervisor.tools
        line.changed.set()
        await pass_time(RELIST_SECONDS / 2)
        line.tools = listed("more", "echo")
        await pass_time(RELIST_SECONDS)
        assert [tool.remote_name for tool in supervisor.tools] == ["echo", "more"]
        assert [tool.remote_name for tool in first] == ["echo"]


async def test_a_call_has_a_time_limit(autojump_clock: MockClock) -> None:
    """A call without an answer fails after the server's time limit."""
    async with supervised(Line(), tool_timeout_s=7) as supervisor:
        await supervisor.settled.wait()
        with pytest.raises(ServerFailure, match="no answer within 7 s") as caught:
            await call(supervisor)
        assert caught.value.reason == "timed_out"


async def test_a_session_that_is_gone(autojump_clock: MockClock) -> None:
    """After a failed call, a server on HTTP that lists no tools any more is connected anew."""
    line = Line()
    spec = ServerSpec("s", McpServerSettings(url="http://localhost/mcp", tool_timeout_s=1))
    supervisor = Supervisor(spec, line.connect, str, lambda: None, lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.serve)
        await supervisor.settled.wait()
        list_tools = line.list_tools

        async def refuse() -> Listing:
            line.list_tools = list_tools  # type: ignore[method-assign]
            raise ServerFailure("refused", "no valid session")

        line.list_tools = refuse  # type: ignore[method-assign]
        with pytest.raises(ServerFailure):
            await call(supervisor)
        await pass_time(RELIST_SECONDS + 0.5)
        assert supervisor.view().state == "failed"
        line.changed = trio.Event()
        await pass_time(2)
        assert (supervisor.view().state, supervisor.view().restarts) == ("ready", 1)
        nursery.cancel_scope.cancel()


async def test_a_removed_server_ends_after_its_last_call(autojump_clock: MockClock) -> None:
    """A removed server accepts no call any more, finishes those that run, and ends."""
    line = Line()
    async with supervised(line) as supervisor:
        await supervisor.settled.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, supervisor)
            await wait_all_tasks_blocked()
            supervisor.close()
            await wait_all_tasks_blocked()
            assert (supervisor.view().state, line.closed) == ("closing", 0)
            with pytest.raises(ServerFailure, match="it was removed"):
                await call(supervisor)
            line.hold.set()
        await wait_all_tasks_blocked()
        assert line.closed == 1
        assert len(line.opened) == 1


async def test_a_restart(autojump_clock: MockClock) -> None:
    """A restart makes another connection at once, also while the next attempt is awaited."""
    line = Line(None, ValueError("no"))
    async with supervised(line) as supervisor:
        await supervisor.settled.wait()
        for state in ("failed", "ready"):
            supervisor.restart()
            await supervisor.settled.wait()
            assert supervisor.view().state == state
        assert line.opened == [0, 0, 0]
        assert (line.closed, supervisor.view().restarts) == (1, 1)


async def test_errors_at_the_end_of_the_daemon(autojump_clock: MockClock) -> None:
    """An error of a connection that is cancelled with the daemon does not become the daemon's."""

    @asynccontextmanager
    async def connect(spec: ServerSpec, errors: ErrorOutput) -> AsyncIterator[Any]:
        try:
            async with trio.open_nursery():
                yield Line()
        finally:
            raise ValueError("while closing")

    supervisor = Supervisor(spec_of(), connect, str, lambda: None, lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.serve)
        await supervisor.settled.wait()
        nursery.cancel_scope.cancel()


async def test_a_restart_while_connecting(autojump_clock: MockClock) -> None:
    """Those who wait for an attempt that a restart ends are woken."""
    line = Line()

    async def never() -> Listing:
        await trio.sleep_forever()

    list_tools, line.list_tools = line.list_tools, never  # type: ignore[method-assign]
    async with supervised(line, start_timeout_s=3) as supervisor:
        first = supervisor.settled
        await wait_all_tasks_blocked()
        line.list_tools = list_tools  # type: ignore[method-assign]
        supervisor.restart()
        with trio.fail_after(2):
            await first.wait()
            await supervisor.settled.wait()
        assert supervisor.view().state == "ready"


async def test_a_server_that_kills_its_keeper(autojump_clock: MockClock) -> None:
    """A server that kills what supervises it is not started again for ever; a restart tries it again."""
    line = Line(*(KeeperKilled() for _ in range(MAX_KEEPER_KILLS)), None)
    async with supervised(line) as supervisor:
        await pass_time(10 * MAX_RECONNECT_SECONDS)
        assert len(line.opened) == MAX_KEEPER_KILLS
        view = supervisor.view()
        assert (view.state, view.retry_at_ms) == ("failed", None)
        assert view.problem == (
            "it killed the process that supervises it, 3 times in a row; restart it once it is repaired"
        )
        with pytest.raises(ServerFailure, match=r"not connected \(it killed .* repaired\)$"):
            await call(supervisor)
        supervisor.restart()
        await supervisor.settled.wait()
        assert supervisor.view().state == "ready"


async def test_the_error_output(autojump_clock: MockClock) -> None:
    """A server that is not ready in time may have written why; what it wrote is kept until its next start."""
    line = Line(None, ValueError("no"))
    line.wrote = b"listening\nError: EADDRINUSE\n"

    async def never() -> Listing:
        await trio.sleep_forever()

    line.list_tools = never  # type: ignore[method-assign]
    async with supervised(line, start_timeout_s=3) as supervisor:
        await supervisor.settled.wait()
        view = supervisor.view()
        assert view.problem == "it was not ready within 3 s; it wrote: Error: EADDRINUSE"
        assert view.error_output == ["listening", "Error: EADDRINUSE"]
        line.wrote, line.failures = b"", [None, ValueError("no")]
        await pass_time(2)
        # While it is tried again, the previous problem is shown.
        assert (supervisor.view().state, supervisor.view().problem) == ("starting", view.problem)
        await pass_time(5)
        line.failures = [ValueError("no")]
        await pass_time(2)
        assert (supervisor.view().problem, supervisor.view().error_output) == ("no", [])


async def test_repeated_changes_are_followed_ever_more_slowly(autojump_clock: MockClock) -> None:
    """A server that announces changes without an end is asked for its list less and less often."""
    line, lists = Line(), 0

    async def change() -> Listing:
        nonlocal lists
        lists += 1
        trio.lowlevel.spawn_system_task(announce)
        return Listing(listed("echo"))

    async def announce() -> None:
        line.changed.set()

    line.list_tools = change  # type: ignore[method-assign]
    async with supervised(line) as supervisor:
        await supervisor.settled.wait()
        line.changed.set()
        await pass_time(600)
    assert lists < 20


DONE = RemoteResult([{"type": "text", "text": "done"}])
WORKING = RemoteTask("t", "working", "begun")
LOST = ServerFailure("lost", "no answer")


@asynccontextmanager
async def with_task(*polls: RemoteTask | ServerFailure, **settings: Any) -> AsyncIterator[Supervisor]:
    """Provide a supervisor of a server that makes a task of each call."""
    line = Line()
    line.answer, line.polls = WORKING, [*polls]
    line.hold.set()
    async with supervised(line, **settings) as supervisor:
        await supervisor.settled.wait()
        yield supervisor
    assert line.cancelled == (["t"] if polls[-1] in (WORKING, ASKING) else [])


ASKING = RemoteTask("t", "input_required")


async def test_a_call_becomes_a_task(autojump_clock: MockClock) -> None:
    """The task of a call is polled until it ends, and its messages are progress."""
    lines: list[str] = []
    states = [WORKING, replace(WORKING, message="half"), replace(WORKING, state="completed", result=DONE)]
    async with with_task(*states) as supervisor:
        assert await supervisor.call("echo", {}, lines.append) == DONE
    assert lines == ["begun\n", "half\n"]
    assert trio.current_time() >= 3


@pytest.mark.parametrize(
    ("state", "reason", "text"),
    [
        (RemoteTask("t", "failed", "no disk (code 5)"), "refused", "its task is failed: no disk (code 5)"),
        (RemoteTask("t", "cancelled"), "refused", "its task is cancelled: without a reason"),
        (ASKING, "refused", "its task asks for input, which is not supported; it was cancelled"),
        (WORKING, "timed_out", "its task did not end within 9 s, and was cancelled"),
        (ServerFailure("refused", "no such task"), "lost", "state of its task cannot be read: no such task"),
    ],
)
async def test_tasks_that_fail(
    state: RemoteTask | ServerFailure, reason: str, text: str, autojump_clock: MockClock
) -> None:
    """A task that fails, takes too long or is gone fails its call; one that goes on is cancelled."""
    async with with_task(state, tool_timeout_s=9) as supervisor:
        with pytest.raises(ServerFailure) as caught:
            await call(supervisor)
    assert caught.value.reason == reason
    assert text in str(caught.value)


async def test_a_call_that_is_stopped_cancels_its_task(autojump_clock: MockClock) -> None:
    """Cancellation of a call is passed on to its task."""
    async with with_task(WORKING) as supervisor:
        with trio.move_on_after(2.5):
            await call(supervisor)


async def test_a_task_survives_its_connection(autojump_clock: MockClock) -> None:
    """A task is polled by the next connection, if the server still has it."""
    line = Line(None, ValueError("down"), ValueError("down"))
    line.answer, line.polls = WORKING, [WORKING, LOST, WORKING]
    line.hold.set()
    async with supervised(line, tool_timeout_s=60) as supervisor, trio.open_nursery() as nursery:
        await supervisor.settled.wait()
        results: list[RemoteResult] = []

        async def run() -> None:
            results.append(await call(supervisor))

        nursery.start_soon(run)
        await pass_time(2.5)
        line.end.set()
        line.end = trio.Event()
        await pass_time(10)
        assert (results, supervisor.view().restarts) == ([], 1)
        line.polls = [replace(WORKING, state="completed", result=DONE)]
    assert results == [DONE]


async def test_a_removed_server_ends_after_its_task(autojump_clock: MockClock) -> None:
    """A server that is closed keeps its connection until the task of its last call has ended."""
    async with with_task(WORKING, replace(WORKING, state="completed", result=DONE)) as supervisor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, supervisor)
            await wait_all_tasks_blocked()
            supervisor.close()
        assert supervisor.view().state == "closing"
