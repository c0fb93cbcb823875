"""The zygote and its keepers: what a command gets and does not get, and how both end."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from kheishd.hooks.os.shell import process as processes
from kheishd.hooks.os.shell.handover import MAX_RIGHTS
from kheishd.hooks.os.shell.keeper import start_ticks_of, stat_of
from kheishd.hooks.os.shell.process import (
    Command,
    CommandEnd,
    KeptCommand,
    NotStarted,
    find_orphans,
    fork_spare_keeper,
    running,
)
from kheishd.hooks.os.shell.watch import tree
from kheishd.hooks.os.shell.zygote import receive
from tests.support.commands import wait_ended

WAIT = "exec sleep 1000"

MARK = f"zygote-{os.getpid()}"


@pytest.fixture
def workdir(workspace: Path) -> Iterator[int]:
    """Provide the workspace, open."""
    descriptor = os.open(workspace, os.O_PATH)
    yield descriptor
    os.close(descriptor)


def command(workdir: int, script: str, *arguments: str, descriptors: tuple[int, ...] = ()) -> Command:
    """Return a command to run."""
    argv = ("/bin/sh", "-c", script, "sh", *arguments)
    environ = {"PATH": "/usr/bin:/bin", "EMPTY": "", "NAME": "\udcff"}
    return Command(argv, environ, workdir, MARK, descriptors=descriptors)


def parent_of(pid: int) -> int:
    """Return the parent of a live process."""
    stat = stat_of(pid)
    assert stat is not None
    return stat[0]


def zygote_of(process: KeptCommand) -> int:
    """Return the zygote of a running command."""
    return parent_of(parent_of(process.pid))


async def read(process: KeptCommand) -> bytes:
    """Read the whole output of a command, and see it end well."""
    output = b"".join([bytes(piece) async for piece in process.stdout])
    assert await process.wait() == CommandEnd(0)
    return output


async def test_one_zygote_for_all_commands(workdir: int) -> None:
    """The zygote serves one command after the other, and several at the same time."""
    async with running(command(workdir, WAIT)) as first, running(command(workdir, WAIT)) as second:
        assert zygote_of(first) == zygote_of(second) != os.getpid()
        zygote = zygote_of(first)
    async with running(command(workdir, WAIT)) as third:
        assert zygote_of(third) == zygote


async def test_the_first_commands_at_once_start_one_zygote(workdir: int) -> None:
    """Commands that begin together do not start a zygote each."""
    zygotes = set()

    async def run() -> None:
        async with running(command(workdir, WAIT)) as process:
            zygotes.add(zygote_of(process))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(run)
    assert len(zygotes) == 1


async def test_arguments_and_variables_of_any_bytes(workdir: int) -> None:
    """Names of files need not be text, and no variable is added but the mark."""
    script = 'printf "%s." "$1" "$2" "$NAME"; env | grep -vE "^(PATH|EMPTY|NAME|PWD|SHLVL|_|KHEISH_CALL)="'
    async with running(command(workdir, f"{script}; exit 0", "ä\udcfe", "")) as process:
        assert await read(process) == "ä".encode() + b"\xfe..\xff."


async def test_a_keeper_has_little(workdir: int) -> None:
    """A keeper has a mark, a directory and a socket, and nothing of the daemon; a command has less."""
    secret = os.open("/proc/self/status", os.O_RDONLY)
    os.set_inheritable(secret, True)
    async with running(command(workdir, "echo ready; while :; do :; done")) as process:
        # Until it has become its program, its variables cannot be seen.
        assert await process.stdout.receive_some() == b"ready\n"
        keeper = parent_of(process.pid)
        assert {pid for pid, _ in find_orphans(MARK)} == {keeper, process.pid}
        variables = (await trio.Path(f"/proc/{keeper}/environ").read_bytes()).strip(b"\0").split(b"\0")
        assert sorted(variables) == [f"KHEISH_CALL={MARK}".encode(), b"LANG=C.UTF-8"]
        assert os.readlink(f"/proc/{keeper}/cwd") == os.readlink(f"/proc/self/fd/{workdir}")
        numbers = set(os.listdir(f"/proc/{keeper}/fd")) - {"1", "2"}
        files = [os.readlink(f"/proc/{keeper}/fd/{number}") for number in numbers]
        assert sum(file.startswith("socket:") for file in files) == 1
        # The two ends of its wakeup.
        assert sum(file.startswith("pipe:") for file in files) == 2
        assert {file for file in files if not file.startswith(("pipe:", "socket:"))} == {os.devnull}
        assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == ["0", "1", "2"]
    os.close(secret)


async def test_more_descriptors_than_a_message_holds(workdir: int, workspace: Path) -> None:
    """A command inherits its descriptors under their numbers, however many these are."""
    descriptors = []
    for number in range(MAX_RIGHTS + 20):
        file = workspace / str(number)
        file.write_text(f"{number}\n")
        descriptors.append(os.open(file, os.O_RDONLY))
    script = 'for number; do read -r line <"/proc/self/fd/$number"; printf "%s " "$line"; done'
    numbers = [str(descriptor) for descriptor in descriptors]
    argv = ("/bin/bash", "-c", script, "bash", *numbers)
    several = Command(argv, {}, workdir, MARK, descriptors=tuple(descriptors))
    async with running(several) as process:
        assert await read(process) == "".join(f"{number} " for number in range(len(numbers))).encode()


async def test_a_command_outlives_the_zygote(workdir: int) -> None:
    """If the zygote is killed, a running command goes on, and the next one has a new zygote."""
    async with running(
        command(workdir, "trap 'echo done; exit' USR1; echo ready; while :; do :; done")
    ) as process:
        assert await process.stdout.receive_some() == b"ready\n"
        zygote = zygote_of(process)
        os.kill(zygote, signal.SIGKILL)
        assert await trio.to_thread.run_sync(wait_ended, [zygote])
        async with running(command(workdir, f"echo next; {WAIT}")) as following:
            assert zygote_of(following) != zygote
            assert await following.stdout.receive_some() == b"next\n"
        os.kill(process.pid, signal.SIGUSR1)
        assert await read(process) == b"done\n"


async def test_a_zygote_that_dies_with_a_request(workdir: int) -> None:
    """A request that no keeper has read is made again: the command runs once."""
    async with running(command(workdir, WAIT)) as process:
        zygote = zygote_of(process)
    os.kill(zygote, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            async with running(command(workdir, "echo once >>log; cat log")) as process:
                assert await read(process) == b"once\n"

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        os.kill(zygote, signal.SIGKILL)


async def test_a_command_that_is_given_up_before_it_begins(workdir: int, workspace: Path) -> None:
    """A keeper that finds its socket closed runs nothing."""
    async with running(command(workdir, WAIT)) as process:
        zygote = zygote_of(process)
    os.kill(zygote, signal.SIGSTOP)
    with trio.move_on_after(0.01) as scope:
        async with running(command(workdir, "touch ran", str(bytes(1_000_000)))):
            raise AssertionError("it runs")
    assert scope.cancelled_caught
    os.kill(zygote, signal.SIGCONT)
    async with running(command(workdir, "ls")) as process:
        assert await read(process) == b""


@pytest.mark.parametrize("resumed", [True, False])
async def test_a_command_that_is_cancelled_before_it_begins(
    workdir: int, resumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled command never runs, whether its keeper is forked before or after the cancellation ends."""
    async with running(command(workdir, WAIT)) as process:
        zygote = zygote_of(process)
    if not resumed:
        monkeypatch.setattr(processes, "MAX_KILL_SECONDS", 0.05)
    os.kill(zygote, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked(0.01)
                if resumed:
                    os.kill(zygote, signal.SIGCONT)

            nursery.start_soon(cancel)
            async with running(command(workdir, f"trap '' TERM; touch ran; {WAIT}")):
                raise AssertionError("it runs")
    assert scope.cancelled_caught
    with suppress(ProcessLookupError):
        os.kill(zygote, signal.SIGCONT)
    async with running(command(workdir, f"ls; echo end; {WAIT}")) as process:
        assert await process.stdout.receive_some() == b"end\n"
        # One that cannot be told to stop is replaced.
        assert (zygote_of(process) == zygote) is resumed


async def test_a_suspended_zygote_is_replaced(workdir: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose keeper is not forked in time has one of another zygote, and runs once."""
    async with running(command(workdir, WAIT)) as process:
        zygote = zygote_of(process)
    os.kill(zygote, signal.SIGSTOP)
    monkeypatch.setattr(processes, "MAX_START_SECONDS", 0.2)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            async with running(command(workdir, "echo once >>log; cat log")) as process:
                assert await read(process) == b"once\n"

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        # The next one may be slow.
        monkeypatch.setattr(processes, "MAX_START_SECONDS", 60.0)
    assert await trio.to_thread.run_sync(wait_ended, [zygote])


async def spare_of(zygote: int) -> int:
    """Let a zygote fork the spare keeper, and return it once it waits for its request."""
    keepers = set(tree(zygote))
    fork_spare_keeper()
    with trio.fail_after(10):
        while True:
            # Once its runner has a session of its own, both wait. A second spare keeper ends soon.
            with suppress(ProcessLookupError):
                for pid in set(tree(zygote)) - keepers:
                    is_keeper = (stat_of(pid) or (0, 0))[0] == zygote
                    if is_keeper and any(os.getsid(runner) == runner for runner in tree(pid)):
                        return pid
            await trio.lowlevel.checkpoint()


async def test_a_spare_keeper(workdir: int) -> None:
    """A command has the keeper and the runner that were forked ahead, which no mark names before."""
    async with running(command(workdir, WAIT)) as process:
        zygote = zygote_of(process)
    spare = await spare_of(zygote)
    (runner,) = tree(spare)
    assert find_orphans(MARK) == []
    for _ in range(3):
        fork_spare_keeper()
    await trio.testing.wait_all_tasks_blocked(0.01)
    async with running(command(workdir, WAIT)) as first, running(command(workdir, WAIT)) as second:
        assert (parent_of(first.pid), first.pid) == (spare, runner)
        assert zygote_of(first) == zygote_of(second) == zygote
        assert set(tree(zygote)) == {spare, first.pid, parent_of(second.pid), second.pid}


async def test_spare_keepers_that_are_forked_at_once(workdir: int) -> None:
    """Commands that end together leave one spare keeper."""
    async with running(command(workdir, WAIT)) as process:
        zygote = zygote_of(process)
    fork_spare_keeper()
    fork_spare_keeper()
    await spare_of(zygote)
    with trio.fail_after(10):
        # The keeper, and its runner.
        while len([*tree(zygote)]) != 2:
            await trio.lowlevel.checkpoint()


async def test_no_spare_keeper_before_the_first_command() -> None:
    """Without a zygote there is nothing to fork a keeper from, and none is started for it."""
    fork_spare_keeper()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not [pid for pid in tree(os.getpid()) if parent_of(pid) == os.getpid()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_spare_keeper_that_does_not_serve(
    workdir: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the spare keeper is killed or suspended, the command runs once, under another."""
    async with running(command(workdir, WAIT)) as process:
        spare = await spare_of(zygote_of(process))
    os.kill(spare, number)
    if number == signal.SIGKILL:
        assert await trio.to_thread.run_sync(wait_ended, [spare])
    monkeypatch.setattr(processes, "MAX_START_SECONDS", 0.2)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            async with running(command(workdir, f"echo once >>log; cat log; {WAIT}")) as process:
                assert parent_of(process.pid) != spare
                assert await process.stdout.receive_some() == b"once\n"
                with suppress(ProcessLookupError):
                    os.kill(spare, signal.SIGCONT)
                # It finds that its request was withdrawn.
                assert await trio.to_thread.run_sync(wait_ended, [spare])

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        # The next one may be slow.
        monkeypatch.setattr(processes, "MAX_START_SECONDS", 60.0)
    async with running(command(workdir, "cat log")) as process:
        assert await read(process) == b"once\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_signals_to_a_runner_that_waits(workdir: int, number: signal.Signals) -> None:
    """A command whose runner was killed has another one; a signal that programs may ignore has no effect."""
    async with running(command(workdir, WAIT)) as process:
        spare = await spare_of(zygote_of(process))
    (runner,) = tree(spare)
    os.kill(runner, number)
    if number == signal.SIGKILL:
        assert await trio.to_thread.run_sync(wait_ended, [runner])
    async with running(command(workdir, f"echo once >>log; cat log; {WAIT}")) as process:
        assert parent_of(process.pid) == spare
        assert (process.pid == runner) is (number == signal.SIGTERM)
        assert await process.stdout.receive_some() == b"once\n"
        os.kill(process.pid, signal.SIGTERM)
        assert await process.wait() == CommandEnd(128 + signal.SIGTERM)


@pytest.mark.parametrize("fails", ["os.getpid() == zygote_pid", "os.getpid() != zygote_pid"])
async def test_a_spare_keeper_that_could_not_be_forked(
    workdir: int, workspace: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack of processes between two commands does not fail the second one, if there is room again."""
    change = f"""import os, sys
sys.path.append(sys.argv[1])
from kheishd.hooks.os.shell import zygote
fork, zygote_pid = os.fork, os.getpid()
def fork_or_fail():
    if os.path.exists({str(workspace / "full")!r}) and {fails}:
        os.rename({str(workspace / "full")!r}, {str(workspace / "failed")!r})
        raise OSError(11, "too many processes")
    return fork()
os.fork = fork_or_fail
zygote.main()"""
    monkeypatch.setattr(processes, "ZYGOTE", change)
    async with running(command(workdir, "true")) as process:
        await process.wait()
    (workspace / "full").touch()
    fork_spare_keeper()
    with trio.fail_after(10):
        while not (workspace / "failed").exists():
            await trio.lowlevel.checkpoint()
    async with running(command(workdir, "echo well")) as process:
        assert await read(process) == b"well\n"


async def test_commands_cannot_use_the_spare_keeper(
    workdir: int, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes of the user can look into a keeper, or trace it, only once it has its request."""
    change = f"""import sys
sys.path.append(sys.argv[1])
from kheishd.hooks.os.shell import zygote
PR_GET_DUMPABLE = 3
def note():
    with open({str(workspace / "dumpable")!r}, "a") as file:
        file.write(str(zygote.libc().prctl(PR_GET_DUMPABLE)))
def noting(function):
    def call(*arguments):
        note()
        return function(*arguments)
    return call
zygote.receive = noting(zygote.receive)
zygote.mark_process = noting(zygote.mark_process)
zygote.main()"""
    monkeypatch.setattr(processes, "ZYGOTE", change)
    async with running(command(workdir, "cat dumpable")) as process:
        assert await read(process) == b"01"


async def test_a_slow_start_is_no_second_start(
    workdir: int, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that its keeper starts late, after its zygote was replaced, runs once."""
    change = f"""import os, sys
sys.path.append(sys.argv[1])
from kheishd.hooks.os.shell import zygote
original, parent = zygote.mark_process, os.getpid()
def mark(*arguments):
    while os.path.exists({str(workspace / "slow")!r}) and os.getppid() == parent:
        pass
    return original(*arguments)
zygote.mark_process = mark
zygote.main()"""
    monkeypatch.setattr(processes, "ZYGOTE", change)
    async with running(command(workdir, WAIT)):
        (workspace / "slow").touch()
    monkeypatch.setattr(processes, "MAX_START_SECONDS", 1.0)
    async with running(command(workdir, "echo once >>log; cat log")) as process:
        assert await read(process) == b"once\n"


async def test_an_upgrade_under_a_running_daemon(workdir: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zygote of another version than the daemon's forks no keeper, and the error names the remedy."""
    monkeypatch.setattr(processes, "__version__", "0.0.1")
    with pytest.raises(NotStarted, match=r"was installed over 0\.0\.1; restart the daemon"):
        async with running(command(workdir, "true")):
            raise AssertionError("it runs")


FAILS = "def fail(): raise OSError(11, 'too many processes')"


@pytest.mark.parametrize(
    "change",
    [
        "zygote.os.fork = fail",
        "setsid = zygote.os.setsid\ndef change(): zygote.os.fork = fail; setsid()\nzygote.os.setsid = change",
        "zygote.receive = lambda control: fail()",
    ],
)
async def test_a_machine_with_too_many_processes(
    workdir: int, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is reported if the zygote cannot start a keeper, or this cannot start the command."""
    begin = "import sys; sys.path.append(sys.argv[1])\nfrom kheishd.hooks.os.shell import zygote"
    monkeypatch.setattr(processes, "ZYGOTE", "\n".join((begin, FAILS, change, "zygote.main()")))
    with pytest.raises(NotStarted, match="too many processes"):
        async with running(command(workdir, "true")):
            raise AssertionError("it runs")


async def test_signals_that_end_programs(workdir: int) -> None:
    """Signals that are sent to all processes of a service do not end the zygote before the daemon."""
    async with running(command(workdir, WAIT)) as process:
        zygote = zygote_of(process)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(zygote, number)
    async with running(command(workdir, WAIT)) as process:
        assert zygote_of(process) == zygote
    async with running(command(workdir, "grep SigIgn /proc/self/status")) as process:
        # The C library has signals 32 and 33 for itself.
        assert int((await read(process)).split()[1], 16) & ~(0b11 << 31) == 0


def test_the_end_of_the_event_loop_ends_the_spare_keeper(workdir: int) -> None:
    """The spare keeper ends with the event loop."""

    async def main() -> tuple[int, int | None]:
        async with running(command(workdir, WAIT)) as process:
            spare = await spare_of(zygote_of(process))
            return spare, start_ticks_of(spare)

    spare, start_ticks = trio.run(main)
    assert start_ticks is not None
    assert wait_ended([spare])


@pytest.mark.parametrize("number", [0, signal.SIGSTOP])
def test_the_end_of_the_event_loop(workdir: int, number: int) -> None:
    """The zygote ends with the event loop that started it, even if somebody has suspended it."""

    async def main() -> tuple[int, int | None]:
        async with running(command(workdir, WAIT)) as process:
            zygote = zygote_of(process)
            os.kill(zygote, number)
            return zygote, start_ticks_of(zygote)

    zygote, start_ticks = trio.run(main)
    assert start_ticks is not None
    assert start_ticks_of(zygote) != start_ticks


def test_a_request_that_ends_early() -> None:
    """A request without its end is none."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall((100).to_bytes(4, "big") + b"x" * 99)
        with pytest.raises(EOFError):
            receive(theirs.fileno())
