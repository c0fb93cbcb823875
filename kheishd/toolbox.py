"""The parts of the composite Hook, in their order, and what they keep over a reload."""

from dataclasses import dataclass, field

from kheishd.config.sections.config import Config
from kheishd.home import Home
from kheishd.hooks.ask_user import AskUser
from kheishd.hooks.bash import Bash
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.files.locks import PathLocks
from kheishd.hooks.files.part import Files
from kheishd.hooks.output import Outputs
from kheishd.hooks.planning import Planning
from kheishd.hooks.results import Results
from kheishd.hooks.shells.files import ShellFiles
from kheishd.hooks.tasks.part import TaskTools
from kheishd.hooks.web_fetch import WebFetch


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What tools keep as long as the daemon lives: a reload makes new parts around it."""

    home: Home
    shells: ShellFiles
    locks: PathLocks = field(default_factory=PathLocks)

    def hooks(self, config: Config) -> CompositeHook:
        """The parts, in the order in which they give sections and opinions."""
        longest_s = config.tools.max_timeout_s
        bash = Bash(self.home.path, readable=tuple(config.workspace.readable), max_timeout_s=longest_s)
        parts = (Files(self.locks), bash, WebFetch(), AskUser(), Planning(), Outputs(), Results())
        return CompositeHook((*parts, TaskTools(self.shells)))
