"""The whole of ``config.toml``."""

from collections.abc import Iterator

from kheishd.config.sections.agents import AgentsSection
from kheishd.config.sections.context import ContextSection
from kheishd.config.sections.daemon import DaemonSection
from kheishd.config.sections.debug import DebugSection
from kheishd.config.sections.listen import ListenSection
from kheishd.config.sections.log import LogSection
from kheishd.config.sections.mcp import McpSection
from kheishd.config.sections.memory import MemorySection
from kheishd.config.sections.metrics import MetricsSection
from kheishd.config.sections.permissions import PermissionsSection
from kheishd.config.sections.routes import (
    BUILT_IN_ROUTE,
    ChainRoute,
    RouteSection,
    find_fallback_problems,
)
from kheishd.config.sections.runs import RunsSection
from kheishd.config.sections.section import Section
from kheishd.config.sections.skills import SkillsSection
from kheishd.config.sections.titles import TitlesSection
from kheishd.config.sections.tools import ToolsSection
from kheishd.config.sections.workspace import WorkspaceSection
from kheishd.config.toml import KeyPath
from kheishd.config.validation import Problem
from protocol.ids import Id
from protocol.limits.mcp import MAX_MCP_SERVERS
from protocol.objects.conversation import Agent
from protocol.objects.mcp import ServerName

BUILT_IN_AGENT = "default"


class Config(Section, frozen=True):
    """The whole of ``config.toml``."""

    default_agent: Agent = BUILT_IN_AGENT
    """Agent addressed if a client names none."""

    default_route: Id = BUILT_IN_ROUTE
    """Route of agents that name none."""

    routes: dict[Id, RouteSection] = {}
    listen: ListenSection = ListenSection()
    permissions: PermissionsSection = PermissionsSection()
    workspace: WorkspaceSection = WorkspaceSection()
    runs: RunsSection = RunsSection()
    agents: AgentsSection = AgentsSection()
    context: ContextSection = ContextSection()
    memory: MemorySection = MemorySection()
    tools: ToolsSection = ToolsSection()
    skills: SkillsSection = SkillsSection()
    titles: TitlesSection = TitlesSection()
    debug: DebugSection = DebugSection()
    mcp: dict[ServerName, McpSection] = {}
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()
    daemon: DaemonSection = DaemonSection()

    def find_problems(self, path: KeyPath) -> Iterator[Problem]:
        """Yield the problems that the types cannot express."""
        if self.default_route != BUILT_IN_ROUTE and self.default_route not in self.routes:
            known = ", ".join([*self.routes, BUILT_IN_ROUTE])
            yield Problem(
                (*path, "default_route"), f"no route '{self.default_route}'; configured routes: {known}"
            )
        if BUILT_IN_ROUTE in self.routes:
            reserved = f"'{BUILT_IN_ROUTE}' is built in; choose another id"
            yield Problem((*path, "routes", BUILT_IN_ROUTE), reserved)
        for name, value in ((name, getattr(self, name)) for name in self.__struct_fields__):
            if isinstance(value, Section):
                yield from value.find_problems((*path, name))
        for name, server in self.mcp.items():
            yield from server.find_problems((*path, "mcp", name))
        if len(self.mcp) > MAX_MCP_SERVERS:
            yield Problem((*path, "mcp"), f"{len(self.mcp)} servers; the limit is {MAX_MCP_SERVERS}")
        problems = [
            problem
            for route_id, section in self.routes.items()
            for problem in section.find_problems((*path, "routes", route_id))
        ]
        yield from problems
        if problems:
            return
        chain_routes = {
            route_id: ChainRoute(
                section.effective_driver, section.currency if section.price_input is not None else None
            )
            for route_id, section in self.routes.items()
        } | {BUILT_IN_ROUTE: ChainRoute("offline", None)}
        for route_id, section in self.routes.items():
            yield from find_fallback_problems(route_id, section, chain_routes, (*path, "routes", route_id))
