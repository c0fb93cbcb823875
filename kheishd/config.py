"""``config.toml``: what it may say, and every reason to refuse it, each with its key and line.

The structs below are the whole of it: their fields are the keys, their defaults what is meant by an
absent key. Reading is strict; an unknown key is an error that names the nearest known one.
"""

import re
from collections.abc import Iterator
from datetime import date, time
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from kheishd.core.run.budget import MICROS
from kheishd.core.session import wider
from kheishd.core.text.redaction import is_credential
from kheishd.core.text.toml import KeyPath, find_key_lines, find_line
from kheishd.core.validation import Problem, find_problems, format_path
from kheishd.kernel.hook import Sandbox
from protocol.errors.daemon import ConfigInvalid
from protocol.ids import Id
from protocol.limits.budget import MAX_BUDGET_TOKENS, MAX_MICROS, MAX_WORK_SECONDS
from protocol.limits.call import (
    DEFAULT_RUN_OUTPUT_BYTES,
    MAX_CALLS,
    MAX_PARALLEL_CALLS,
    MAX_TOOL_INPUT_BYTES,
    MAX_TOOL_OUTPUT_BYTES,
)
from protocol.limits.debug import DEFAULT_DEBUG_BYTES, MAX_DEBUG_RUN_BYTES
from protocol.limits.model import DEFAULT_CONTEXT_TOKENS
from protocol.limits.names import MAX_PATH_BYTES
from protocol.limits.output import MAX_CONTINUATIONS
from protocol.limits.permission import MAX_RULES
from protocol.limits.units import KIB, MIB
from protocol.objects.conversation import Agent
from protocol.objects.permission import PermissionMode, Rule
from protocol.objects.route import Driver
from protocol.objects.run import DebugLevel
from protocol.rpc.method import Scope

BUILT_IN_ROUTE = "offline"
BUILT_IN_AGENT = "default"

# Ten seconds is longer than most answers take to finish and shorter than the 90 s after which systemd
# kills; what is not finished then is asked again by the next daemon.
DEFAULT_DRAIN_SECONDS = 10.0

# A thousand routes of a kilobyte each.
MAX_CONFIG_BYTES = 1 * MIB

AUTH_REF_PATTERN = r"(env|credential|slot):[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}"

Seconds = Annotated[float, Meta(ge=0, le=24 * 3600)]
Positive = Annotated[int, Meta(ge=1)]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]
Money = Annotated[float, Meta(ge=0, le=MAX_MICROS // MICROS)]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of everything that config.toml may hold."""


class Tcp(Section, frozen=True):
    """``[listen.tcp]``: the WebSocket listener. ``insecure`` allows other machines without TLS."""

    address: str = "127.0.0.1:7707"
    certificate: str | None = None
    key: str | None = None
    origins: list[str] = []
    hosts: list[str] = []
    insecure: bool = False


class Grant(Section, frozen=True):
    """``[[listen.shared.grants]]``: what a user or the members of a group may do, by number or name."""

    scopes: list[Scope]
    uid: int | str | None = None
    gid: int | str | None = None
    agents: list[str] | None = None
    senders: list[str] | None = None


class Shared(Section, frozen=True):
    """``[listen.shared]``: a second Unix socket for other users of this machine."""

    path: str = "run/shared.sock"
    mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] = "0660"
    group: str | None = None
    grants: list[Grant] = []


class Listen(Section, frozen=True):
    """``[listen]``: besides the private Unix socket, which is always there."""

    tcp: Tcp | None = None
    shared: Shared | None = None


class RouteTable(Section, frozen=True):
    """``[routes.<id>]``: one driver, one current model, one ``auth_ref``; prices of a million tokens."""

    driver: Driver
    model: Annotated[str, Meta(min_length=1, max_length=256)]
    base_url: str | None = None
    auth_ref: str | None = None
    options: dict[str, Any] = {}
    context_tokens: Annotated[int, Meta(ge=1_000, le=1_000_000_000)] = DEFAULT_CONTEXT_TOKENS
    price_input: Money | None = None
    price_cached_input: Money | None = None
    price_output: Money | None = None
    currency: Currency = "USD"


class Permissions(Section, frozen=True):
    """``[permissions]``: the broadest layer. ``mode`` is for whoever says nothing, ``max_mode`` for all."""

    mode: PermissionMode = "default"
    max_mode: PermissionMode = "bypassPermissions"
    rules: Annotated[list[Rule], Meta(max_length=MAX_RULES)] = []


class Workspace(Section, frozen=True):
    """``[workspace]``: where agents' file and shell tools are confined, and how shell commands are.

    ``readable`` are directories that sandboxed commands can read besides the system's.
    """

    root: str | None = None
    sandbox: Sandbox = "auto"
    readable: list[Annotated[str, Meta(pattern="^/", max_length=MAX_PATH_BYTES)]] = []


class Tools(Section, frozen=True):
    """``[tools]``: what tools are held to; the fields of ``kernel.runtime.ToolLimits``."""

    max_parallel: Annotated[int, Meta(ge=1, le=MAX_PARALLEL_CALLS)] = MAX_PARALLEL_CALLS
    max_calls: Annotated[int, Meta(ge=1, le=MAX_CALLS)] = MAX_CALLS
    max_timeout_s: Annotated[float, Meta(gt=0, le=24 * 3600)] = 180.0
    max_input_bytes: Annotated[int, Meta(ge=KIB, le=MAX_TOOL_INPUT_BYTES)] = MAX_TOOL_INPUT_BYTES
    max_output_bytes: Annotated[int, Meta(ge=KIB, le=MAX_TOOL_OUTPUT_BYTES)] = MAX_TOOL_OUTPUT_BYTES
    max_run_output_bytes: Annotated[int, Meta(ge=KIB, le=1024 * MIB)] = DEFAULT_RUN_OUTPUT_BYTES


class Runs(Section, frozen=True):
    """``[runs]``: ceilings, retries and timeouts; the fields of ``kernel.runtime.RunLimits``.

    ``max_tokens``, ``max_work_s`` and ``max_cost`` are the budget of a run that is given no smaller one.
    """

    max_active: Annotated[int, Meta(ge=1, le=10_000)] = 256
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 4
    backoff_s: Seconds = 1.0
    max_backoff_s: Seconds = 60.0
    max_retry_after_s: Seconds = 3600.0
    stream_timeout_s: Annotated[float, Meta(gt=0, le=24 * 3600)] = 600.0
    inactivity_timeout_s: Annotated[float, Meta(gt=0, le=24 * 3600)] = 120.0
    max_turns: Positive = 500
    max_continuations: Annotated[int, Meta(ge=0, le=MAX_CONTINUATIONS)] = MAX_CONTINUATIONS
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_BUDGET_TOKENS)] = 0
    max_work_s: Annotated[float, Meta(ge=0, le=MAX_WORK_SECONDS)] = 0.0
    max_cost: Money = 0.0
    approval_expires_s: Annotated[float, Meta(ge=0, le=366 * 24 * 3600)] = 0.0
    recovery: Literal["resume", "interrupt"] = "resume"


class Context(Section, frozen=True):
    """``[context]``: how much models are shown; the fields of ``core.compaction.ContextLimits``."""

    compact_tokens: Annotated[int, Meta(ge=1_000)] = 167_000
    margin_tokens: Annotated[int, Meta(ge=0)] = 13_000
    keep_messages: Annotated[int, Meta(ge=1, le=1_000)] = 6
    summary_tokens: Annotated[int, Meta(ge=256, le=32_768)] = 4_096
    max_failures: Positive = 3
    snip_tokens: Annotated[int, Meta(ge=1_000)] = 120_000
    snip_keep_messages: Annotated[int, Meta(ge=1, le=1_000)] = 10
    results_idle_s: Annotated[float, Meta(ge=0, le=366 * 24 * 3600)] = 900.0
    results_keep: Annotated[int, Meta(ge=0, le=1_000)] = 5


class Titles(Section, frozen=True):
    """``[titles]``: ``auto`` has conversations named by their models, which costs a small model call each."""

    auto: bool = False


class Log(Section, frozen=True):
    """``[log]``: what the command line does not say."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class Debug(Section, frozen=True):
    """``[debug]``: the fields of ``kernel.runtime.Debugging``."""

    capture: DebugLevel = "off"
    kept_s: Annotated[float, Meta(ge=0, le=366 * 24 * 3600)] = 7 * 24 * 3600.0
    max_bytes: Annotated[int, Meta(ge=MAX_DEBUG_RUN_BYTES)] = DEFAULT_DEBUG_BYTES


class DaemonTable(Section, frozen=True):
    """``[daemon]``: ``drain_s`` is how long runs in flight may take to finish at a stop."""

    drain_s: Annotated[float, Meta(ge=0, le=3600)] = DEFAULT_DRAIN_SECONDS


class Config(Section, frozen=True):
    """The whole of ``config.toml``."""

    default_agent: Agent = BUILT_IN_AGENT
    default_route: Id = BUILT_IN_ROUTE
    listen: Listen = Listen()
    routes: dict[Id, RouteTable] = {}
    permissions: Permissions = Permissions()
    workspace: Workspace = Workspace()
    runs: Runs = Runs()
    context: Context = Context()
    titles: Titles = Titles()
    tools: Tools = Tools()
    log: Log = Log()
    debug: Debug = Debug()
    daemon: DaemonTable = DaemonTable()


def parse(text: str, name: str = "config.toml") -> Config:
    """The configuration that a text means.

    Errors: ConfigInvalid, naming every problem as ``config.toml:12: routes.local.drvier: unknown key ...``.
    """
    import tomllib

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(_syntax_error(name, str(error))) from None
    found = list(find_problems(Config, table))
    if found:
        raise refusal(name, text, found)
    config = msgspec.convert(table, Config)
    found = list(_rule_problems(config))
    if found:
        raise refusal(name, text, found)
    return config


def load(path: Path) -> Config:
    """The configuration in a file. Errors: ConfigInvalid, also when it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror}; nothing was read") from None
    if len(content) > MAX_CONFIG_BYTES:
        raise ConfigInvalid(f"{path} is over {MAX_CONFIG_BYTES} bytes; a configuration is a few kilobytes")
    try:
        return parse(content.decode(), path.name)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigInvalid(f"{path.name}:{line}: not UTF-8; save the file in that encoding") from None


def refusal(name: str, text: str, found: list[Problem]) -> ConfigInvalid:
    """One refusal for all problems of one file, in the order of their lines."""
    lines = find_key_lines(text)
    placed = sorted(((find_line(lines, problem.path), problem) for problem in found), key=lambda p: p[0] or 0)
    message = "; ".join(f"{name}:{line}: {p}" if line else f"{name}: {p}" for line, p in placed)
    return ConfigInvalid(message, field=format_path(placed[0][1].path) or None)


def _syntax_error(name: str, message: str) -> str:
    """``tomllib`` says ``What (at line 3, column 5)``; people want ``config.toml:3: not TOML: what``."""
    what, _, where = message.partition(" (at ")
    place = re.match(r"line (\d+)", where)
    what = what[:1].lower() + what[1:]
    return f"{name}:{place[1]}: not TOML: {what}" if place else f"{name}: not TOML: {message}"


def _rule_problems(config: Config) -> Iterator[Problem]:
    """What the shapes cannot say."""
    if config.default_route != BUILT_IN_ROUTE and config.default_route not in config.routes:
        known = ", ".join([*config.routes, BUILT_IN_ROUTE])
        yield Problem(("default_route",), f"there is no route '{config.default_route}'; there are: {known}")
    allowed = config.permissions
    if wider(allowed.mode, allowed.max_mode):
        yield Problem(("permissions", "mode"), f"wider than max_mode, which is {allowed.max_mode}")
    if config.listen.tcp is not None:
        yield from _tcp_problems(config.listen.tcp)
    if config.listen.shared is not None:
        yield from _shared_problems(config.listen.shared)
    for route_id, route in config.routes.items():
        yield from _route_problems(route_id, route)


def _tcp_problems(tcp: Tcp) -> Iterator[Problem]:
    at = ("listen", "tcp")
    if (tcp.certificate is None) != (tcp.key is None):
        yield Problem(at, "certificate and key go together; give both or neither")
    try:
        host, _ = split_address(tcp.address)
    except ValueError as error:
        yield Problem((*at, "address"), str(error))
        return
    if not _is_loopback(host) and tcp.certificate is None and not tcp.insecure:
        yield Problem(
            (*at, "address"),
            f"{host} can be reached from other machines and tokens would travel unencrypted; "
            "give certificate and key, or say insecure = true",
        )


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` in its parts. Errors: ValueError, a sentence."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address is written in brackets: [::1]:7707")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected host:port, as in 127.0.0.1:7707")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _shared_problems(shared: Shared) -> Iterator[Problem]:
    at = ("listen", "shared")
    if int(shared.mode, 8) & 0o111:
        yield Problem((*at, "mode"), "a socket has no use for execute bits; 0660 or 0666 are usual")
    for number, grant in enumerate(shared.grants):
        if (grant.uid is None) == (grant.gid is None):
            yield Problem((*at, "grants", number), "a grant names either a uid or a gid")


def _route_problems(route_id: str, route: RouteTable) -> Iterator[Problem]:
    at: KeyPath = ("routes", route_id)
    if route_id == BUILT_IN_ROUTE:
        yield Problem(at, f"'{BUILT_IN_ROUTE}' is built in; choose another id")
    if route.base_url is not None:
        yield from _url_problems(route.base_url, (*at, "base_url"))
    if route.auth_ref is not None and not re.fullmatch(AUTH_REF_PATTERN, route.auth_ref):
        # The value is not repeated: it may be a key that was pasted in the wrong place.
        yield Problem(
            (*at, "auth_ref"), "expected env:NAME, credential:NAME or slot:NAME, never a key itself"
        )
    if (route.price_input is None) != (route.price_output is None):
        yield Problem(at, "price_input and price_output go together; give both or neither")
    if route.price_cached_input is not None and route.price_input is None:
        yield Problem((*at, "price_cached_input"), "it says nothing without price_input and price_output")
    yield from _option_problems(route.options, (*at, "options"))


def _url_problems(url: str, path: KeyPath) -> Iterator[Problem]:
    from urllib.parse import parse_qsl, urlsplit

    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        yield Problem(path, "expected http://host[:port]/path or https://...")
        return
    names = [name for name, _ in parse_qsl(parts.query)]
    if parts.username is not None or parts.password is not None or any(map(is_credential, names)):
        yield Problem(path, "a URL is no place for a credential; name one by auth_ref")


def _option_problems(options: Any, path: KeyPath) -> Iterator[Problem]:
    """Options are shown by ``daemon.config`` and pinned in runs, so no credential may stand in them.

    They go into requests and the journal as JSON, so what TOML can say and JSON cannot is refused.
    """
    if isinstance(options, int) and not -(2**63) <= options < 2**64:
        yield Problem(path, "a whole number of more than 64 bits, which no record can hold")
    if isinstance(options, float) and not isfinite(options):
        yield Problem(path, "JSON has no such number, so no provider takes it")
    if isinstance(options, date | time):
        yield Problem(path, "JSON has no dates and times; write it in quotes")
    if isinstance(options, list):
        for number, element in enumerate(options):
            yield from _option_problems(element, (*path, number))
    if isinstance(options, dict):
        for key, value in options.items():
            if isinstance(value, str) and is_credential(key, value):
                yield Problem((*path, key), "options are no place for a credential; name one by auth_ref")
            yield from _option_problems(value, (*path, key))
