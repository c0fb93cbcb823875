"""Listening sockets: binding, inheriting from systemd, accepting."""

import fcntl
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from kheishd.server import listeners
from kheishd.server.listeners import (
    DESCRIPTORS_RESERVED,
    MAX_PATH_BYTES,
    Listener,
    ListenerUnusable,
    RpcListen,
    SharedListen,
    SocketInUse,
    TcpListen,
    accept_all,
    open_listeners,
    short_path,
)

LOOPBACK = TcpListen("127.0.0.1", 0)


class Swapped(socket.socket):
    """A socket whose path another process replaces by a link right after binding."""

    leads_to: Path

    def bind(self, path: str) -> None:  # type: ignore[override]
        """Bind, then replace the path."""
        super().bind(path)
        os.unlink(path)
        os.symlink(self.leads_to, path)


@contextmanager
def opened(
    run_dir: Path,
    shared: SharedListen | None = None,
    tcp: TcpListen | None = None,
    environ: dict[str, str] | None = None,
) -> Iterator[list[Listener]]:
    """Open the listeners of a daemon whose private socket is in ``run_dir``."""
    rpc = RpcListen(run_dir / "kheishd.sock")
    with open_listeners(rpc, shared, tcp, run_dir=run_dir, environ=environ or {}) as found:
        yield found


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(os.stat(path).st_mode)


def reached(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as client, short_path(path) as short:
        try:
            client.connect(short)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


def test_the_private_socket_is_private(tmp_path: Path) -> None:
    """The directory has mode 0700 and the socket 0600, and both disappear on closing."""
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        with opened(run_dir) as (listener,):
            assert (mode(run_dir), mode(run_dir / "kheishd.sock")) == (0o700, 0o600)
            assert listener.name == f"unix:{run_dir / 'kheishd.sock'}"
            assert reached(run_dir / "kheishd.sock")
    finally:
        os.umask(before)
    assert not (run_dir / "kheishd.sock").exists()


def test_a_live_socket_is_left_alone(tmp_path: Path) -> None:
    """A socket that answers is not replaced."""
    with opened(tmp_path):
        with pytest.raises(SocketInUse, match="another process listens"), opened(tmp_path):
            pass
        assert reached(tmp_path / "kheishd.sock")


def test_a_live_socket_with_a_full_queue_is_left_alone(tmp_path: Path) -> None:
    """A socket with a full accept queue is not replaced."""
    path = tmp_path / "kheishd.sock"
    with ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        full = False
        while not full:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                full = True
        with pytest.raises(SocketInUse):
            stack.enter_context(opened(tmp_path))


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """A socket that does not answer is replaced."""
    path = tmp_path / "kheishd.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert not reached(path)
    with opened(tmp_path):
        assert reached(path)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """A file that is no socket is not replaced."""
    path = tmp_path / "kheishd.sock"
    path.write_text("precious")
    with pytest.raises(SocketInUse, match="not a socket"), opened(tmp_path):
        pass
    assert path.read_text() == "precious"


def test_another_s_socket_is_not_removed(tmp_path: Path) -> None:
    """Closing does not unlink a socket that replaced ours."""
    path = tmp_path / "kheishd.sock"
    with socket.socket(socket.AF_UNIX) as other:
        with opened(tmp_path):
            path.unlink()
            other.bind(str(path))
        assert path.exists()


def test_a_path_too_long_for_the_kernel_works(tmp_path: Path) -> None:
    """A path that is too long is bound and reached through its directory's descriptor."""
    run_dir = tmp_path / ("deep" * 30) / "run"
    path = run_dir / "kheishd.sock"
    assert len(os.fsencode(path)) > MAX_PATH_BYTES
    with opened(run_dir):
        assert mode(path) == 0o600
        assert reached(path)
        with pytest.raises(SocketInUse, match="deepdeep"), opened(run_dir):
            pass
    assert not path.exists()


def test_the_shared_socket_has_its_mode_and_group(tmp_path: Path) -> None:
    """The shared socket has its configured mode and group; the private one is unchanged."""
    path = tmp_path / "shared.sock"
    with opened(tmp_path / "run", SharedListen(path, 0o660, str(os.getgid()))) as found:
        assert [listener.name for listener in found][1] == f"unix:{path}"
        assert mode(path) == 0o660
        assert os.stat(path).st_gid == os.getgid()
        assert mode(tmp_path / "run" / "kheishd.sock") == 0o600


@pytest.mark.parametrize(
    ("shared", "tcp", "key", "message"),
    [
        (SharedListen(Path("/proc/x/s")), None, "path", "cannot make the socket /proc/x/s: no such file"),
        (SharedListen(Path("s"), group="no-such"), None, "group", "this machine has no group 'no-such'"),
        (None, TcpListen("192.0.2.1", 80), "address", "cannot listen on 192.0.2.1:80: cannot assign"),
    ],
)
def test_a_listener_that_cannot_be_opened_names_its_setting(
    tmp_path: Path, shared: SharedListen | None, tcp: TcpListen | None, key: str, message: str
) -> None:
    """The error names the setting and the reason, and the other sockets are closed again."""
    if shared is not None:
        shared = replace(shared, path=tmp_path / shared.path)
    with pytest.raises(ListenerUnusable, match=message) as refused, opened(tmp_path / "run", shared, tcp):
        pass
    assert refused.value.key[-1] == key
    assert not (tmp_path / "run" / "kheishd.sock").exists()


def test_a_shared_socket_that_is_swapped_changes_no_other_file(tmp_path: Path) -> None:
    """The target of a link that replaces the socket keeps its mode and group."""
    precious = tmp_path / "precious"
    precious.touch(0o600)
    path = tmp_path / "shared.sock"
    with Swapped(socket.AF_UNIX) as listening:
        listening.leads_to = precious
        with pytest.raises((SocketInUse, OSError), match=r"another process replaced|symbolic links"):
            listeners._bind(listening, str(path), SharedListen(path, 0o666))
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1:"), ("::1", "[::1]:")])
def test_the_tcp_address_is_written_down(tmp_path: Path, host: str, shown: str) -> None:
    """A file holds the TCP address with the real port, and is removed on closing."""
    with opened(tmp_path, tcp=TcpListen(host, 0)) as (_, listener):
        address = (tmp_path / "tcp").read_text()
        assert address == f"{shown}{listener.socket.getsockname()[1]}\n"
        assert listener.name == f"tcp:{address.strip()}"
    assert not (tmp_path / "tcp").exists()


# systemd.


@pytest.fixture
def passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Three sockets as systemd passes them: the paths or addresses they are bound to."""
    first = 700
    monkeypatch.setattr(listeners, "LISTEN_FD_FIRST", first)
    names = []
    for number, family in enumerate((socket.AF_UNIX, socket.AF_UNIX, socket.AF_INET)):
        with socket.socket(family) as bound:
            bound.bind(str(tmp_path / f"{number}.sock") if family == socket.AF_UNIX else ("127.0.0.1", 0))
            bound.listen()
            names.append(bound.getsockname())
            assert fcntl.fcntl(bound.fileno(), fcntl.F_DUPFD, first + number) == first + number
    yield names
    for fd in range(first, first + 3):
        try:
            os.close(fd)
        except OSError:
            continue


def activation(count: int, names: str | None, pid: int | None = None) -> dict[str, str]:
    """Return the environment of systemd's socket activation."""
    given = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "HOME": "/"}
    return given if names is None else given | {"LISTEN_FDNAMES": names}


def test_passed_sockets_are_used_instead_of_binding(tmp_path: Path, passed: list[str]) -> None:
    """Inherited sockets are matched by name, in any order, and their variables are removed."""
    environ = activation(3, "shared:rpc:tcp")
    shared = SharedListen(tmp_path / "unused.sock")
    with opened(tmp_path / "run", shared, LOOPBACK, environ) as found:
        assert [type(listener.spec) for listener in found] == [SharedListen, RpcListen, TcpListen]
        assert [listener.socket.getsockname() for listener in found] == passed
        assert not any(os.get_inheritable(listener.socket.fileno()) for listener in found)
        assert not any(listener.socket.getblocking() for listener in found)
        assert not (tmp_path / "unused.sock").exists()
        assert not (tmp_path / "run" / "kheishd.sock").exists()
        assert (tmp_path / "run" / "tcp").read_text() == f"127.0.0.1:{passed[2][1]}\n"
    assert environ == {"HOME": "/"}
    assert Path(passed[0]).exists(), "what systemd bound, systemd removes"


def test_what_is_not_passed_is_bound(tmp_path: Path, passed: list[str]) -> None:
    """A socket that was not inherited is bound."""
    with opened(tmp_path / "run", None, LOOPBACK, activation(1, "rpc")) as found:
        assert found[0].socket.getsockname() == passed[0]
        assert isinstance(found[1].spec, TcpListen)
        assert found[1].socket.getsockname() != passed[2]


@pytest.mark.parametrize("names", [None, "kheishd.socket:kheishd.socket:kheishd.socket"])
def test_passed_sockets_without_names_go_by_their_family(
    tmp_path: Path, passed: list[str], names: str | None
) -> None:
    """An unnamed Unix socket is the private one; any other family is for WebSocket."""
    with opened(tmp_path / "run", tcp=LOOPBACK, environ=activation(3, names)) as found:
        assert [type(listener.spec) for listener in found] == [RpcListen, RpcListen, TcpListen]
        assert found[0].name == f"unix:{passed[0]}"


@pytest.mark.parametrize("name", ["tcp", "rpc", "shared", ""])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_passed_tcp_socket_needs_what_a_bound_one_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, family: socket.AddressFamily
) -> None:
    """Whatever its name, it needs [listen.tcp] and, if other machines reach it, TLS or ``insecure``."""
    monkeypatch.setattr(listeners, "LISTEN_FD_FIRST", 700)
    with socket.create_server(("", 0), family=family) as bound:

        def enter(tcp: TcpListen | None) -> Listener:
            fcntl.fcntl(bound.fileno(), fcntl.F_DUPFD, 700)
            with opened(tmp_path / "run", tcp=tcp, environ=activation(1, name)) as found:
                return found[0]

        with pytest.raises(ListenerUnusable, match=r"\[listen.tcp\] is not configured") as refused:
            enter(None)
        assert refused.value.key == ("listen", "tcp")
        os.close(700)
        with pytest.raises(ListenerUnusable, match=r"set certificate and key, or insecure = true"):
            enter(LOOPBACK)
        os.close(700)
        assert isinstance(enter(TcpListen("127.0.0.1", 0, insecure=True)).spec, TcpListen)
        assert isinstance(enter(TcpListen("127.0.0.1", 0, tmp_path / "c", tmp_path / "k")).spec, TcpListen)


def test_sockets_passed_to_another_process_are_not_ours(tmp_path: Path, passed: list[str]) -> None:
    """Variables meant for another process are ignored."""
    environ = activation(3, "rpc:shared:tcp", pid=1)
    with opened(tmp_path / "run", environ=environ) as (listener,):
        assert listener.socket.getsockname() == str(tmp_path / "run" / "kheishd.sock")


# Accepting.


async def test_without_descriptors_accepting_pauses(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Without descriptors, accepting pauses without spinning and resumes when one is free."""
    accepted: list[socket.socket] = []
    paused, freed = trio.Event(), trio.Event()

    async def descriptor_freed() -> None:
        assert not paused.is_set(), "asked once for one shortage"
        paused.set()
        await freed.wait()

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with opened(tmp_path) as (listener,), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "kheishd.sock"))
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        fillers = [os.dup(0) for _ in range(highest)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers), limits[1]))
        try:
            nursery.start_soon(accept_all, listener.socket, accepted.append, descriptor_freed)
            await paused.wait()
            assert accepted == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in fillers:
                os.close(fd)
        freed.set()
        while not accepted:
            await trio.lowlevel.checkpoint()
        accepted[0].close()
        nursery.cancel_scope.cancel()


def _filled(stack: ExitStack) -> int:
    """Open descriptors until all low numbers are used, and return the highest one."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    while (filler := os.dup(0)) < highest:
        stack.callback(os.close, filler)
    stack.callback(os.close, filler)
    return filler


async def test_some_descriptors_are_nobodys_but_the_daemons(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients cannot use up the descriptors that runs need, and the pause is logged once."""
    accepted: list[socket.socket] = []
    pauses = 0

    async def descriptor_freed() -> None:
        nonlocal pauses
        pauses += 1
        await trio.lowlevel.checkpoint()

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with opened(tmp_path) as (listener,), ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(50)]
        highest = _filled(stack)
        room = 4 * (highest + 20) // 3
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        accept = partial(accept_all, is_private=True)
        nursery.start_soon(accept, listener.socket, accepted.append, descriptor_freed)
        for client in clients:
            client.connect(str(tmp_path / "kheishd.sock"))
        while pauses < 3:
            await trio.lowlevel.checkpoint()
        assert 0 < len(accepted) < 50
        assert caplog.text.count("pauses") == 1
        spare = [os.dup(0) for _ in range(min(DESCRIPTORS_RESERVED, room // 4) - 2)]
        for fd in spare:
            os.close(fd)
        for each in accepted:
            each.close()
        while len(accepted) < 50:
            await trio.lowlevel.checkpoint()
            for each in accepted:
                each.close()
        nursery.cancel_scope.cancel()


async def test_what_is_accepted_does_not_block(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Accepted sockets are non-blocking, and many are accepted in turn."""
    accepted: list[socket.socket] = []
    with opened(tmp_path) as (listener,), ExitStack() as stack:
        nursery.start_soon(accept_all, listener.socket, accepted.append, trio.lowlevel.checkpoint)
        for _ in range(200):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(tmp_path / "kheishd.sock"))
        while len(accepted) < 200:
            await trio.lowlevel.checkpoint()
        assert not any(stack.enter_context(each).getblocking() for each in accepted)
        nursery.cancel_scope.cancel()


async def test_a_broken_socket_is_an_error(tmp_path: Path) -> None:
    """A broken listening socket raises an error."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf.sock"))
        deaf.setblocking(False)
        with pytest.raises(OSError, match="Invalid argument"):
            await accept_all(deaf, lambda stream: None, trio.lowlevel.checkpoint)


async def test_only_the_private_socket_uses_its_reserve(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Where other clients have to wait for descriptors, those of the private socket are accepted."""
    accepted: list[socket.socket] = []
    paused = trio.Event()

    async def descriptor_freed() -> None:
        paused.set()
        await trio.sleep_forever()

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with opened(tmp_path) as (listener,), ExitStack() as stack:
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(tmp_path / "kheishd.sock"))
        highest = _filled(stack)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 * highest // 2, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        nursery.start_soon(accept_all, listener.socket, accepted.append, descriptor_freed)
        await paused.wait()
        assert accepted == []
        accept = partial(accept_all, is_private=True)
        nursery.start_soon(accept, listener.socket, accepted.append, descriptor_freed)
        while not accepted:
            await trio.lowlevel.checkpoint()
        accepted[0].close()
        nursery.cancel_scope.cancel()
