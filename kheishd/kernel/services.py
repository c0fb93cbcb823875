"""The long-lived collaborators that the daemon makes once and hands to its workers and to its handlers."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import trio
from msgspec import field

from kheishd.kernel.cooldowns import Cooldowns
from kheishd.kernel.lifecycle import Lifecycle
from kheishd.kernel.mcp import McpHolder
from kheishd.kernel.secrets import Vault
from kheishd.kernel.slots import RunSlots
from kheishd.kernel.transcripts import TranscriptCache
from kheishd.kernel.waits import RunWaits
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.kernel.captures import Captures
    from kheishd.kernel.live import Live
    from kheishd.kernel.runtime import Runtimes
    from kheishd.kernel.shells import Shells
    from kheishd.kernel.state import State


class Services(Value, frozen=True):
    """The long-lived collaborators, from the store to the MCP servers.

    All of them live from the opening of the store to its closing. A reload replaces the current runtime, not
    the services. ``trials`` has a lock for the tests of each route.
    """

    state: State
    live: Live
    runtimes: Runtimes
    captures: Captures
    shells: Shells
    transcripts: TranscriptCache = field(default_factory=TranscriptCache)
    slots: RunSlots = field(default_factory=RunSlots)
    waits: RunWaits = field(default_factory=RunWaits)
    cooldowns: Cooldowns = field(default_factory=Cooldowns)
    trials: defaultdict[str, trio.Lock] = field(default_factory=lambda: defaultdict(trio.Lock))
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    mcp: McpHolder = field(default_factory=McpHolder)
    secrets: Vault = field(default_factory=Vault)
