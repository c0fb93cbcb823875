"""Putting together: the handlers of every object, and a runtime out of configuration and agent files."""

import grp
import os
import pwd
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from kheishd import config as written
from kheishd.config import BUILT_IN_AGENT, BUILT_IN_ROUTE, Config, RouteTable, load, split_address
from kheishd.core import definition
from kheishd.core.context.compaction import ContextLimits
from kheishd.core.definition import DefinitionError
from kheishd.core.run.budget import micros
from kheishd.core.workspace import Workspaces, root_problem
from kheishd.home import Home
from kheishd.kernel.call import Handler
from kheishd.kernel.hook import Hook
from kheishd.kernel.runtime import Debugging, ModelCaller, RouteSpec, RunLimits, Runtime, ToolLimits
from kheishd.objects.talk.workspace import resolve
from kheishd.server.listeners import RpcListen, SharedListen, TcpListen
from kheishd.server.peers import Grant
from protocol.budget import Prices
from protocol.errors.daemon import ConfigInvalid
from protocol.errors.session import WorkspaceForbidden
from protocol.limits.session import MAX_AGENT_FILE_BYTES
from protocol.objects.definition import Definition

# More agents than this are not a home but an accident, such as a checkout of something else.
MAX_AGENT_FILES = 1_000


def handlers() -> tuple[Handler, ...]:
    """Return the handlers of all objects."""
    from kheishd.objects.node import daemon, definition, journal, route, rpc, token
    from kheishd.objects.people import approval, audit, indoubt, permission, question
    from kheishd.objects.talk import conversation, debug, fork, output, run, session, transfer
    from kheishd.objects.work import task

    talk = (conversation, session, fork, run, output, debug, transfer)
    people = (approval, question, indoubt, permission, audit)
    node = (rpc, daemon, journal, definition, route, token)
    return tuple(handler for module in (*talk, *people, task, *node) for handler in module.HANDLERS)


class Source(Struct, frozen=True):
    """Where a runtime comes from: read anew at every reload."""

    home: Home
    config: Path | None = None
    environ: Mapping[str, str] = os.environ

    @property
    def config_path(self) -> Path | None:
        """The configuration file that is read, if there is one."""
        if self.config is not None:
            return self.config
        return self.home.config if self.home.config.exists() else None

    def read_config(self) -> Config:
        """The configuration in force, were it read now. Errors: ConfigInvalid."""
        path = self.config_path
        return Config() if path is None else load(path)


def build_runtime(
    source: Source,
    generation: int,
    models: Callable[[RunLimits], ModelCaller],
    hooks: Callable[[Config], Hook],
    *,
    config: Config | None = None,
    skip_bad_agents: bool,
) -> Runtime:
    """A runtime out of what the files say now.

    Errors: ConfigInvalid; for a bad agent file too, unless those are to be skipped with a warning.
    """
    config = source.read_config() if config is None else config
    routes = {BUILT_IN_ROUTE: offline_route()} | {
        route_id: _route(route_id, table) for route_id, table in config.routes.items()
    }
    workspaces = _workspaces(config, source.home)
    definitions, complaints = read_agents(source.home.agents, routes, workspaces)
    if complaints and not skip_bad_agents:
        raise ConfigInvalid("; ".join(complaints))
    warnings = [f"skipped the agent in {complaint}" for complaint in complaints]
    warnings += _agent_warnings(config, definitions, source)
    warnings += _cost_warnings(config)
    limits = RunLimits(**msgspec.structs.asdict(config.runs))
    return Runtime(
        generation=generation,
        routes=routes,
        definitions=definitions,
        default_agent=config.default_agent,
        default_route=config.default_route,
        limits=limits,
        context=ContextLimits(**msgspec.structs.asdict(config.context)),
        titles=config.titles.auto,
        models=models(limits),
        hooks=hooks(config),
        sandbox=config.workspace.sandbox,
        tools=ToolLimits(**msgspec.structs.asdict(config.tools)),
        workspaces=workspaces,
        permission_mode=config.permissions.mode,
        max_mode=config.permissions.max_mode,
        rules=tuple(config.permissions.rules),
        debug=Debugging(**msgspec.structs.asdict(config.debug)),
        warnings=tuple(warnings),
        config=msgspec.to_builtins(config),
    )


def _cost_warnings(config: Config) -> list[str]:
    """Routes on which a limit of cost limits nothing, as nobody can tell what they cost."""
    unpriced = [route_id for route_id, table in config.routes.items() if table.price_input is None]
    if not config.runs.max_cost or not unpriced:
        return []
    return [f"runs.max_cost does not limit runs on {', '.join(unpriced)}: no prices are stated there"]


def offline_route() -> RouteSpec:
    """The route that is always there."""
    return RouteSpec(BUILT_IN_ROUTE, "offline", "offline", built_in=True)


def _route(route_id: str, table: RouteTable) -> RouteSpec:
    return RouteSpec(
        route_id,
        table.driver,
        table.model,
        table.base_url,
        table.auth_ref,
        table.options,
        table.context_tokens,
        prices=_prices(table),
    )


def _prices(table: RouteTable) -> Prices | None:
    if table.price_input is None or table.price_output is None:
        return None
    cached = table.price_cached_input
    return Prices(
        currency=table.currency,
        input=micros(table.price_input),
        output=micros(table.price_output),
        cached_input=micros(cached) if cached is not None else None,
    )


def _workspaces(config: Config, home: Home) -> Workspaces:
    """Where agents may work, with every link followed now. Errors: ConfigInvalid."""
    named = config.workspace.root
    wanted = home.workspace if named is None else resolve_path(named, home)
    root, own = os.path.realpath(wanted), os.path.realpath(home.path)
    problem = root_problem(root, own)
    if problem is not None:
        raise ConfigInvalid(f"workspace.root: {problem}", field="workspace.root")
    return Workspaces(root, own, limited=named is not None)


def resolve_path(text: str, home: Home) -> Path:
    """A path as configured: ``~`` is the user's home, a relative one begins at the daemon's."""
    try:
        return home.path / Path(text).expanduser()
    except RuntimeError:
        return home.path / text


def _agent_warnings(config: Config, definitions: Mapping[str, Definition], source: Source) -> list[str]:
    if config.default_agent in definitions:
        return []
    path = source.config_path
    return [
        f"the default agent '{config.default_agent}' of {path} does not exist; "
        f"write {source.home.agents / config.default_agent}.md or name another"
    ]


def read_agents(
    directory: Path, routes: Mapping[str, RouteSpec], workspaces: Workspaces
) -> tuple[dict[str, Definition], list[str]]:
    """The agents in a directory and the built-in one, by name; and a complaint for every bad file.

    Shape:  complaints begin with ``<file>:<line>:``.
    """
    found = {BUILT_IN_AGENT: definition.built_in()}
    complaints: list[str] = []
    for path in _agent_files(directory, complaints):
        try:
            agent = _read_agent(path, routes, workspaces)
        except DefinitionError as error:
            complaints += [f"{path.name}:{line}: {message}" for line, message in error.found]
        else:
            found[agent.name] = agent
    return dict(sorted(found.items())), complaints


def _agent_files(directory: Path, complaints: list[str]) -> list[Path]:
    """Hidden files, editors' backups and everything else not called ``*.md`` is passed over."""
    try:
        files = sorted(
            path for path in directory.iterdir() if path.suffix == ".md" and not path.name.startswith(".")
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        complaints.append(f"{directory.name}:1: {error.strerror}")
        return []
    if len(files) > MAX_AGENT_FILES:
        complaints.append(
            f"{directory.name}:1: only the first {MAX_AGENT_FILES} of {len(files)} files are read"
        )
    return files[:MAX_AGENT_FILES]


def _read_agent(path: Path, routes: Mapping[str, RouteSpec], workspaces: Workspaces) -> Definition:
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DefinitionError([(1, "it is no ordinary file")])
            content = file.read(MAX_AGENT_FILE_BYTES + 1)
    except OSError as error:
        raise DefinitionError([(1, error.strerror or "cannot be read")]) from None
    agent = definition.parse(path.stem, content, str(path))
    if agent.route is not None and agent.route not in routes:
        known = ", ".join(sorted(routes))
        message = f"route: there is no route '{agent.route}'; there are: {known}"
        raise DefinitionError([(definition.key_line(content, "route"), message)])
    if agent.workspace is None:
        return agent
    try:
        return msgspec.structs.replace(agent, workspace=_agents_workspace(agent.workspace, workspaces))
    except WorkspaceForbidden as refusal:
        line = definition.key_line(content, "workspace")
        raise DefinitionError([(line, f"workspace: {refusal.message}")]) from None


def _agents_workspace(path: str, workspaces: Workspaces) -> str:
    """The directory that an agent's file names: ``~`` is the user's home, a relative one begins at the root.

    Errors: WorkspaceForbidden.
    """
    resolved = resolve(os.path.expanduser(path), workspaces.root)
    if resolved is None:
        raise WorkspaceForbidden("the path is too long or cannot be printed")
    workspaces.check(resolved)
    return resolved


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting, as for a pipe until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


class ListenOptions(Struct, frozen=True):
    """Where to listen, as the server wants to be told."""

    rpc: RpcListen
    shared: SharedListen | None
    tcp: TcpListen | None


def listen_options(config: Config, home: Home) -> ListenOptions:
    """Where a configuration says to listen. Errors: ConfigInvalid for a user or group that does not exist."""
    shared, tcp = config.listen.shared, config.listen.tcp
    return ListenOptions(
        RpcListen(home.socket),
        None if shared is None else _shared_listen(shared, home),
        None if tcp is None else _tcp_listen(tcp, home),
    )


def _shared_listen(shared: written.Shared, home: Home) -> SharedListen:
    grants = tuple(_grant(grant, number) for number, grant in enumerate(shared.grants))
    return SharedListen(resolve_path(shared.path, home), int(shared.mode, 8), shared.group, grants)


def _grant(grant: written.Grant, number: int) -> Grant:
    at = f"listen.shared.grants[{number}]"
    return Grant(
        uid=_number(grant.uid, lambda name: pwd.getpwnam(name).pw_uid, f"{at}.uid", "user"),
        gid=_number(grant.gid, lambda name: grp.getgrnam(name).gr_gid, f"{at}.gid", "group"),
        scopes=tuple(grant.scopes),
        agents=None if grant.agents is None else frozenset(grant.agents),
        senders=None if grant.senders is None else frozenset(grant.senders),
    )


def _number(value: int | str | None, look_up: Callable[[str], int], field: str, what: str) -> int | None:
    if not isinstance(value, str):
        return value
    try:
        return look_up(value)
    except KeyError:
        raise ConfigInvalid(f"{field}: this machine has no {what} called '{value}'", field=field) from None


def _tcp_listen(tcp: written.Tcp, home: Home) -> TcpListen:
    host, port = split_address(tcp.address)
    return TcpListen(
        host,
        port,
        None if tcp.certificate is None else resolve_path(tcp.certificate, home),
        None if tcp.key is None else resolve_path(tcp.key, home),
        tuple(tcp.hosts),
        tuple(tcp.origins),
    )
