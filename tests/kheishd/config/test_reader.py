"""``config.toml``: its values, and refusals that name the key and the line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.config.reader import MAX_CONFIG_BYTES, load, parse
from kheishd.config.sections.config import Config
from kheishd.config.sections.routes import RouteSection
from protocol.errors.daemon import ConfigInvalid
from protocol.objects.permission import Rule

EXAMPLE = """\
default_agent = "default"
default_route = "local"

[listen.tcp]
address = "127.0.0.1:7707"

[routes.local]
driver = "openai"
base_url = "http://127.0.0.1:8080/v1"
model = "qwen3"
auth_ref = "env:OPENAI_API_KEY"
options = { max_tokens = 1024 }

[permissions]
mode = "plan"
max_mode = "acceptEdits"
rules = [
    { tool = "bash", subject = "git push*", decision = "ask", note = "others see it" },
    { tool = "web*", decision = "deny" },
]

[workspace]
root = "~/work"

[runs]
max_active = 8
recovery = "interrupt"

[debug]
capture = "redacted"
max_age_s = 3600

[[listen.shared.grants]]
uid = 1000
scopes = ["read", "converse"]
"""


def refuse(text: str) -> str:
    """Return the message with which a text is refuse."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(text)
    return caught.value.message


def test_empty_file() -> None:
    """An empty file is a whole configuration: the built-in agent on the built-in route, no TCP."""
    config = parse("")
    assert config == Config()
    assert (config.default_agent, config.default_route, config.listen.tcp) == ("default", "offline", None)


def test_values() -> None:
    """Values of all sections arrive in the structs."""
    config = parse(EXAMPLE)
    assert config.default_route == "local"
    assert config.routes["local"] == RouteSection(
        driver="openai",
        model="qwen3",
        base_url="http://127.0.0.1:8080/v1",
        auth_ref="env:OPENAI_API_KEY",
        options={"max_tokens": 1024},
    )
    assert config.listen.tcp is not None
    assert config.listen.shared is not None
    assert config.listen.shared.grants[0].scopes == ["read", "converse"]
    assert (config.permissions.mode, config.workspace.root) == ("plan", "~/work")
    assert config.permissions.max_mode == "acceptEdits"
    assert config.permissions.rules == [
        Rule(tool="bash", subject="git push*", decision="ask", note="others see it"),
        Rule(tool="web*", decision="deny"),
    ]
    assert (config.runs.max_active, config.runs.recovery) == (8, "interrupt")
    assert (config.debug.capture, config.debug.max_age_s, config.debug.max_bytes) == ("redacted", 3600, 2**30)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\ndefualt_agent = 'x'", ["config.toml:2", "defualt_agent", "did you mean 'default_agent'"]),
        (
            "[routes.local]\ndriver = 'offline'\nmodle = 'x'\nmodel = 'x'",
            ["config.toml:3", "routes.local.modle", "did you mean 'model'"],
        ),
        # The same words in another order are nearer than a key with similar letters.
        ("[permissions]\nmode = 'plan'\nmode_max = 'plan'", ["config.toml:3", "did you mean 'max_mode'"]),
        ("[runs]\nbackoff_max_s = 4.0", ["config.toml:2", "did you mean 'max_backoff_s'"]),
        ("[listen.tpc]", ["config.toml:1", "listen.tpc", "did you mean 'tcp'"]),
        ("[zebra]", ["config.toml:1", "zebra", "known keys: default_agent"]),
        ("listen.shared.grants = [\n {scopes = [], uuid = 1}]", ["config.toml:2", "grants[0].uuid", "'uid'"]),
    ],
)
def test_unknown_key(text: str, words: list[str]) -> None:
    """An unknown key is reported with its line and the nearest known key."""
    message = refuse(text)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[runs]\nmax_active = '8'",
            ["config.toml:2", "runs.max_active", "expected a whole number, got a string"],
        ),
        ("[runs]\n\nmax_active = 0", ["config.toml:3", "runs.max_active", ">= 1"]),
        ("[routes.local]\ndriver = 'opnai'\nmodel = 'm'", ["config.toml:2", "routes.local.driver", "opnai"]),
        ("[routes.local]\ndriver = 'openai'", ["config.toml:1", "routes.local", "'model' is missing"]),
        ("routes = 3", ["config.toml:1", "routes", "expected"]),
        ("[routes]\nlocal = 3", ["config.toml:2", "routes.local", "expected a table, got a number"]),
        (
            "routes.'a b' = {driver='offline', model='m'}",
            ["config.toml:1", "routes.a b", "characters of A"],
        ),
        ("[debug]\ncapture = 'on'", ["config.toml:2", "debug.capture", "one of off, redacted, full", "on"]),
        ("[debug]\nmax_bytes = 1", ["config.toml:2", "debug.max_bytes", ">= 33554432"]),
        ("[permissions]\nmode = 'yolo'", ["config.toml:2", "permissions.mode", "one of default, ", "yolo"]),
        (
            "[[permissions.rules]]\ntool = 'a'\ndecision = 'ask'\n[[permissions.rules]]\ntool = 'a*b'",
            ["config.toml:5", "permissions.rules[1].tool", "config.toml:4", "'decision' is missing"],
        ),
        (
            "[permissions]\nrules = [" + "{tool='a',decision='ask'}," * 65 + "]",
            ["config.toml:2", "permissions.rules", "<= 64"],
        ),
        ("[[listen.shared.grants]]\nuid=1\nscopes=['red']", ["config.toml:3", "grants[0].scopes", "red"]),
        ("[tools]\nmax_parallel = 17", ["config.toml:2", "tools.max_parallel", "<= 16"]),
        ("[tools]\nmax_timeout_s = 0", ["config.toml:2", "tools.max_timeout_s", "> 0"]),
        ("[runs]\nmax_cost = nan", ["config.toml:2", "runs.max_cost"]),
        ("[routes.r]\ncurrency = 'euro'", ["config.toml:2", "routes.r.currency", "matching regex"]),
        ("a = \n", ["config.toml:1", "not TOML: invalid value"]),
        ("[a\n", ["config.toml:1", "not TOML: expected ']'"]),
        ("a = " + "[" * 5000, ["config.toml", "nested too deeply"]),
        ("a = 1" + "0" * 5000, ["config.toml", "more than 64 bits"]),
        ("[runs]\nmax_turns = 9223372036854775808", ["config.toml:2", "runs.max_turns", "64 bits"]),
        ('[workspace]\nroot = "a\\u0000b"', ["config.toml:2", "workspace.root", "matching regex"]),
        ('[workspace]\nreadable = ["/\\u0000"]', ["config.toml:2", "workspace.readable", "matching regex"]),
        ('[listen.shared]\npath = "\\u0000"', ["config.toml:2", "listen.shared.path", "matching regex"]),
        ('[listen.tcp]\nkey = "\\u0000"', ["config.toml:2", "listen.tcp.key", "matching regex"]),
    ],
)
def test_wrong_value(text: str, words: list[str]) -> None:
    """A value of a wrong type or outside its range is reported with key, line and expectation."""
    message = refuse(text)
    assert all(word in message for word in words), message


def test_all_problems_are_reported() -> None:
    """All problems of a file are reported together, in the order of their lines."""
    message = refuse("defualt_route = 1\n[runs]\nmax_active = 'x'\n[workspace]\nroot = 3\n")
    assert message.startswith("config.toml:1: ")
    assert message.index("defualt_route") < message.index("runs.max_active") < message.index("workspace.root")


ROUTE = "[routes.r]\ndriver = 'openai'\nmodel = 'm'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "default_route = 'locl'\n" + ROUTE,
            ["config.toml:1", "default_route", "no route 'locl'", "r, offline"],
        ),
        (ROUTE + "base_url = 'ftp://h/'", ["config.toml:4", "routes.r.base_url", "http"]),
        (ROUTE + "base_url = 'http://h:99999/'", ["config.toml:4", "routes.r.base_url"]),
        (ROUTE + "base_url = 'https://me:pw@h/v1'", ["config.toml:4", "not contain a credential"]),
        (ROUTE + "options.seed = 99999999999999999999", ["config.toml:4", "more than 64 bits"]),
        (ROUTE + "options.temperature = nan", ["config.toml:4", "JSON has no such number"]),
        (ROUTE + "options.stop = [1, { at = -inf }]", ["config.toml:4", "JSON has no such number"]),
        (ROUTE + "options.day = 1979-05-27T07:32:00Z", ["config.toml:4", "JSON has no dates"]),
        (ROUTE + "options.day = [1979-05-27, 07:32:00]", ["config.toml:4", "JSON has no dates"]),
        (ROUTE + "options.headers.Cookie = 'session=1'", ["config.toml:4", "not contain a credential"]),
        (ROUTE + "options.tools = true", ["config.toml:4", "expected a list of tables"]),
        (ROUTE + "options.tools = [{}, 5]", ["config.toml:4", "expected a list of tables"]),
        (ROUTE + "options.accessToken = 'abc'", ["config.toml:4", "not contain a credential"]),
        (
            ROUTE + "options.headers.X-Who = 'Bearer abcdefgh'",
            ["config.toml:4", "not contain a credential"],
        ),
        (ROUTE + "options.tools = [{ api_key = 'abc' }]", ["config.toml:4", "not contain a credential"]),
        (ROUTE + "fallback = ['r']", ["config.toml:4", "routes.r.fallback[0]: names the route itself"]),
        (ROUTE + "fallback = ['x']", ["config.toml:4", "fallback[0]: no route 'x'; other routes: offline"]),
        (ROUTE + "fallback = ['offline']", ["config.toml:4", "'offline' is a stand-in"]),
        (
            f"{ROUTE}fallback = ['s', 's']\n{ROUTE.replace('.r]', '.s]')}",
            ["config.toml:4", "fallback[1]: names 's' twice"],
        ),
        (
            f"{ROUTE}price_input = 1\nprice_output = 1\nfallback = ['s']\n{ROUTE.replace('.r]', '.s]')}"
            "price_input = 1\nprice_output = 1\ncurrency = 'EUR'",
            ["config.toml:6", "fallback[0]: 's' has prices in EUR; a chain has one currency"],
        ),
        (ROUTE + "auth_refs = ['env:A', 'sk-1234']", ["config.toml:4", "auth_refs[1]", "not the key itself"]),
        (ROUTE + "auth_refs = ['env:A', 'env:A']", ["config.toml:4", "names a credential twice"]),
        (
            ROUTE + "auth_refs = ['env:A']\nauth_ref = 'env:B'",
            ["config.toml:4", "set either auth_ref or auth_refs"],
        ),
        (ROUTE + "price_input = 3", ["config.toml:1", "price_input and price_output go together"]),
        (ROUTE + "price_cached_input = 1", ["config.toml:4", "price_cached_input", "requires price_input"]),
        (ROUTE + "base_url = 'https://h/v1?key=abc'", ["config.toml:4", "not contain a credential"]),
        (ROUTE + "base_url = 'https://h/v1?a=b'", ["config.toml:4", "routes.r.base_url", "remove the rest"]),
        (ROUTE + "base_url = 'https://h/v1#a'", ["config.toml:4", "must end with its path"]),
        (ROUTE + "base_url = ' https://h/v1'", ["config.toml:4", "routes.r.base_url", "blanks; remove"]),
        (
            ROUTE + "base_url = 'https://h/v1beta/models/m:streamGenerateContent'",
            ["config.toml:4", "routes.r.base_url", "ends with /models/m:streamGenerateContent"],
        ),
        (
            ROUTE + "base_url = 'https://h/v1/chat/completions/'",
            ["config.toml:4", "routes.r.base_url", "ends with /chat/completions", "remove it"],
        ),
        (ROUTE + "base_url = 'http+unix://model.sock/v1'", ["config.toml:4", "http+unix://%2F"]),
        (
            "[routes.r]\nmodel = 'm'\nbase_url = 'http://h/v1'",
            ["config.toml:1", "routes.r", "the key 'driver' is missing", 'need driver = "openai"'],
        ),
        (
            "[routes.r]\ndriver = 'anthropic'\nmodel = 'm'\npreset = 'openai'",
            [
                "config.toml:4",
                "routes.r.preset",
                'presets are for driver = "openai" and driver = "responses"',
            ],
        ),
        (ROUTE + "preset = 'nobody'", ["config.toml:4", "routes.r.preset"]),
        (ROUTE + "preset = 'azure'", ["routes.r.base_url", 'preset = "azure" requires it']),
        (ROUTE + "auth_header = 'a: b'", ["config.toml:4", "routes.r.auth_header", "only the name"]),
        (ROUTE + "ca_file = '/nowhere/ca.pem'", ["config.toml:4", "routes.r.ca_file", "not a readable file"]),
        (ROUTE + "auth_ref = 'OPENAI_API_KEY'", ["config.toml:4", "routes.r.auth_ref", "env:NAME"]),
        (ROUTE + f"ca_file = '{__file__}'", ["config.toml:4", "routes.r.ca_file", "no certificate in PEM"]),
        (
            ROUTE + "options = {headers = {Authorization = 'x'}}",
            ["config.toml:4", "Authorization", "auth_ref"],
        ),
        ("[routes.offline]\ndriver='offline'\nmodel='m'", ["config.toml:1", "built in"]),
        (
            "[permissions]\nmode = 'acceptEdits'\nmax_mode = 'default'",
            ["config.toml:2", "permissions.mode", "wider than max_mode"],
        ),
        (
            "[[permissions.rules]]\ntool = 'b'\ndecision = 'ask'\naudience = {people = ['ada'], votes = 2}",
            ["config.toml:4", "permissions.rules[0].audience", "at least as many"],
        ),
        ("[listen.tcp]\naddress = '0.0.0.0:7707'", ["config.toml:2", "insecure = true"]),
        ("[listen.tcp]\naddress = 'example.org:7707'", ["config.toml:2", "insecure = true"]),
        ("[listen.tcp]\naddress = '127.0.0.1'", ["config.toml:2", "host:port"]),
        ("[listen.tcp]\naddress = '::1:80'", ["config.toml:2", "brackets"]),
        ("[listen.tcp]\ncertificate = 'c.pem'", ["config.toml:1", "go together"]),
        ("[listen.shared]\nmode = '0777'", ["config.toml:2", "execute"]),
        ("[[listen.shared.grants]]\nscopes = ['read']", ["config.toml:1", "either uid or gid"]),
    ],
)
def test_invalid_combination(text: str, words: list[str]) -> None:
    """Valid types in invalid or dangerous combinations are reported as well."""
    message = refuse(text)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("api_key", 'set \'auth_ref\' to "slot:NAME" or "env:NAME"'),
        ("max_tokens", "write it into 'options'"),
        ("url", "did you mean 'base_url'?"),
        ("provider", "did you mean 'driver' or 'preset'?"),
        ("drvier", "did you mean 'driver'?"),
    ],
)
def test_an_expected_key_has_a_remedy(key: str, remedy: str) -> None:
    """A key that other programs have is refused with the key that kheish has."""
    assert refuse(
        ROUTE + f"{key} = 'sk-secret'"
    ) == f"config.toml:4: routes.r.{key}: unknown key; {remedy}" + (
        ", which holds it" if key == "api_key" else ""
    )


def test_a_pasted_key_is_not_repeated() -> None:
    """The message does not repeat a key that was pasted in the place of its reference."""
    assert "sk-very-secret" not in refuse(ROUTE + "auth_ref = 'sk-very-secret'")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:7707", "localhost:0"])
def test_loopback_needs_no_tls(address: str) -> None:
    """Loopback addresses need no TLS, as tokens stay within the machine."""
    assert parse(f"[listen.tcp]\naddress = '{address}'").listen.tcp is not None


def test_other_addresses_need_tls_or_insecure() -> None:
    """A certificate, or insecure = true, allows addresses that other machines can reach."""
    for keys in ("certificate = 'c'\nkey = 'k'", "insecure = true"):
        assert parse(f"[listen.tcp]\naddress = '0.0.0.0:1'\n{keys}").listen.tcp is not None


def test_unreadable_files(tmp_path: Path) -> None:
    """Missing files, files that are not UTF-8 and very large files are refused."""
    with pytest.raises(ConfigInvalid, match="No such file"):
        load(tmp_path / "config.toml")
    (tmp_path / "config.toml").write_bytes(b"\n\ndefault_agent = '\xff'")
    with pytest.raises(ConfigInvalid, match=r"config\.toml:3: not UTF-8"):
        load(tmp_path / "config.toml")
    (tmp_path / "config.toml").write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigInvalid, match="is larger than"):
        load(tmp_path / "config.toml")
    (tmp_path / "config.toml").write_text(EXAMPLE)
    assert load(tmp_path / "config.toml") == parse(EXAMPLE)


@given(st.text(max_size=200) | st.text("[]{}=.\"'#\n ab1,", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Any text is either a configuration or refused with a message."""
    try:
        outcome = repr(parse(text))
    except ConfigInvalid as refusal:
        outcome = refusal.message
    assert outcome.startswith(("Config(", "config.toml"))
