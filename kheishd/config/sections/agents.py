"""``[agents]``: limits on the agents that other agents spawn, and the person who answers for them."""

from typing import Annotated, Literal

from msgspec import Meta

from kheishd.config.sections.section import Section
from protocol.limits.agent import MAX_AGENT_DEPTH
from protocol.limits.names import MAX_SENDER_BYTES


class AgentsSection(Section, frozen=True):
    """``[agents]``: limits on the agents that other agents spawn, and the person who answers for them."""

    max_depth: Annotated[int, Meta(ge=0, le=MAX_AGENT_DEPTH)] = 4
    """Maximum number of agents above a spawned one (0: no agent spawns another)."""

    max_children: Annotated[int, Meta(ge=1, le=10_000)] = 6
    """Maximum number of live children of one agent."""

    max_descendants: Annotated[int, Meta(ge=1, le=10_000)] = 24
    """Maximum number of live agents below one root."""

    max_live: Annotated[int, Meta(ge=1, le=100_000)] = 128
    """Maximum number of live spawned agents of the daemon."""

    max_spawns_per_run: Annotated[int, Meta(ge=1, le=10_000)] = 6
    """Maximum number of agents that one run spawns."""

    max_spawns_per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 60
    """Maximum number of agents spawned below one root in any minute."""

    max_daemon_spawns_per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 240
    """Maximum number of agents that all agents spawn in any minute."""

    unattended: Literal["deny", "owner"] = "deny"
    """Whether requests of agents to which no person is attached are denied, or go to `agents.owner`."""

    owner: Annotated[str, Meta(min_length=1, max_length=MAX_SENDER_BYTES)] | None = None
    """The person who answers them: a sender, or a principal such as `uid:1000`."""
