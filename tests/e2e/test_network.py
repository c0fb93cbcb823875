"""The network of commands: closed, opened per host, tried with real clients through a real daemon."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemon, short_home, until
from tests.support.local_web import LocalWeb
from tests.support.waiting_runs import order

pytestmark = pytest.mark.usefixtures("bubblewrap")

# The loopback address is in no_proxy, for the servers that a command starts itself.
CURL = "curl -sS --noproxy '' --max-time 20"

CONFIG = """
[permissions]
rules = [
    {{ tool = "bash", decision = "allow" }},
    {{ tool = "*", subject = "net:{open}", decision = "allow" }},
    {{ tool = "*", subject = "net:*.allowed.example", decision = "allow" }},
    {{ tool = "*", subject = "net:denied.allowed.example", decision = "deny", note = "never there" }},
]
"""


@pytest.fixture(scope="module")
def web() -> Iterator[LocalWeb]:
    """Provide a server that a rule opens."""
    with LocalWeb() as web:
        yield web


@pytest.fixture(scope="module")
def closed_web() -> Iterator[LocalWeb]:
    """Provide a server that no rule opens."""
    with LocalWeb() as web:
        yield web


@pytest.fixture(scope="module")
def daemon(web: LocalWeb) -> Iterator[Daemon]:
    """Provide a daemon that allows commands, and connections to one server."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(CONFIG.format(open=web.address))
        with Daemon(home) as daemon:
            yield daemon


def returned(daemon: Daemon, run_id: str) -> str:
    """Return the result of a run's only call."""
    events = daemon.events(run_id=run_id, types=["tool_returned"])
    return str(events[-1]["text"])


def call(daemon: Daemon, tool: str, sender: str = "ada", **arguments: Any) -> str:
    """Call a tool and return its result."""
    return returned(daemon, daemon.say(order(tool, **arguments), sender=sender)["run_id"])


def run(daemon: Daemon, command: str, sender: str = "ada", **arguments: Any) -> dict[str, Any]:
    """Run a command and return its decoded result."""
    result: dict[str, Any] = json.loads(call(daemon, "bash", sender, command=command, **arguments))
    return result


def wait_for_approval(daemon: Daemon, command: str, sender: str, **arguments: Any) -> dict[str, Any]:
    """Let a call wait for a person, and return its approval."""
    content = order("bash", command=command, **arguments)
    run_id = daemon.call("conversation.send", content=content, sender=sender)["run_id"]
    until(lambda: daemon.call("approval.list", run_id=run_id)["approvals"] != [], "a person is asked")
    approval: dict[str, Any] = daemon.call("approval.list", run_id=run_id)["approvals"][0]
    return approval


def answer(daemon: Daemon, approval: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """Allow a call, and return its result."""
    resolution = {"approval_id": approval["approval_id"], "decision": "allow", **extra}
    daemon.call("approval.resolve", resolutions=[resolution])
    daemon.call("run.wait", run_id=approval["run_id"])
    result: dict[str, Any] = json.loads(returned(daemon, approval["run_id"]))
    return result


# What is closed.


def test_the_network_is_closed_by_default(daemon: Daemon, closed_web: LocalWeb, tmp_path: Path) -> None:
    """Services of this machine, abstract sockets and name servers are out of reach, whatever is tried."""
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0kheish-test-abstract")
    abstract.listen()
    asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asked.bind(("127.0.0.1", 0))
    asked.setblocking(False)
    attempts = f"""
import socket
def attempt(name, action):
    try: print(name, "REACHED", action())
    except OSError as error: print(name, "failed:", error)
def udp(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as s: return s.sendto(b"secret", address)
attempt("loopback", lambda: socket.create_connection(("127.0.0.1", {closed_web.port}), 5))
attempt("loopback6", lambda: socket.create_connection(("::1", {closed_web.port}), 5))
attempt("metadata", lambda: socket.create_connection(("169.254.169.254", 80), 5))
attempt("public", lambda: socket.create_connection(("1.1.1.1", 443), 5))
attempt("public6", lambda: socket.create_connection(("2606:4700:4700::1111", 443), 5))
attempt("dns", lambda: socket.getaddrinfo("secret.example.org", 80))
attempt("dns-udp", lambda: udp(socket.AF_INET, ("8.8.8.8", 53)))
attempt("dns-udp6", lambda: udp(socket.AF_INET6, ("2001:4860:4860::8888", 53)))
attempt("broadcast", lambda: udp(socket.AF_INET, ("255.255.255.255", 9)))
attempt("multicast", lambda: udp(socket.AF_INET6, ("ff02::1", 9)))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0kheish-test-abstract"))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).sendto(b"x", ("1.1.1.1", 0)))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
attempt("vsock", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 1)))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b"secret", {asked.getsockname()!r})
print("interfaces", [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]])
"""
    result = run(daemon, f"python3 - <<'END'\n{attempts}\nEND")
    assert result["exit_code"] == 0, result
    assert "REACHED" not in result["stdout"], result["stdout"]
    assert result["stdout"].count("failed:") == 14
    assert "interfaces ['lo']" in result["stdout"]
    assert (closed_web.paths, result.get("connected")) == ([], None)
    with pytest.raises(BlockingIOError):
        asked.recv(100)
    abstract.close()
    asked.close()


def test_a_refused_host_is_named_with_the_remedy(daemon: Daemon, closed_web: LocalWeb) -> None:
    """The clients get an answer, and the result names each refused host and the argument to use."""
    command = f"""
{CURL} https://secret-in-a-name.example.org/; {CURL} http://secret.example.org/x
{CURL} --proxy socks5h://127.0.0.1:808 http://third.example.org/
{CURL} http://{closed_web.address}/; {CURL} http://denied.allowed.example/
{CURL} http://0x7f.1:{closed_web.port}/ ; {CURL} http://[::ffff:127.0.0.1]:{closed_web.port}/
"""
    result = run(daemon, command)
    assert "connected" not in result
    assert result["refused"] == {
        "secret-in-a-name.example.org:443": 1,
        "secret.example.org:80": 1,
        "third.example.org:80": 1,
        closed_web.address: 3,
        "denied.allowed.example:80": 1,
    }
    assert "CONNECT tunnel failed, response 403" in result["stderr"]
    assert "kheish: this command may not connect to secret.example.org:80: no rule allows" in result["stdout"]
    assert "never there" in result["stdout"]
    assert "call bash again with network: ['secret-in-a-name.example.org:443'" in result["note"]
    assert closed_web.paths == []


def test_sockets_of_others_in_the_workspace(daemon: Daemon, tmp_path: Path) -> None:
    """A socket that another process has in the workspace is out of reach; those of commands can be used."""
    path = daemon.home / "workspace" / "agent.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        own = 'python3 -c \'import socket; s = socket.socket(socket.AF_UNIX); s.{}("{}"); print("done")\''
        assert "done" not in run(daemon, own.format("connect", "agent.sock"))["stdout"]
        assert "done" not in run(daemon, own.format("connect", path))["stdout"]
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.accept()
        serve = "s = socket.socket(socket.AF_UNIX); s.bind('own.sock'); s.listen(); s.accept()"
        run(daemon, f'python3 -c "import socket; {serve}"', "shells", run_in_background=True)
        until((daemon.home / "workspace" / "own.sock").exists, "the shell listens")
        assert "done" in run(daemon, own.format("connect", "own.sock"))["stdout"]
    path.unlink()


# What is opened.


def test_a_rule_opens_a_host(daemon: Daemon, web: LocalWeb) -> None:
    """curl, Python and git reach an allowed host through the proxy, by each protocol."""
    url = f"http://{web.address}"
    for client in (
        f"{CURL} {url}/forward",
        f"{CURL} --proxytunnel {url}/tunnel",
        f"{CURL} --proxy socks5h://127.0.0.1:808 {url}/socks5h",
        f"{CURL} --proxy socks5://127.0.0.1:808 {url}/socks5",
        "unset no_proxy NO_PROXY; python3 -c 'from urllib.request import urlopen;"
        f' print(urlopen("{url}/python").read().decode())\'',
    ):
        result = run(daemon, client)
        assert result["connected"] == {web.address: 1}, result
        assert "page /" in result["stdout"]
    assert web.paths == ["/forward", "/tunnel", "/socks5h", "/socks5", "/python"]
    result = run(daemon, f"unset no_proxy NO_PROXY; git ls-remote {url}/repository")
    assert result["connected"] == {web.address: 1}, result
    assert web.paths[-1].startswith("/repository/info/refs")


def test_a_person_opens_a_host(daemon: Daemon, closed_web: LocalWeb) -> None:
    """Hosts that a call asks for are in its approval, which is for exactly these."""
    hosts = ["nothing.invalid", "nothing.invalid:80"]
    approval = wait_for_approval(daemon, "curl -sS http://nothing.invalid", "person", network=hosts)
    assert "that may connect to nothing.invalid:443, nothing.invalid:80:" in approval["preview"]["text"]
    assert approval["facts"]["network"] == ["net:nothing.invalid:443", "net:nothing.invalid:80"]
    result = answer(daemon, approval, remember="session")
    assert "kheish: nothing.invalid: " in result["stdout"]
    assert "refused" not in result
    # The grant is for these hosts: another one is asked about.
    same = run(daemon, "curl -sS http://nothing.invalid", "person", network=hosts)
    assert "kheish: nothing.invalid: " in same["stdout"]
    other = wait_for_approval(daemon, "curl -sS http://nothing.invalid", "person", network=["other.invalid"])
    answer(daemon, other)
    # A person who allows a private address does not open it: its own rule does.
    private = wait_for_approval(
        daemon, f"{CURL} http://{closed_web.address}/", "p", network=[closed_web.address]
    )
    mark = "(opened only if a rule names this address)"
    assert f"{closed_web.address} {mark}" in private["preview"]["text"]
    result = answer(daemon, private)
    assert result["refused"] == {closed_web.address: 1}
    assert "only by a rule that names exactly that address" in result["note"]
    assert closed_web.paths == []
    # So it is with localhost; a rule for exactly that name opens it.
    host = closed_web.address.replace("127.0.0.1", "localhost")
    command = f"{CURL} http://{host}/named"
    local = wait_for_approval(daemon, command, "l", network=[host])
    assert f"{host} {mark}" in local["preview"]["text"]
    result = answer(daemon, local)
    assert result["refused"] == {host: 1}
    assert f"only a rule for exactly net:{host} or net:{closed_web.address} opens it" in result["stdout"]
    rule = {"tool": "bash", "subject": f"net:{host}"}
    daemon.call("permission.update", add=[{**rule, "decision": "allow"}])
    assert run(daemon, command, "l")["stdout"] == "page /named\n"
    # Without --noproxy, curl connects to the sandbox's own loopback: the result says so.
    for hosts in ([], [host]):
        result = run(daemon, f"curl -sS http://{host}/", "l", network=hosts)
        assert f"no connection to {host} reached the proxy" in result["note"]
        assert "curl --noproxy ''" in result["note"]
    daemon.call("permission.update", remove=[rule])
    assert closed_web.paths.pop() == "/named"


def test_a_rule_that_asks_about_an_address(daemon: Daemon, closed_web: LocalWeb) -> None:
    """If a rule names a private address to ask about it, the person's answer opens it."""
    rule = {"tool": "bash", "subject": f"net:{closed_web.address}"}
    daemon.call("permission.update", add=[{**rule, "decision": "ask"}])
    command = f"{CURL} http://{closed_web.address}/asked"
    approval = wait_for_approval(daemon, command, "asks", network=[closed_web.address])
    assert answer(daemon, approval)["stdout"] == "page /asked\n"
    assert run(daemon, command, "asks")["refused"] == {closed_web.address: 1}
    daemon.call("permission.update", remove=[rule])
    assert closed_web.paths.pop() == "/asked"


def test_modes_that_ask_nobody(daemon: Daemon) -> None:
    """Plan and dontAsk deny a host that no rule allows, and dontAsk opens one that a rule allows."""
    session = daemon.say("hello", sender="mode")["session_id"]
    daemon.call("session.update", session_id=session, permission_mode="dontAsk")
    output = call(daemon, "bash", "mode", command="true", network=["example.org"])
    assert "This was not allowed: this needs a person's approval" in output
    result = run(daemon, f"{CURL} http://a.allowed.example/; {CURL} http://example.org/", "mode")
    assert "kheish: a.allowed.example: " in result["stdout"]
    assert result["refused"] == {"example.org:80": 1}
    daemon.call("session.update", session_id=session, permission_mode="plan")
    output = call(daemon, "web_fetch", "mode", url="http://example.org/")
    assert "plan mode fetches only from hosts that a rule allows" in output


def test_the_verdict_on_a_fetch_is_explained(daemon: Daemon, web: LocalWeb) -> None:
    """An explanation reads a URL, a host or a rule's subject as the fetch that the daemon would judge."""

    def why(subject: str) -> tuple[str, str]:
        explanation = daemon.call("permission.why", tool="web_fetch", subject=subject)
        return explanation["decision"], explanation["why"] + explanation["note"]

    for host in ("x.allowed.example", "denied.allowed.example", "other.example"):
        [verdict] = {why(subject) for subject in (f"https://{host}/x", host, f"net:{host}:443")}
        run_id = daemon.say(order("web_fetch", url=f"https://{host}/x"), sender=host)["run_id"]
        [judged] = daemon.events(run_id=run_id, types=["calls_judged"])[-1]["verdicts"]
        assert verdict == (judged["decision"], judged["why"] + judged.get("note", ""))
    for subject in (f"http://{web.address}/", web.address, f"net:{web.address}", "localhost"):
        decision, text = why(subject)
        assert (decision, "is not on the public internet" in text) == ("deny", True)
    assert "is not on the public internet" in call(daemon, "web_fetch", url=f"http://{web.address}/")


def test_the_verdict_on_a_local_connection_is_explained(daemon: Daemon, web: LocalWeb) -> None:
    """Of a command's connections to local addresses, only those that a rule names are allowed."""
    everything = {"tool": "bash", "subject": "net:*"}
    daemon.call("permission.update", add=[{**everything, "decision": "allow"}])
    for address, decision in ((web.address, "allow"), ("127.0.0.1:9", "deny"), ("localhost:9", "deny")):
        explanation = daemon.call("permission.why", tool="bash", subject=f"net:{address}")
        result = run(daemon, f"{CURL} http://{address}/")
        assert explanation["decision"] == decision
        assert (address in result.get("refused", {})) == (decision == "deny")
    daemon.call("permission.update", remove=[everything])


def test_rules_change_while_a_command_runs(daemon: Daemon, web: LocalWeb) -> None:
    """A deny closes a host for a running shell; commands in the background have the same network."""
    loop = f"until [ -e stop ]; do {CURL} http://{web.address}/loop && sleep 0.05; done; {CURL} http://x.example/"
    task_id = run(daemon, loop, "bg", run_in_background=True)["task_id"]
    until(lambda: web.paths.count("/loop") > 1, "the shell connects")
    rule = {"tool": "bash", "subject": f"net:{web.address}"}
    daemon.call("permission.update", add=[{**rule, "decision": "deny"}])

    def text() -> str:
        return str(daemon.call("task.output", task_id=task_id)["text"])

    until(lambda: "may not connect" in text(), "the shell is refused")
    seen = len(web.paths)
    daemon.call("permission.update", remove=[rule])
    until(lambda: len(web.paths) > seen, "the shell connects again")
    (daemon.home / "workspace" / "stop").touch()
    shell = daemon.call("task.output", task_id=task_id, wait=True)["task"]["shell"]
    assert shell["connected"] == [web.address]
    assert sorted(shell["refused"]) == sorted([web.address, "x.example:80"])


def test_a_host_of_a_background_command(daemon: Daemon) -> None:
    """The hosts that were allowed with a background command are in its task, and open to it."""
    approval = wait_for_approval(
        daemon,
        "curl -sS http://nothing.invalid; curl -sS http://other.invalid",
        "shell",
        network=["nothing.invalid:80"],
        run_in_background=True,
    )
    assert "in the background" in approval["preview"]["text"]
    daemon.call(
        "approval.resolve", resolutions=[{"approval_id": approval["approval_id"], "decision": "allow"}]
    )
    daemon.call("run.wait", run_id=approval["run_id"])
    (task,) = daemon.call("task.list", session_id=approval["session_id"], kind="shell", status="any")["tasks"]
    output = daemon.call("task.output", task_id=task["task_id"], wait=True)
    assert "kheish: nothing.invalid: " in output["text"]
    assert output["task"]["shell"]["hosts"] == ["nothing.invalid:80"]
    assert output["task"]["shell"]["refused"] == ["other.invalid:80"]
    ended = daemon.events(types=["task_ended"])[-1]
    assert "Connections were refused to other.invalid:80" in ended["note"]


# What a person and the status say where the network is open.


@pytest.mark.parametrize(
    ("setting", "confinement"),
    [
        ('network = "open"', "in a sandbox with the machine's whole network"),
        ('sandbox = "off"', "without a sandbox, thus with the machine's whole network"),
    ],
)
def test_an_open_network_is_shown(web: LocalWeb, setting: str, confinement: str) -> None:
    """Where commands have the machine's network, each approval, the status and the log say so."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(f"[workspace]\n{setting}\n")
        with Daemon(home) as daemon:
            approval = wait_for_approval(daemon, f"{CURL} http://{web.address}/open", "ada")
            assert f", {confinement}:\n" in approval["preview"]["text"]
            result = answer(daemon, approval)
            assert result["stdout"] == "page /open\n"
            assert ("connected" in result, "refused" in result) == (False, False)
            assert daemon.call("daemon.status")["sandbox"]["network"] == "open"
            until(lambda: "network=open" in daemon.read_log(), "the log shows it")


# Commands that attack the proxy.


def test_a_hostile_command_harms_itself_only(daemon: Daemon, web: LocalWeb) -> None:
    """Floods of connections and of garbage delay nobody, and end with the command."""
    attack = f"""
import os, socket, struct, threading
def flood(sent, reset):
    while True:
        try:
            with socket.create_connection(("127.0.0.1", 808)) as s:
                if reset: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.sendall(sent)
                if not reset: s.recv(100)
        except OSError: pass
tunnel = b"CONNECT {web.address} HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n"
endless = b"GET http://x/ HTTP/1.1\\r\\nx: " * 9000
for sent in (tunnel.replace(b"127", b"128"), os.urandom(3000), b"\\x05\\x01\\x00\\x05", endless):
    for reset in (True, False): threading.Thread(target=flood, args=(sent, reset), daemon=True).start()
idle = [socket.create_connection(("127.0.0.1", 808)) for _ in range(50)]
for s in idle: s.sendall(tunnel)
print("flooding", flush=True)
threading.Event().wait()
"""
    task = run(daemon, f"python3 - <<'END'\n{attack}\nEND", "hostile", run_in_background=True)["task_id"]
    until(lambda: "flooding" in daemon.call("task.output", task_id=task)["text"], "the attack runs")
    result = run(daemon, f"{CURL} http://{web.address}/meanwhile", "victim")
    assert result["stdout"] == "page /meanwhile\n"
    until(lambda: len(web.connections) == 50, "the idle tunnels are open")
    daemon.call("task.stop", task_id=task)
    shell = daemon.call("task.output", task_id=task, wait=True)["task"]["shell"]
    assert shell["connected"] == [web.address]
    until(lambda: not web.connections, "all connections of the command are closed")
    assert "Traceback" not in daemon.read_log()


def test_the_proxy_of_another_command(daemon: Daemon, web: LocalWeb) -> None:
    """The port of a command leads to its own rules and counts, and no command can take it."""
    taken = "import socket; socket.socket().bind(('127.0.0.1', 808))"
    result = run(daemon, f'python3 -c "{taken}"; {CURL} http://{web.address}/own', "x")
    assert "Permission denied" in result["stderr"] or "Address already in use" in result["stderr"]
    assert result["connected"] == {web.address: 1}


def test_the_daemons_own_port_is_closed() -> None:
    """No rule lets a command talk to the daemon over TCP."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text("""
permissions.rules = [
    { tool = "bash", decision = "allow" },
    { tool = "bash", subject = "net:127.0.0.1", decision = "allow" },
]
[listen.tcp]
address = "127.0.0.1:0"
""")
        with Daemon(home) as daemon:
            listeners = daemon.call("daemon.status")["listeners"]
            (address,) = [name[4:] for name in listeners if name.startswith("tcp:")]
            result = run(daemon, f"{CURL} http://{address}/; {CURL} http://127.0.0.1:1/")
            assert "it is a port of the daemon itself" in result["stdout"]
            assert "kheish: no connection to 127.0.0.1:1: " in result["stdout"]
            assert result["refused"] == {address: 1}


def test_bypassing_permissions_opens_no_private_address(daemon: Daemon, closed_web: LocalWeb) -> None:
    """The mode that allows everything else does not open this machine to its commands."""
    session = daemon.say("hello", sender="bypass")["session_id"]
    daemon.call("session.update", session_id=session, permission_mode="bypassPermissions")
    result = run(daemon, f"{CURL} http://{closed_web.address}/; {CURL} http://nothing.invalid/", "bypass")
    assert result["refused"] == {closed_web.address: 1}
    assert "kheish: nothing.invalid: " in result["stdout"]
    assert closed_web.paths == []
