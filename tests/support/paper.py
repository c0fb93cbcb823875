"""What a program writes, kept, and waited for by those who read it; for asyncio."""

import asyncio
import io

from tests.support.daemons import PATIENCE_S


class Paper(io.StringIO):
    """A text stream that wakes whoever waits for something to be written on it."""

    def __init__(self) -> None:
        super().__init__()
        self._written = asyncio.Event()

    def write(self, text: str) -> int:
        """Write, and wake who reads."""
        self._written.set()
        return super().write(text)

    async def sees(self, text: str, after: int = 0) -> None:
        """Wait until something is written, past a position. Errors: TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.getvalue()[after:]:
                self._written.clear()
                await self._written.wait()
