"""The sub-hooks of the composite Hook, in their order, and the state that survives a reload."""

from __future__ import annotations

from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, cast

from kheishd.kernel.mcp import McpHolder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kheishd.build.skills import ConfiguredSkills, SkillRegistry
    from kheishd.config.sections.config import Config
    from kheishd.config.sections.workspace import WorkspaceSection
    from kheishd.home import Home
    from kheishd.hooks.composite import CompositeHook
    from kheishd.hooks.lifecycle.runner import LifecycleRunner
    from kheishd.hooks.os.files.transaction import PathLocks
    from kheishd.hooks.os.shell.health import SandboxHealth
    from kheishd.hooks.os.shell.log import ShellFiles
    from kheishd.kernel.services import Services


class Toolbox:
    """State of tools for the daemon's whole life: a reload makes new sub-hooks around it.

    ``own_ports`` are the TCP ports on which the daemon listens: no command connects to them. ``services`` are
    set before the first use of a tool. No start waits for the modules of the tools, a fifth of the daemon's
    own code until it is ready.
    """

    def __init__(self, home: Home, shells: ShellFiles, health: SandboxHealth) -> None:
        self.own_ports: set[int] = set()
        self.services: Services | None = None
        self.mcp = McpHolder()
        self._home = home
        self._shells = shells
        self._health = health

    @cached_property
    def _locks(self) -> PathLocks:
        from kheishd.hooks.os.files.transaction import PathLocks

        return PathLocks()

    @cached_property
    def _registry(self) -> SkillRegistry:
        from kheishd.build.skills import SkillRegistry

        return SkillRegistry()

    def skills(self, config: Config) -> ConfiguredSkills:
        """Return the skills of a configuration, of which nothing has been read yet."""
        from kheishd.build.skills import ConfiguredSkills

        return ConfiguredSkills(self._registry, config.skills, self._home, user=self._home.resolve("~"))

    def hooks(self, config: Config) -> CompositeHook:
        """Return the sub-hooks, in the order of their prompt sections and opinions."""
        from kheishd.hooks.agents.delegation import Delegation
        from kheishd.hooks.agents.mail import MailTools
        from kheishd.hooks.ask_user import AskUser
        from kheishd.hooks.composite import CompositeHook
        from kheishd.hooks.cron import CronTools
        from kheishd.hooks.events import EventTools
        from kheishd.hooks.goals import GoalTools
        from kheishd.hooks.lifecycle.part import LifecycleHooks
        from kheishd.hooks.mcp import ServerTools
        from kheishd.hooks.memory import MemoryTools
        from kheishd.hooks.os.files.tools import Files
        from kheishd.hooks.os.shell.tools import Bash
        from kheishd.hooks.output import Outputs
        from kheishd.hooks.plan import Planning
        from kheishd.hooks.results import Results
        from kheishd.hooks.skills import ActiveSkills, SkillTools
        from kheishd.hooks.tasks import TaskTools
        from kheishd.hooks.web.tools import WebFetch

        bash = Bash(
            self._home.path,
            readable=tuple(config.workspace.readable),
            max_timeout_s=config.tools.max_timeout_s,
            health=self._health,
            asks_unsandboxed=config.workspace.unsandboxed == "ask",
            network=config.workspace.network,
            own_ports=self.own_ports,
            limits=config.tools.limits,
            protected=config.permissions.protected,
        )
        parts = (Files(self._locks), bash, WebFetch(), AskUser(), Planning(), Outputs(), Results())
        delegation = Delegation(cast("Services", self.services))
        skills = SkillTools(cache(partial(self.skills, config)), lambda: cast("Services", self.services))
        tools = (TaskTools(self._shells), GoalTools(), delegation, MailTools(), skills, ActiveSkills())
        lifecycle = LifecycleHooks(lambda: cast("Services", self.services))
        servers = ServerTools(self.mcp)
        memory = MemoryTools(lambda: cast("Services", self.services))
        events = EventTools(offered=config.tools.events)
        schedules = CronTools(offered=config.tools.schedules)
        return CompositeHook((*parts, *tools, servers, memory, events, schedules, lifecycle))

    def load_lifecycle(
        self, read_credential: Callable[[str], str], environ: Mapping[str, str]
    ) -> LifecycleRunner:
        """Return the runner of lifecycle hooks, which get little of the daemon's environment."""
        from kheishd.hooks.lifecycle.runner import LifecycleRunner
        from kheishd.hooks.os.shell.process import home_id

        services = cast("Services", self.services)
        return LifecycleRunner(
            services.state, services.live, read_credential, environ, home_id(self._home.path)
        )

    async def try_sandbox(self, workspace: WorkspaceSection) -> None:
        """Try the sandbox of commands, unless it is off, and log its state."""
        if workspace.sandbox != "off":
            from kheishd.hooks.os.shell.sandbox import Sandbox

            sandbox = Sandbox(
                [str(self._home.path)], workspace.readable, health=self._health, network=workspace.network
            )
            await sandbox.find_problem()
        self._health.log_state(workspace)
