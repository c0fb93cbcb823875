"""The sections of ``config.toml``: defaults, descriptions and the helpers beside them."""

import ast
import inspect
import sys
from itertools import pairwise

import msgspec
import pytest

from kheishd.config.reader import parse
from kheishd.config.sections.config import Config
from kheishd.config.sections.listen import ListenSection, SharedGrant, split_address
from kheishd.config.sections.routes import RouteSection
from kheishd.config.sections.runs import RunsSection
from kheishd.config.sections.section import Section
from kheishd.config.sections.tools import ToolsSection
from protocol.budget import Budget
from protocol.errors.daemon import ConfigInvalid


def sections(section: type[Section] = Section) -> list[type[Section]]:
    """Return all section structs."""
    return [found for child in section.__subclasses__() for found in (child, *sections(child))]


def described(section: type[Section]) -> set[str]:
    """Return the keys that a string below the field describes."""
    tree = ast.parse(inspect.getsource(sys.modules[section.__module__]))
    structs = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return {
        field.target.id
        for field, text in pairwise(structs[section.__name__].body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


@pytest.mark.parametrize("section", sections())
def test_every_key_is_described(section: type[Section]) -> None:
    """Each key has a description, except for keys that are sections themselves."""
    keys = set(section.__struct_fields__)
    keys -= {"limits"} if section is ToolsSection else set()
    if section in (Config, ListenSection):
        keys &= {"default_agent", "default_route"}
    assert keys == described(section)


@pytest.mark.parametrize("section", sorted(set(sections()) - {RouteSection, SharedGrant}, key=repr))
def test_defaults_are_allowed_values(section: type[Section]) -> None:
    """The defaults of a section satisfy the section's own limits."""
    assert msgspec.convert(msgspec.to_builtins(section()), section) == section()


def test_optional_features_are_off_by_default() -> None:
    """Without configuration, nothing is captured or named, and only the private socket is open."""
    config = Config()
    assert (config.debug.capture, config.titles.auto) == ("off", False)
    assert (config.listen.tcp, config.listen.shared) == (None, None)


def test_budget_of_runs() -> None:
    """The limits on a run's use make a budget; 0 is no limit."""
    assert RunsSection().budget == Budget()
    text = "[runs]\nmax_tokens = 5\nmax_work_s = 60\nmax_cost = 0.5"
    assert parse(text).runs.budget == Budget(max_tokens=5, max_work_s=60.0, max_cost=0.5)


def test_split_address() -> None:
    """Addresses of both families are split into host and port."""
    assert split_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert split_address("[::1]:443") == ("::1", 443)


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "example.com:9464", "9464"])
def test_metrics_stay_on_this_machine(address: str) -> None:
    """Metrics have no token, so only an address of this machine is accepted."""
    with pytest.raises(ConfigInvalid, match=r"metrics\.listen"):
        parse(f"[metrics]\nlisten = '{address}'")
    for local in ("127.0.0.1:9464", "localhost:0", "[::1]:9464"):
        assert parse(f"[metrics]\nlisten = '{local}'").metrics.listen == local


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a server has exactly one of 'command' and 'url'"),
        ("command = 'a'\nurl = 'http://a/'", "a server has exactly one of 'command' and 'url'"),
        ("command = []", "mcp.s.command: names no program"),
        ("command = 'npx -y x'", 'a program and its arguments are a list: ["npx", "-y", "x"]'),
        ("command = 'a'\nauth_ref = 'env:A'", "mcp.s.auth_ref: a server with a command has none"),
        ("url = 'http://a/'\nargs = ['x']", "mcp.s.args: a server with a URL has none"),
        ("url = 'ftp://a/'", "mcp.s.url: expected http://"),
        ("url = 'http://a/'\nauth_ref = 'env:A'", "mcp.s.url: the credential would be sent in"),
        ("url = 'http://a/'\noauth = true", "mcp.s.url: the credential would be sent in plain text"),
        ("url = 'https://a/'\noauth_client_id = 'x'", "mcp.s.oauth_client_id: is the client of a login"),
        (
            "url = 'https://a/'\noauth = true\noauth_client_secret_ref = 'env:X'",
            "mcp.s.oauth_client_secret_ref: is a secret of 'oauth_client_id'",
        ),
        (
            "url = 'https://a/'\noauth = true\noauth_client_id = 'x'\noauth_client_secret_ref = 'abc'",
            "not the credential itself",
        ),
        ("url = 'http://u:p@a/'", "mcp.s.url: a URL must not contain a credential"),
        ("url = 'http://a/?token=x'", "mcp.s.url: a URL must not contain a credential"),
        ("url = 'http://a/'\nauth_ref = 'secret'", "not the credential itself"),
        ("url = 'http://a/'\nheaders = { Authorization = 'Bearer abcdefghij' }", "looks like a credential"),
        ("url = 'http://a/'\nheaders = { 'a b' = 'x' }", "is no header"),
        ("command = 'a'\nenv = { API_KEY = 'x' }", "put it into env_refs"),
        ("command = ['a', '--api-key=abcdefghij']", "'--api-key' looks like a credential"),
        ("command = 'a'\nenv = { 'A=B' = 'x' }", "'A=B' is no name of a variable"),
        ("command = 'a'\nenv_refs = { A = 'x' }", "not the credential itself"),
        ('command = "a\\u0000"', "NUL character"),
        ("command = 'a'\ntransport = 'stdio'", "either 'command' or 'url'"),
        ("command = 'a'\nbearer_token = 'x'", "set 'auth_ref'"),
    ],
)
def test_problems_of_mcp_servers(text: str, problem: str) -> None:
    """A server that cannot be meant is refused, and the message names the key but no credential."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(f"[mcp.s]\n{text}\n")
    assert problem in caught.value.message
    assert "abcdefghij" not in caught.value.message


def test_an_mcp_server_is_valid() -> None:
    """A server of each kind is accepted; names that would be ambiguous are not."""
    config = parse("[mcp.a]\ncommand = ['a', 'b']\n[mcp.b]\nurl = 'https://b/mcp'\nauth_ref = 'env:B'\n")
    assert config.mcp["a"].settings.argv == ["a", "b"]
    with pytest.raises(ConfigInvalid):
        parse("[mcp.a__b]\ncommand = 'a'\n")
