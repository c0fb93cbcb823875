"""A conversation whose files and agents can be mentioned; for asyncio."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from kheishctl.client import ConnectionLost
from kheishctl.contract import Json


class FakeConversation:
    """A conversation in a directory, with agents."""

    def __init__(self, workspace: str | None = None) -> None:
        self.workspace = workspace
        self.directory: str | None = None
        self.session_id: str | None = None
        self.definitions = [{"name": "reviewer", "description": "Reads\x1b changes."}, {"name": "default"}]
        self.is_lost = False
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work in the background."""
        self.tasks.append(asyncio.ensure_future(work))

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Return the agents."""
        if self.is_lost:
            raise ConnectionLost("lost")
        agent = {"agent_id": "ses_2", "path": "ses_1/survey", "definition": "reviewer", "status": "running"}
        root = {"agent_id": "ses_1", "path": "ses_1", "definition": "default", "status": "idle"}
        return {"agents": [root, agent], "definitions": self.definitions}
