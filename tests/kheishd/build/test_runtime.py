"""A runtime is built from the configuration and the agents' files."""

import os
from pathlib import Path

import pytest

from kheishd.build.agents import add_stored_agents
from kheishd.build.runtime import Source, build_runtime
from kheishd.config.sections.config import Config
from kheishd.core.workspace import Workspaces
from kheishd.home import Home
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.route import make_built_in_route
from kheishd.kernel.runtime import Runtime
from kheishd.providers.caller import ProviderCaller
from protocol.budget import Budget, Prices
from protocol.errors.daemon import ConfigInvalid

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
    """Return an empty home with a directory of agents."""
    (tmp_path / "agents").mkdir()
    return Source(Home(tmp_path), environ={"A_KEY": "x"})


def build(source: Source, *, skip: bool = True) -> Runtime:
    """Build generation 1."""
    return build_runtime(source, 1, ProviderCaller, lambda config: CompositeHook(()), skip_bad_agents=skip)


def test_no_files(source: Source) -> None:
    """Without any file, the runtime has the built-in agent on the built-in route."""
    runtime = build(source)
    assert runtime.config == Config()
    assert list(runtime.definitions) == ["default"]
    assert runtime.routes == {"offline": make_built_in_route()}
    assert runtime.warnings == ()
    assert source.config_path is None
    own = str(source.home.path)
    root = f"{own}/workspace"
    assert runtime.workspaces == Workspaces(root, own)


def test_configuration(source: Source) -> None:
    """The runtime has the configuration's values and routes, besides the built-in route."""
    source.home.config.write_text(CONFIG)
    runtime = build(source)
    assert set(runtime.routes) == {"offline", "local"}
    assert runtime.routes["local"].auth_ref == "env:A_KEY"
    assert runtime.config == source.read_config()
    assert (runtime.config.context.keep_messages, runtime.routes["local"].context_tokens) == (4, 32_768)
    assert runtime.workspace_root == str(source.home.path / "work")
    assert runtime.workspaces.limited


def test_prices(source: Source) -> None:
    """Prices are configured in currency units and kept in micros; a route may have none."""
    source.home.config.write_text(
        "[runs]\nmax_cost = 0.5\n"
        "[routes.a]\ndriver = 'openai'\nmodel = 'm'\nprice_input = 3\nprice_output = 15.25\n"
        "[routes.b]\ndriver = 'openai'\nmodel = 'm'\nprice_input = 0.075\nprice_output = 0\n"
        "price_cached_input = 0.01\nprice_cache_write = 0.1\ncurrency = 'EUR'\n"
    )
    runtime = build(source)
    assert runtime.config.runs.budget == Budget(max_cost=0.5)
    assert runtime.routes["a"].prices == Prices(currency="USD", input=3_000_000, output=15_250_000)
    assert runtime.routes["b"].prices == Prices(
        currency="EUR", input=75_000, output=0, cached_input=10_000, cache_write=100_000
    )
    assert runtime.routes["offline"].prices is None
    assert runtime.warnings == ()


@pytest.mark.parametrize(
    ("keys", "driver"),
    [
        ("", "responses"),
        ("base_url = 'https://api.openai.com/v1'", "responses"),
        ("driver = 'openai'", "openai"),
        ("driver = 'openai'\nbase_url = 'https://api.openai.com/v1'", "openai"),
        ("preset = 'openai'", "responses"),
        ("preset = 'ollama'", "openai"),
        ("preset = 'ollama'\ndriver = 'responses'", "responses"),
    ],
)
def test_the_driver_of_a_route(source: Source, keys: str, driver: str) -> None:
    """A route to OpenAI that names no driver uses the Responses API."""
    source.home.config.write_text(f"[routes.r]\nmodel = 'm'\n{keys}\n")
    assert build(source).routes["r"].driver == driver


def test_cost_limit_without_prices(source: Source) -> None:
    """A cost limit that has no effect on a route is a warning."""
    source.home.config.write_text("[runs]\nmax_cost = 0.5\n[routes.free]\ndriver = 'openai'\nmodel = 'm'\n")
    assert build(source).warnings == ("runs.max_cost has no effect on routes without prices: free",)


def test_another_configuration_file(tmp_path: Path) -> None:
    """A file named by --config replaces the home's own; a missing one is an error."""
    (tmp_path / "config.toml").write_text("[zebra]")
    (tmp_path / "other.toml").write_text("[runs]\nmax_active = 3\n")
    assert build(Source(Home(tmp_path), tmp_path / "other.toml", {})).config.runs.max_active == 3
    with pytest.raises(ConfigInvalid, match="No such file"):
        build(Source(Home(tmp_path), tmp_path / "gone.toml", {}))


def test_bad_agent(source: Source) -> None:
    """A bad agent file is a warning at the start, and refused at a reload."""
    (source.home.agents / "bad.md").write_text("---\ndescription: d\nroute: gone\n---\n")
    (source.home.agents / "two words.md").write_text("x")
    runtime = build(source)
    assert list(runtime.definitions) == ["default"]
    assert len(runtime.warnings) == 2
    assert "skipped the agent in bad.md:3: route: no route 'gone'" in runtime.warnings[0]
    with pytest.raises(ConfigInvalid, match=r"bad\.md:3: route"):
        build(source, skip=False)


@pytest.mark.parametrize("root", [".", "..", "/", "state", "agents/x", "run/../skills", "cron", "link", "up"])
def test_forbidden_workspace_root(source: Source, root: str) -> None:
    """The root may not be the home, contain it, or be one of the daemon's own, also through a link."""
    (source.home.path / "link").symlink_to("state")
    (source.home.path / "up").symlink_to("..")
    source.home.config.write_text(f"[workspace]\nroot = '{root}'\n")
    with pytest.raises(ConfigInvalid, match=r"workspace\.root: .* daemon's own") as caught:
        build(source)
    assert caught.value.field == "workspace.root"


def test_workspaces_are_resolved(tmp_path: Path) -> None:
    """Links in the root, the home and agents' workspaces are resolved, because tools follow no links."""
    (tmp_path / "disk" / "work").mkdir(parents=True)
    (tmp_path / "real" / "agents").mkdir(parents=True)
    (tmp_path / "home").symlink_to("real")
    (tmp_path / "real" / "workspace").symlink_to(tmp_path / "disk")
    for name, path in (("a", "work"), ("b", "/srv/./b"), ("c", "'~/x'")):
        (tmp_path / "real" / "agents" / f"{name}.md").write_text(f"---\nworkspace: {path}\n---\n")
    runtime = build(Source(Home(tmp_path / "home"), environ={}))
    disk = str(tmp_path / "disk")
    assert runtime.workspaces == Workspaces(disk, str(tmp_path / "real"))
    assert {name: agent.workspace for name, agent in runtime.definitions.items()} == {
        "default": None,
        "a": str(tmp_path / "disk" / "work"),
        "b": "/srv/b",
        "c": os.path.realpath(Path.home() / "x"),
    }


def test_agent_outside_of_the_configured_root(source: Source) -> None:
    """A configured root limits agents' workspaces."""
    source.home.config.write_text("[workspace]\nroot = '/srv/team'\n")
    (source.home.agents / "a.md").write_text("---\nworkspace: /srv/other\n---\n")
    (source.home.agents / "b.md").write_text("---\nworkspace: inside\n---\n")
    runtime = build(source)
    assert "a.md:2: workspace: /srv/other is not within /srv/team" in runtime.warnings[0]
    assert runtime.definitions["b"].workspace == "/srv/team/inside"


def test_trusted_roots(source: Source, tmp_path: Path) -> None:
    """Links are resolved; without a list, nothing is trusted."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "link").symlink_to("shop")
    shop = str((tmp_path / "shop").resolve())

    def trusted(text: str) -> tuple[str, ...]:
        source.home.config.write_text(text)
        return build(source).workspaces.trusted

    assert trusted("") == ()
    assert trusted("[workspace]\ntrusted = []") == ()
    assert trusted(f'[workspace]\ntrusted = ["{tmp_path}/link", "{shop}"]') == (shop,)
    assert trusted(f'[workspace]\nroot = "{shop}"') == ()
    (tmp_path / "shop").chmod(0o777)
    with pytest.raises(ConfigInvalid, match="every user of this machine may write in"):
        trusted(f'[workspace]\ntrusted = ["{shop}"]')
    (tmp_path / "shop").chmod(0o755)
    with pytest.raises(ConfigInvalid) as caught:
        trusted(f'[workspace]\ntrusted = ["{shop}", "/"]')
    assert "workspace.trusted[1]: / contains the home directory" in caught.value.message


def test_rows_that_wake_unknown_agents(source: Source) -> None:
    """A cron entry or a subscription is kept, with a warning that names it, the file and the agent."""
    source.home.crons.parent.mkdir()
    source.home.crons.write_text('[[cron]]\nid = "c"\nschedule = "0 5 * * *"\nagent = "ghost"\nprompt = "x"')
    source.home.subscriptions.parent.mkdir()
    row = '[[subscription]]\nid = "{}"\nsource = "ci.*"\nagent = "{}"\nprompt = "x"\n'
    rows = (row.format(*facts) for facts in (("s", "ghost"), ("t", "default")))
    source.home.subscriptions.write_text("".join(rows))
    runtime = add_stored_agents(build(source), ())
    assert runtime.warnings == (
        "the cron entry 'c' in cron/crons.toml wakes the agent 'ghost', which does not exist; "
        "define the agent, or correct the row",
        "the subscription 's' in events/subscriptions.toml wakes the agent 'ghost', which does not exist; "
        "define the agent, or correct the row",
    )
    assert runtime.crons is not None
    assert "c" in runtime.crons.rows
