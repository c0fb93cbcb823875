"""The sub-hooks of the composite Hook, in their order, and the state that survives a reload."""

from msgspec import field

from kheishd.config.sections.config import Config
from kheishd.config.sections.workspace import WorkspaceSection
from kheishd.home import Home
from kheishd.hooks.ask_user import AskUser
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.os.files.tools import Files
from kheishd.hooks.os.files.transaction import PathLocks
from kheishd.hooks.os.shell.health import SandboxHealth
from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.hooks.os.shell.sandbox import Sandbox
from kheishd.hooks.os.shell.tools import Bash
from kheishd.hooks.output import Outputs
from kheishd.hooks.plan import Planning
from kheishd.hooks.results import Results
from kheishd.hooks.tasks import TaskTools
from kheishd.hooks.web.tools import WebFetch
from protocol.structs import Value


class Toolbox(Value, frozen=True):
    """State of tools for the daemon's whole life: a reload makes new sub-hooks around it.

    ``own_ports`` are the TCP ports on which the daemon listens: no command connects to them.
    """

    home: Home
    shells: ShellFiles
    health: SandboxHealth
    locks: PathLocks = field(default_factory=PathLocks)
    own_ports: set[int] = field(default_factory=set)

    def hooks(self, config: Config) -> CompositeHook:
        """Return the sub-hooks, in the order of their prompt sections and opinions."""
        bash = Bash(
            self.home.path,
            readable=tuple(config.workspace.readable),
            max_timeout_s=config.tools.max_timeout_s,
            health=self.health,
            asks_unsandboxed=config.workspace.unsandboxed == "ask",
            network=config.workspace.network,
            own_ports=self.own_ports,
            limits=config.tools.limits,
            protected=config.permissions.protected,
        )
        parts = (Files(self.locks), bash, WebFetch(), AskUser(), Planning(), Outputs(), Results())
        return CompositeHook((*parts, TaskTools(self.shells)))

    async def try_sandbox(self, workspace: WorkspaceSection) -> None:
        """Try the sandbox of commands, unless it is off, and log its state."""
        if workspace.sandbox != "off":
            sandbox = Sandbox(
                [str(self.home.path)], workspace.readable, health=self.health, network=workspace.network
            )
            await sandbox.find_problem()
        self.health.log_state(workspace)
