"""The sub-hooks of the composite Hook, in their order, and the state that survives a reload."""

from msgspec import field

from kheishd.config.sections.config import Config
from kheishd.home import Home
from kheishd.hooks.ask_user import AskUser
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.os.files.tools import Files
from kheishd.hooks.os.files.transaction import PathLocks
from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.hooks.os.shell.tools import Bash
from kheishd.hooks.output import Outputs
from kheishd.hooks.plan import Planning
from kheishd.hooks.results import Results
from kheishd.hooks.tasks import TaskTools
from kheishd.hooks.web.tools import WebFetch
from protocol.structs import Value


class Toolbox(Value, frozen=True):
    """State of tools for the daemon's whole life: a reload makes new sub-hooks around it."""

    home: Home
    shells: ShellFiles
    locks: PathLocks = field(default_factory=PathLocks)

    def hooks(self, config: Config) -> CompositeHook:
        """Return the sub-hooks, in the order of their prompt sections and opinions."""
        bash = Bash(
            self.home.path,
            readable=tuple(config.workspace.readable),
            max_timeout_s=config.tools.max_timeout_s,
        )
        parts = (Files(self.locks), bash, WebFetch(), AskUser(), Planning(), Outputs(), Results())
        return CompositeHook((*parts, TaskTools(self.shells)))
