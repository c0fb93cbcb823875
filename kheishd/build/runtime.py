"""Build a runtime from the configuration and the agents' files."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from kheishd.build.agents import read_agents
from kheishd.config.reader import load
from kheishd.config.sections.config import Config
from kheishd.config.sections.routes import BUILT_IN_ROUTE
from kheishd.core.workspace import Workspaces, find_root_problem, find_trust_problem
from kheishd.home import Home
from kheishd.kernel.route import make_built_in_route, make_route
from kheishd.kernel.runtime import Runtime
from kheishd.kernel.skills import NoSkills
from protocol.errors.daemon import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.config.sections.runs import RunsSection
    from kheishd.kernel.hook import Hook
    from kheishd.kernel.lifecycle import HookSpec
    from kheishd.kernel.runtime import ModelCaller, RouteSpec
    from kheishd.kernel.skills import Skills


class Source(Struct, frozen=True):
    """The files and the environment from which runtimes are built; every reload reads them again."""

    home: Home
    config: Path | None = None
    environ: Mapping[str, str] = os.environ

    @property
    def config_path(self) -> Path | None:
        """The configuration file; None if there is none."""
        if self.config is not None:
            return self.config
        return self.home.config if self.home.config.exists() else None

    def read_config(self) -> Config:
        """Read the configuration. Errors: ConfigInvalid."""
        path = self.config_path
        return Config() if path is None else load(path)


def build_runtime(
    source: Source,
    generation: int,
    models: Callable[[RunsSection], ModelCaller],
    hooks: Callable[[Config], Hook],
    skills: Callable[[Config], Skills] = lambda config: NoSkills(),
    *,
    config: Config | None = None,
    stored_routes: Mapping[str, RouteSpec] | None = None,
    skip_bad_agents: bool,
) -> Runtime:
    """Build a runtime from the current files.

    ``hooks`` and ``skills`` are called at their first use. ``config`` is the configuration if it has been
    read already. Agents' files may name ``stored_routes``, too.
    Errors: ConfigInvalid; also for a bad agent file, unless ``skip_bad_agents`` turns it into a warning.
    """
    config = source.read_config() if config is None else config
    routes = {BUILT_IN_ROUTE: make_built_in_route()} | {
        route_id: make_route(route_id, section) for route_id, section in config.routes.items()
    }
    workspaces = _resolve_workspaces(config, source.home)
    definitions, problems = read_agents(source.home.agents, {**(stored_routes or {}), **routes}, workspaces)
    if problems and not skip_bad_agents:
        raise ConfigInvalid("; ".join(problems))
    warnings = [f"skipped the agent in {problem}" for problem in problems]
    subscriptions = None
    if source.home.subscriptions.exists():
        from kheishd.build.wake_files import read_wake_file
        from kheishd.core.subscriptions import SUBSCRIPTION_FILE

        subscriptions = read_wake_file(source.home.subscriptions, SUBSCRIPTION_FILE)
        warnings += subscriptions.warnings
    crons = None
    if source.home.crons.exists():
        from kheishd.build.wake_files import read_wake_file
        from kheishd.core.cron.file import CRON_FILE

        crons = read_wake_file(source.home.crons, CRON_FILE)
        warnings += crons.warnings
    unpriced = [route_id for route_id, section in config.routes.items() if section.price_input is None]
    if config.runs.max_cost and unpriced:
        warnings.append(f"runs.max_cost has no effect on routes without prices: {', '.join(unpriced)}")
    lifecycle: tuple[HookSpec, ...] = ()
    if os.path.lexists(source.home.hooks):
        from kheishd.hooks.lifecycle.files import read_operators_hooks

        lifecycle, skipped = read_operators_hooks(source.home.hooks)
        warnings += skipped
    return Runtime(
        generation=generation,
        config=config,
        routes=routes,
        definitions=definitions,
        models=models(config.runs),
        load_hooks=cache(partial(hooks, config)),
        workspaces=workspaces,
        warnings=tuple(warnings),
        load_skills=cache(partial(skills, config)),
        subscriptions=subscriptions,
        crons=crons,
        lifecycle=lifecycle,
    )


def _resolve_workspaces(config: Config, home: Home) -> Workspaces:
    """Return the bounds of agents' workspaces, with all symbolic links resolved. Errors: ConfigInvalid."""
    configured = config.workspace.root
    path = home.workspace if configured is None else home.resolve(configured)
    root, own = os.path.realpath(path), os.path.realpath(home.path)
    problem = find_root_problem(root, own)
    if problem is not None:
        raise ConfigInvalid(f"workspace.root: {problem}", field="workspace.root")
    trusted = []
    for index, name in enumerate(config.workspace.trusted):
        resolved = os.path.realpath(home.resolve(name))
        problem = find_trust_problem(resolved, own, os.path.expanduser("~"))
        if problem is not None:
            raise ConfigInvalid(f"workspace.trusted[{index}]: {problem}", field="workspace.trusted")
        if os.path.isdir(resolved) and os.stat(resolved).st_mode & stat.S_IWOTH:
            text = f"workspace.trusted[{index}]: every user of this machine may write in {resolved}"
            raise ConfigInvalid(f"{text}; take that right away (chmod o-w)", field="workspace.trusted")
        trusted.append(resolved)
    return Workspaces(root, own, limited=configured is not None, trusted=tuple(dict.fromkeys(trusted)))
