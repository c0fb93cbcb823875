"""A text stream that keeps its text and wakes its readers; for asyncio."""

import asyncio
import io

from tests.support.daemons import PATIENCE_S


class Paper(io.StringIO):
    """A text stream that wakes its readers at each write."""

    def __init__(self) -> None:
        super().__init__()
        self._written = asyncio.Event()

    def write(self, text: str) -> int:
        """Write a text and wake the readers."""
        self._written.set()
        return super().write(text)

    async def sees(self, text: str, after: int = 0) -> None:
        """Wait for a text beyond a position. Errors: TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.getvalue()[after:]:
                self._written.clear()
                await self._written.wait()
