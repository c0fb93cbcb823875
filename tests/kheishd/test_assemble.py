"""Putting a runtime together out of files, and knowing every handler."""

import os
from pathlib import Path

import pytest

from kheishd.assemble import (
    Source,
    build_runtime,
    handlers,
    listen_options,
    offline_route,
    read_agents,
    resolve_path,
)
from kheishd.config.reader import parse
from kheishd.config.sections.config import Config
from kheishd.core.workspace import Workspaces
from kheishd.home import Home
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.runtime import Runtime
from kheishd.providers.caller import Models
from protocol.budget import Budget, Prices
from protocol.errors.daemon import ConfigInvalid
from protocol.rpc.catalogue import METHODS
from tests.support.runtimes import WORKSPACES

CONFIG = """\
default_route = "local"
[routes.local]
driver = "openai"
model = "m"
base_url = "http://127.0.0.1:9/v1"
auth_ref = "env:A_KEY"
context_tokens = 32_768
[runs]
max_active = 7
[context]
keep_messages = 4
[permissions]
mode = "plan"
max_mode = "default"
rules = [{ tool = "bash", decision = "ask" }]
[workspace]
root = "work"
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A home with nothing in it but the directory for agents."""
    (tmp_path / "agents").mkdir()
    return Source(Home(tmp_path), environ={"A_KEY": "x"})


def build(source: Source, *, skip: bool = True) -> Runtime:
    """Generation 1."""
    return build_runtime(source, 1, Models, lambda config: CompositeHook(()), skip_bad_agents=skip)


def test_every_method_of_the_contract_has_one_handler() -> None:
    """What is served is what the contract says, no more and no less."""
    names = [handler.row.name for handler in handlers()]
    assert sorted(names) == sorted(METHODS)


def test_without_any_file(source: Source) -> None:
    """The built-in agent on the built-in route."""
    runtime = build(source)
    assert runtime.config == Config()
    assert list(runtime.definitions) == ["default"]
    assert runtime.routes == {"offline": offline_route()}
    assert runtime.warnings == ()
    assert source.config_path is None
    own = str(source.home.path)
    assert runtime.workspaces == Workspaces(f"{own}/workspace", own)


def test_what_the_configuration_says(source: Source) -> None:
    """Routes, limits, mode and workspace arrive; the built-in route stays."""
    source.home.config.write_text(CONFIG)
    runtime = build(source)
    assert set(runtime.routes) == {"offline", "local"}
    assert runtime.routes["local"].auth_ref == "env:A_KEY"
    assert runtime.config == source.read_config()
    assert (runtime.config.context.keep_messages, runtime.routes["local"].context_tokens) == (4, 32_768)
    assert runtime.workspace_root == str(source.home.path / "work")
    assert runtime.workspaces.limited


def test_what_things_cost(source: Source) -> None:
    """Amounts are written in units and kept in micros; a route without prices has none."""
    source.home.config.write_text(
        "[runs]\nmax_cost = 0.5\n"
        "[routes.a]\ndriver = 'openai'\nmodel = 'm'\nprice_input = 3\nprice_output = 15.25\n"
        "[routes.b]\ndriver = 'openai'\nmodel = 'm'\nprice_input = 0.075\nprice_output = 0\n"
        "price_cached_input = 0.01\ncurrency = 'EUR'\n"
    )
    runtime = build(source)
    assert runtime.config.runs.budget == Budget(max_cost=0.5)
    assert runtime.routes["a"].prices == Prices(currency="USD", input=3_000_000, output=15_250_000)
    assert runtime.routes["b"].prices == Prices(currency="EUR", input=75_000, output=0, cached_input=10_000)
    assert runtime.routes["offline"].prices is None
    assert runtime.warnings == ()


def test_a_limit_of_cost_that_limits_nothing_is_said(source: Source) -> None:
    """By the routes that state no prices."""
    source.home.config.write_text("[runs]\nmax_cost = 0.5\n[routes.free]\ndriver = 'openai'\nmodel = 'm'\n")
    assert build(source).warnings == (
        "runs.max_cost does not limit runs on free: no prices are stated there",
    )


def test_another_configuration_file(tmp_path: Path) -> None:
    """--config wins over the home's own; if it is not there, that is an error."""
    (tmp_path / "config.toml").write_text("[zebra]")
    (tmp_path / "other.toml").write_text("[runs]\nmax_active = 3\n")
    assert build(Source(Home(tmp_path), tmp_path / "other.toml", {})).config.runs.max_active == 3
    with pytest.raises(ConfigInvalid, match="No such file"):
        build(Source(Home(tmp_path), tmp_path / "gone.toml", {}))


def test_agents_by_name(source: Source) -> None:
    """Files that are not agents are passed over; a file may take the built-in one's place."""
    agents = source.home.agents
    (agents / "b.md").write_text("B.")
    (agents / "default.md").write_text("Mine.")
    (agents / ".hidden.md").write_text("---\n")
    (agents / "b.md~").write_text("---\n")
    (agents / "README.txt").write_text("---\n")
    found, complaints = read_agents(agents, {"offline": offline_route()}, WORKSPACES)
    assert list(found) == ["b", "default"]
    assert (found["default"].instructions, found["default"].source) == ("Mine.", "file")
    assert complaints == []


def test_a_bad_agent_is_skipped_or_refused(source: Source) -> None:
    """At the start it is a warning with file and line; at a reload the whole of it is refused."""
    (source.home.agents / "bad.md").write_text("---\ndescription: d\nroute: gone\n---\n")
    (source.home.agents / "two words.md").write_text("x")
    runtime = build(source)
    assert list(runtime.definitions) == ["default"]
    assert len(runtime.warnings) == 2
    assert "bad.md:3: route: there is no route 'gone'" in runtime.warnings[0]
    with pytest.raises(ConfigInvalid, match=r"bad\.md:3: route"):
        build(source, skip=False)


@pytest.mark.parametrize("root", [".", "..", "/", "state", "agents/x", "run/../skills", "cron", "link", "up"])
def test_a_workspace_that_no_agent_may_have(source: Source, root: str) -> None:
    """The home, what holds it, what the daemon keeps in it; also behind a link."""
    (source.home.path / "link").symlink_to("state")
    (source.home.path / "up").symlink_to("..")
    source.home.config.write_text(f"[workspace]\nroot = '{root}'\n")
    with pytest.raises(ConfigInvalid, match=r"workspace\.root: .* daemon's own") as caught:
        build(source)
    assert caught.value.field == "workspace.root"


def test_workspaces_are_resolved(tmp_path: Path) -> None:
    """The root, the home and what agents name: tools follow no link, so none may be left in the names."""
    (tmp_path / "disk" / "work").mkdir(parents=True)
    (tmp_path / "real" / "agents").mkdir(parents=True)
    (tmp_path / "home").symlink_to("real")
    (tmp_path / "real" / "workspace").symlink_to(tmp_path / "disk")
    for name, path in (("a", "work"), ("b", "/srv/./b"), ("c", "'~/x'")):
        (tmp_path / "real" / "agents" / f"{name}.md").write_text(f"---\nworkspace: {path}\n---\n")
    runtime = build(Source(Home(tmp_path / "home"), environ={}))
    assert runtime.workspaces == Workspaces(str(tmp_path / "disk"), str(tmp_path / "real"))
    found = {name: agent.workspace for name, agent in runtime.definitions.items()}
    assert found == {
        "default": None,
        "a": str(tmp_path / "disk" / "work"),
        "b": "/srv/b",
        "c": os.path.realpath(Path.home() / "x"),
    }


@pytest.mark.parametrize("path", ["../state", "..", "a/../..", "/", "'/srv/a\\nb'".replace("'", '"')])
def test_an_agent_where_it_may_not_work(source: Source, path: str) -> None:
    """It is a bad agent like any other, with its line."""
    (source.home.agents / "a.md").write_text(f"---\ndescription: d\nworkspace: {path}\n---\n")
    (warning,) = build(source).warnings
    assert "skipped the agent in a.md:3: workspace: " in warning
    with pytest.raises(ConfigInvalid, match=r"a\.md:3: workspace"):
        build(source, skip=False)


def test_an_agent_outside_of_the_configured_root(source: Source) -> None:
    """What the configuration says counts for agents' files, too."""
    source.home.config.write_text("[workspace]\nroot = '/srv/work'\n")
    (source.home.agents / "a.md").write_text("---\nworkspace: /srv/other\n---\n")
    (source.home.agents / "b.md").write_text("---\nworkspace: inside\n---\n")
    runtime = build(source)
    assert "a.md:2: workspace: /srv/other is not within /srv/work" in runtime.warnings[0]
    assert runtime.definitions["b"].workspace == "/srv/work/inside"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_agent_that_may_not_be_read(source: Source) -> None:
    """It is a bad agent like any other."""
    (source.home.agents / "a.md").write_text("x")
    (source.home.agents / "a.md").chmod(0)
    assert "a.md:1: Permission denied" in build(source).warnings[0]


def test_a_directory_called_like_an_agent(source: Source) -> None:
    """It is named, and nothing else is harmed."""
    (source.home.agents / "a.md").mkdir()
    assert "a.md:1: Is a directory" in build(source).warnings[0]


def test_a_pipe_called_like_an_agent(source: Source) -> None:
    """Nobody waits for what will never be written; and nothing is read from a device."""
    os.mkfifo(source.home.agents / "pipe.md")
    (source.home.agents / "zero.md").symlink_to("/dev/zero")
    found, complaints = read_agents(source.home.agents, {}, WORKSPACES)
    assert (list(found), complaints) == (
        ["default"],
        ["pipe.md:1: it is no ordinary file", "zero.md:1: it is no ordinary file"],
    )


def test_no_directory_for_agents(tmp_path: Path) -> None:
    """It need not exist; a file in its place is a complaint."""
    assert read_agents(tmp_path / "agents", {}, WORKSPACES)[1] == []
    (tmp_path / "agents").write_text("")
    assert read_agents(tmp_path / "agents", {}, WORKSPACES)[1] == ["agents:1: Not a directory"]


def test_a_default_agent_that_does_not_exist(source: Source) -> None:
    """The daemon starts and warns: everybody who names an agent is served."""
    source.home.config.write_text("default_agent = 'gone'")
    (warning,) = build(source).warnings
    assert "default agent 'gone'" in warning
    assert "agents/gone.md" in warning


def test_paths_begin_at_the_home(tmp_path: Path) -> None:
    """Relative ones at the daemon's, ``~`` at the user's, absolute ones stay."""
    home = Home(tmp_path)
    assert resolve_path("a/b", home) == tmp_path / "a" / "b"
    assert resolve_path("~/x", home) == Path.home() / "x"
    assert resolve_path("/x", home) == Path("/x")


def test_where_to_listen(tmp_path: Path) -> None:
    """The private socket always; the others as configured, with names made numbers."""
    home = Home(tmp_path)
    options = listen_options(parse(""), home)
    assert (options.rpc.path, options.shared, options.tcp) == (home.socket, None, None)
    text = (
        "[listen.shared]\nmode = '0600'\n[[listen.shared.grants]]\nuid = 'root'\nscopes = ['read']\n"
        "agents = []\n[[listen.shared.grants]]\ngid = 7\nscopes = []\n"
        "[listen.tcp]\naddress = '[::1]:0'\norigins = ['https://o']\nhosts = ['h']\n"
    )
    options = listen_options(parse(text), home)
    assert options.shared is not None
    assert (options.shared.path, options.shared.mode) == (tmp_path / "run" / "shared.sock", 0o600)
    root, seven = options.shared.grants
    assert (root.uid, root.gid, root.agents, root.senders) == (0, None, frozenset(), None)
    assert (seven.uid, seven.gid, seven.scopes) == (None, 7, ())
    assert options.tcp is not None
    assert (options.tcp.host, options.tcp.port, options.tcp.origins) == ("::1", 0, ("https://o",))


def test_a_grant_for_nobody(tmp_path: Path) -> None:
    """A user that this machine does not know is named with its key."""
    text = "[[listen.shared.grants]]\nuid = 'no-such-user'\nscopes = []\n"
    with pytest.raises(ConfigInvalid, match=r"grants\[0\]\.uid: this machine has no user called"):
        listen_options(parse(text), Home(tmp_path))
