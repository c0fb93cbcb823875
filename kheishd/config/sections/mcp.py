"""``[mcp.<name>]``: MCP servers, whose tools agents may use."""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from kheishd.config.credentials import is_credential
from kheishd.config.sections.routes import AUTH_REF_PATTERN
from kheishd.config.sections.section import FilePath, Section
from kheishd.config.toml import KeyPath
from kheishd.config.validation import Problem
from protocol.objects.mcp import McpServerSettings, ServerMap, ServerText, ServerTexts, ServerTimeout
from protocol.structs import fields_of

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class McpSection(Section, frozen=True, kw_only=True):
    """``[mcp.<name>]``: a server that the daemon starts (`command`), or one that runs already (`url`)."""

    KEY_HINTS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("token", "api_key", "bearer_token"),
            'set \'auth_ref\' to "slot:NAME" or "env:NAME", which holds it',
        ),
        "env_secret_refs": "did you mean 'env_refs'?",
        "startup_timeout_sec": "did you mean 'start_timeout_s'?",
        "tool_timeout_sec": "did you mean 'tool_timeout_s'?",
        "type": "a server has either 'command' or 'url', and no type",
        "transport": "a server has either 'command' or 'url', and no transport",
    }

    enabled: bool = True
    """Whether the server is used at all."""

    required: bool = False
    """Whether runs that may use the server fail while it is not connected."""

    command: ServerText | ServerTexts | None = None
    """Program to start, or a list of it and its arguments. It speaks MCP on its standard streams."""

    args: ServerTexts = []
    """Arguments of the program."""

    env: ServerMap = {}
    """Variables of the program. It gets `PATH`, `HOME`, `LANG` and the like, and no others of the daemon."""

    env_refs: ServerMap = {}
    """Variables whose values are credentials: `NAME = "slot:NAME"`, `"env:OTHER"` or `"credential:NAME"`."""

    inherit_env: ServerTexts = []
    """Names of further variables of the daemon that the program gets."""

    cwd: FilePath | None = None
    """Directory of the program (default: the workspace root)."""

    url: ServerText | None = None
    """URL of a server that speaks streamable HTTP."""

    headers: ServerMap = {}
    """Headers of each request; none of them a credential."""

    auth_ref: ServerText | None = None
    """Where the bearer token for `url` is: `"slot:NAME"`, `"env:NAME"` or `"credential:NAME"`."""

    oauth: bool = False
    """Whether a person logs in at the server of `url` (`mcp.login`). Its tokens are kept in a slot."""

    oauth_hosts: ServerTexts = []
    """Hosts of its authorization server that may have private addresses."""

    oauth_client_id: ServerText | None = None
    """Client at an authorization server where none can register; its redirect is `http://127.0.0.1`."""

    oauth_client_secret_ref: ServerText | None = None
    """Where that client's secret is, if it has one: `"slot:NAME"`, `"env:NAME"` or `"credential:NAME"`."""

    enabled_tools: ServerTexts | None = None
    """The only tools of the server that are offered, by the server's names (default: all)."""

    disabled_tools: ServerTexts = []
    """Tools of the server that are not offered."""

    start_timeout_s: ServerTimeout = 30.0
    """Time limit for connecting and listing the tools."""

    tool_timeout_s: ServerTimeout = 120.0
    """Time limit of a call; `tools.max_timeout_s` applies, too."""

    @property
    def settings(self) -> McpServerSettings:
        """The section as settings of a server."""
        return McpServerSettings(**fields_of(McpServerSettings, self))

    def find_problems(self, path: KeyPath) -> Iterator[Problem]:
        """Yield the problems that the types cannot express."""
        yield from find_server_problems(self.settings, path)


def find_server_problems(server: McpServerSettings, path: KeyPath = ()) -> Iterator[Problem]:
    """Yield the problems of a server's settings that the types cannot express."""
    argv = server.argv
    if (server.command is None) == (server.url is None):
        yield Problem(path, "a server has exactly one of 'command' and 'url'")
        return
    if server.url is None:
        if not argv or not argv[0]:
            yield Problem((*path, "command"), "names no program")
        elif isinstance(server.command, str) and len(server.command.split()) > 1:
            words = ", ".join(f'"{word}"' for word in server.command.split())
            message = (
                f'a program and its arguments are a list: [{words}]; so is a program with a space: ["…"]'
            )
            yield Problem((*path, "command"), message)
        alien: tuple[str, ...] = ("headers", "auth_ref", "oauth", "oauth_hosts", "oauth_client_id")
    else:
        has_token = server.oauth or server.auth_ref is not None
        yield from _find_address_problems(server.url, (*path, "url"), has_token=has_token)
        alien = ("args", "env", "env_refs", "inherit_env", "cwd")
    for name in alien:
        if getattr(server, name):
            kind = "a command" if server.url is None else "a URL"
            yield Problem((*path, name), f"a server with {kind} has none; remove it")
    if server.oauth_client_id is not None and not server.oauth:
        yield Problem((*path, "oauth_client_id"), "is the client of a login; set oauth = true, or remove it")
    if server.oauth_client_secret_ref is not None and server.oauth_client_id is None:
        yield Problem((*path, "oauth_client_secret_ref"), "is a secret of 'oauth_client_id'; set that, too")
    if server.oauth and server.auth_ref is not None:
        yield Problem((*path, "oauth"), "a server has either a login or 'auth_ref'; remove one")
    if any("\0" in text for text in (*argv, *server.env.values(), *server.inherit_env, server.cwd or "")):
        yield Problem(path, "contains a NUL character, which no program can be passed")
    for field, names in (
        ("env", server.env),
        ("env_refs", server.env_refs),
        ("inherit_env", server.inherit_env),
    ):
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                yield Problem((*path, field), f"'{name}' is no name of a variable")
    for argument in argv[1:]:
        name, given, _ = argument.partition("=")
        if given and name.startswith("-") and is_credential(name.lstrip("-")):
            yield Problem((*path, "args"), f"'{name}' looks like a credential; put it into env_refs")
    for name, value in server.env.items():
        if is_credential(name, value):
            yield Problem((*path, "env", name), "looks like a credential; put it into env_refs, by reference")
    for name, value in server.headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not value.isprintable():
            yield Problem(
                (*path, "headers", name), "is no header: its name or its value has wrong characters"
            )
        elif is_credential(name, value):
            yield Problem((*path, "headers", name), "looks like a credential; set auth_ref")
    references = [
        (("auth_ref",), server.auth_ref),
        (("oauth_client_secret_ref",), server.oauth_client_secret_ref),
        *((("env_refs", n), r) for n, r in server.env_refs.items()),
    ]
    for field_path, reference in references:
        if reference is not None and not re.fullmatch(AUTH_REF_PATTERN, reference):
            # The message does not repeat the value: it may be a key pasted in the wrong place.
            message = 'expected "env:NAME", "credential:NAME" or "slot:NAME", not the credential itself'
            yield Problem((*path, *field_path), message)


def _find_address_problems(url: str, path: KeyPath, *, has_token: bool) -> Iterator[Problem]:
    from urllib.parse import parse_qsl, urlsplit

    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        yield Problem(path, "expected http://host[:port]/path or https://host[:port]/path")
        return
    if has_token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        yield Problem(path, "the credential would be sent in plain text; use https")
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if parts.username is not None or parts.password is not None or any(map(is_credential, names)):
        yield Problem(path, "a URL must not contain a credential; set auth_ref")
