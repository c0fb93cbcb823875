"""The units in a booted systemd: start at boot, activation, watchdog, credentials, sandboxed commands."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.booted import Booted, CannotBoot, build_wheel, find_obstacle
from tests.support.daemons import Client, RpcError, until
from tests.support.waiting_runs import order

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"
HOME = "var/lib/private/kheish"
ETC = "etc/systemd/system"
USER = "ada"

CONFIG = """
[permissions]
mode = "bypassPermissions"

[workspace]
sandbox = "required"
"""

KEY_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(401)
        self.end_headers()
        open("/run/key", "w").write(self.headers["Authorization"])
with http.server.HTTPServer(("127.0.0.1", 7999), Handler) as server:
    open("/run/listening", "w").close()
    server.handle_request()
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """Provide a booted machine with the units and two users; it is skipped where none can be booted."""
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    directory = tmp_path_factory.mktemp("booted")
    with Booted(build_wheel(directory), directory) as machine:
        try:
            machine.wait_booted()
        except CannotBoot as error:
            pytest.skip(str(error))
        for name in ("kheishd.service", "kheishd.socket"):
            shutil.copy(UNITS / name, machine.root / ETC / name)
            unit = (UNITS / "user" / name).read_text().replace("%h/.local/bin/", "/usr/bin/")
            (machine.root / "etc/systemd/user" / name).write_text(unit)
        (machine.root / HOME).mkdir(parents=True, mode=0o700)
        for user, uid in ((USER, "1500"), ("bob", "1501")):
            machine.run("useradd", "--create-home", "--uid", uid, user)
        yield machine


@pytest.fixture
def service(machine: Booted) -> Iterator[Booted]:
    """Provide the machine with the units as they are and the usual configuration; nothing runs."""
    configure(machine)
    yield machine
    machine.run("systemctl", "stop", "kheishd.service", "kheishd.socket")
    machine.run("systemctl", "reset-failed", "kheishd.service", "kheishd.socket", check=False)
    shutil.rmtree(machine.root / ETC / "kheishd.service.d", ignore_errors=True)
    machine.run("systemctl", "daemon-reload")


def configure(machine: Booted, more: str = "", *, root: str = "") -> None:
    """Write the daemon's configuration; ``root`` contains its workspaces."""
    (machine.root / HOME / "config.toml").write_text(CONFIG + (f"root = '{root}'\n" if root else "") + more)


def drop_in(machine: Booted, settings: str, units: str = ETC) -> None:
    """Add settings to the service."""
    directory = machine.root / units / "kheishd.service.d"
    directory.mkdir(exist_ok=True)
    (directory / "local.conf").write_text(f"[Service]\n{settings}\n")
    machine.run("systemctl", "daemon-reload")


def start(machine: Booted) -> Client:
    """Start the service and connect to its socket."""
    machine.run("systemctl", "start", "kheishd")
    return machine.connect()


def say(client: Client, text: str, **params: Any) -> Any:
    """Send to the default agent, and wait until the run has settled."""
    return client.call("conversation.send", content=text, **{"wait": "settled", **params})


def test_boot_resumes_work_of_both_units(service: Booted) -> None:
    """After 'enable --now', the daemons start at boot and finish the work of before; no client connects.

    A user's daemon starts at boot if the user lingers.
    """
    configure(service, "[daemon]\ndrain_s = 0\n")
    service.run("systemctl", "enable", "--now", "kheishd")
    service.run("systemctl", "start", "user@1500.service")
    # As people do who only know the socket.
    service.run("systemctl", "--user", "enable", "--now", "kheishd.socket", user=USER)
    assert service.show("kheishd", "ActiveState", "--user", user=USER) == "inactive"
    (service.root / "var/lib/systemd/linger").mkdir(parents=True, exist_ok=True)
    (service.root / "var/lib/systemd/linger" / USER).touch()
    content = "/slow 20 100\n" + order("write_file", path="done", content="resumed")
    with service.connect() as client:
        run = say(client, content, wait="accepted")["run_id"]
        until(lambda: client.call("run.get", run_id=run)["status"] == "running", "the run's start")
    assert not (service.root / HOME / "workspace/done").exists()
    service.reboot()
    assert service.show("kheishd", "ActiveState") == "active"
    until((service.root / HOME / "workspace/done").exists, "the resumed run")
    with service.connect() as client:
        until(lambda: client.call("run.get", run_id=run)["status"] == "completed", "the run's end")
    until(
        lambda: service.show(f"user@{service.uid_of(USER)}", "ActiveState") == "active", "the user's manager"
    )
    until(
        lambda: service.show("kheishd", "ActiveState", "--user", user=USER) == "active", "the user's daemon"
    )
    service.run("systemctl", "--user", "disable", "--now", "kheishd", user=USER)
    service.run("systemctl", "disable", "kheishd")


@pytest.mark.parametrize("manager", ["system", "user", "user without namespaces"])
def test_commands_run_in_the_sandbox(service: Booted, manager: str) -> None:
    """Under the restrictions of each unit, bash runs in its sandbox: it sees no home and no other process.

    Its network leads to the daemon's proxy.
    """
    command = "cat /proc/[0-9]*/comm; ls -d ~root/* /home/*/* /run/kheishd.sock; echo made > file; cat file"
    tunnel = "CONNECT x.example:443 HTTP/1.0\\r\\n\\r\\n"
    command += f"; exec 3<>/dev/tcp/127.0.0.1/808; printf '{tunnel}' >&3; cat <&3"
    content = order("bash", command=command)
    if manager == "system":
        with start(service) as client:
            output = say(client, content)["output"]
    else:
        service.run("systemctl", "start", "user@1500.service")
        if manager != "user":
            unit = (UNITS / "user" / "kheishd.service").read_text()
            settings = re.findall(r"(?m)^#((?:Private|Protect|Capability)\w+=.*)$", unit)
            assert len(settings) == 11
            drop_in(service, "\n".join(settings), "etc/systemd/user")
            service.run("systemctl", "--user", "daemon-reload", user=USER)
        home = service.root / "home" / USER / ".kheish"
        home.mkdir(mode=0o700, exist_ok=True)
        (home / "config.toml").write_text(CONFIG)
        service.run("chown", "-R", f"{USER}:", f"/home/{USER}/.kheish")
        service.run("systemctl", "--user", "start", "kheishd", user=USER)
        params = json.dumps({"content": content, "wait": "settled"})
        sent = service.run("kheishctl", "call", "conversation.send", params, user=USER)
        output = json.loads(sent.stdout)["output"]
        service.run("systemctl", "--user", "stop", "kheishd.service", "kheishd.socket", user=USER)
        shutil.rmtree(service.root / "etc/systemd/user/kheishd.service.d", ignore_errors=True)
    assert '"sandboxed":true' in output
    assert "made" in output
    assert "kheishd.sock'" in output, "the command would have listed the socket"
    assert "systemd" not in output
    assert "python" not in output
    assert "kheish: x.example: " in output, "the proxy would have answered"


def test_a_credential_reaches_the_provider(service: Booted) -> None:
    """A credential of systemd authenticates a route, and no command can read it."""
    (service.root / "etc/kheish").mkdir(mode=0o700)
    (service.root / "etc/kheish/openai.key").write_text("sk-from-systemd-credentials\n")
    drop_in(service, "LoadCredential=openai:/etc/kheish/openai.key")
    configure(
        service,
        "[routes.local]\ndriver = 'openai'\nmodel = 'm'\nbase_url = 'http://127.0.0.1:7999/v1'\n"
        "auth_ref = 'credential:openai'\n",
    )
    service.run("systemd-run", "--unit=key-server", "/opt/kheish/bin/python", "-c", KEY_SERVER)
    until((service.root / "run/listening").exists, "the server")
    with start(service) as client:
        run = say(client, "hello", route="local")
        assert run["status"] == "failed"
        assert (service.root / "run/key").read_text() == "Bearer sk-from-systemd-credentials"
        command = "cat /run/credentials/*/* $CREDENTIALS_DIRECTORY/openai; echo tried"
        output = say(client, order("bash", command=command))["output"]
    assert "tried" in output
    assert "sk-from-systemd" not in output


def test_the_watchdog_restarts_a_daemon_that_hangs(service: Booted) -> None:
    """A daemon that no longer runs is killed and restarted, and keeps its state."""
    drop_in(service, "WatchdogSec=2")
    with start(service) as client:
        session = say(client, "hello")["session_id"]
    service.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "kheishd")
    until(lambda: service.show("kheishd", "NRestarts") != "0", "the restart")
    until(lambda: service.show("kheishd", "ActiveState") == "active", "the daemon")
    until(lambda: "Watchdog timeout" in service.journal("kheishd"), "the reason in the log")
    with service.connect() as client:
        assert client.call("session.get", session_id=session)["session_id"] == session


def test_a_reload_is_reported(service: Booted) -> None:
    """A reload takes effect; one with an error keeps the daemon and its last good configuration."""
    with start(service) as client:
        pid = service.show("kheishd", "MainPID")
        configure(service, "[routes.second]\ndriver = 'offline'\nmodel = 'm'\n")
        service.run("systemctl", "reload", "kheishd")

        def has_second() -> bool:
            return any(route["route_id"] == "second" for route in client.call("route.list")["routes"])

        until(has_second, "the reload")
        configure(service, "[routes.second]\ndriver = 'nonsense'\nmodel = 'm'\n")
        service.run("systemctl", "reload", "kheishd")
        until(lambda: "nonsense" in service.journal("kheishd"), "the report")
        assert has_second()
        assert service.show("kheishd", "ActiveState") == "active"
        assert service.show("kheishd", "MainPID") == pid


def test_a_connection_starts_the_daemon(service: Booted) -> None:
    """With only the socket active, the first connection starts the daemon and is answered."""
    service.run("systemctl", "start", "kheishd.socket")
    assert service.show("kheishd", "ActiveState") == "inactive"
    with service.connect() as client:
        assert client.call("rpc.ping")["version"]
    # The daemon answers before the code of runs is imported.
    until(lambda: service.show("kheishd", "ActiveState") == "active", "the daemon is ready")


def test_a_bad_configuration_does_not_loop(service: Booted) -> None:
    """With a bad configuration, the start fails once, and the client is told the line and the key."""
    configure(service, "[daemon]\ndrain_s = 'never'\n")
    service.run("systemctl", "start", "kheishd.socket")
    with service.connect() as client, pytest.raises(RpcError, match=r"config.toml:\d+: daemon.drain_s"):
        client.call("rpc.ping")
    until(lambda: service.show("kheishd", "ActiveState") == "failed", "the failed start")
    assert service.show("kheishd", "NRestarts") == "0"
    assert "daemon.drain_s" in service.run("systemctl", "status", "kheishd", check=False).stdout
    configure(service)
    with service.connect() as client:
        assert client.call("rpc.ping")["version"]


def test_a_stop_lets_runs_end(service: Booted) -> None:
    """A stop waits for a run in progress, within drain_s."""
    with start(service) as client:
        run = say(client, "/slow 10 100\nlast words", wait="accepted")["run_id"]
        until(lambda: client.call("run.get", run_id=run)["status"] == "running", "the run's start")
        service.run("systemctl", "stop", "kheishd.service")
    assert service.show("kheishd", "Result") == "success"
    with start(service) as client:
        ended = client.call("run.get", run_id=run)
        assert (ended["status"], ended["starts"]) == ("completed", 1)


def test_directories_outside_the_home(service: Booted) -> None:
    """With the lines of the unit's comment, the daemon uses a workspace and backs up outside of its home."""
    unit = (UNITS / "kheishd.service").read_text()
    commands = re.findall(r"(?m)^#     (useradd .*|install .*)$", unit)
    assert len(commands) == 2
    for command in commands:
        service.run("sh", "-c", command)
    settings = re.findall(r"(?m)^#((?:User|ReadWritePaths|UMask)=.*)$", unit)
    assert len(settings) == 3
    drop_in(service, "\n".join(settings))
    service.run("usermod", "--append", "--groups", "kheish", USER)
    service.run("install", "-d", "-o", "bob", "-m", "0700", "/srv/work/bobs")
    service.run("setfacl", "-m", "u:bob:x", "/srv/work")
    service.run("setfacl", "-R", "-m", "u:kheish:rwX,d:u:kheish:rwX,d:u:bob:rwX", "/srv/work/bobs")
    configure(service, root="/srv/work")
    with start(service) as client:
        for directory in ("team", "bobs"):
            written = say(client, order("write_file", path=f"{directory}/new/file", content="x\n"))["output"]
            assert "bytes_written" in written
            ran = say(client, order("bash", command=f"echo y > {directory}/new/result"))["output"]
            assert '"sandboxed":true,"stdout":""' in ran
            assert '"exit_code":0' in ran
        client.call("daemon.backup", path="/srv/backup/first")
    for person, directory in ((USER, "team"), ("bob", "bobs")):
        service.run(
            "sh", "-c", f"cd /srv/work/{directory}/new && echo z | tee -a file result >more", user=person
        )
    assert (service.root / "srv/backup/first").exists()


def test_other_users_reach_the_shared_socket(service: Booted) -> None:
    """A user with a grant is served on the socket in the unit's runtime directory; others are not."""
    configure(
        service,
        "[listen.shared]\npath = '/run/kheish/shared.sock'\nmode = '0666'\n"
        f"[[listen.shared.grants]]\nuid = '{USER}'\nscopes = ['read']\n",
    )
    start(service).close()
    command = ("kheishctl", "--socket", "/run/kheish/shared.sock", "session", "list")
    service.run(*command, user=USER)
    assert service.run(*command, user="bob", check=False).returncode != 0
    assert service.run(
        "kheishctl", "--socket", "/run/kheishd.sock", "status", user=USER, check=False
    ).returncode


@pytest.mark.parametrize("manager", ["system", "user"])
def test_the_daemon_may_make_control_groups(service: Booted, manager: str) -> None:
    """The daemon may make control groups below its own, for the limits of commands, and none elsewhere."""
    user, options = ("root", ()) if manager == "system" else (USER, ("--user",))
    service.run("systemctl", "start", "user@1500.service")
    service.run("systemctl", *options, "start", "kheishd", user=user)
    pid = service.show("kheishd", "MainPID", *options, user=user)
    status = (service.root / f"proc/{pid}/status").read_text()
    uid = re.findall(r"(?m)^Uid:\t(\d+)", status)[0]
    group = service.show("kheishd", "ControlGroup", *options, user=user)
    # In the mounts of the daemon, as its user.
    inside = (
        "nsenter",
        f"--target={pid}",
        "--mount",
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
    )
    service.run(*inside, "mkdir", f"/sys/fs/cgroup{group}/commands")
    elsewhere = service.run(*inside, "mkdir", "/sys/fs/cgroup/commands", check=False)
    assert elsewhere.returncode
    service.run(*inside, "rmdir", f"/sys/fs/cgroup{group}/commands")
    service.run("systemctl", *options, "stop", "kheishd.service", "kheishd.socket", user=user)
