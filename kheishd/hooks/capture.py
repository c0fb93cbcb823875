"""What a command writes, as it comes: shown while it runs, excerpted for the model, kept in a spool.

However much it is, memory holds four excerpts' halves, and the loop handles one read at a time, with
others between any two. What the spool does not take any more is read and dropped: a command that writes
more than is wanted is slowed down by nobody, and what it says last is still seen.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable
from contextlib import suppress

import trio

from kheishd.hooks.excerpt import Excerpt, json_bytes
from kheishd.hooks.spool import Spool
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.shell import MAX_COMMAND_LIVE_BYTES

READ_BYTES = 64 * 1024
ENOUGH = "\n[it goes on; no more of it is shown while it runs]\n"


class Capture:
    """Both outputs of one command."""

    def __init__(self, spool: Spool, say: Callable[[str], None]) -> None:
        # One of them may fill all the text that a result has.
        self.stdout = Excerpt(MAX_TOOL_TEXT_BYTES // 2)
        self.stderr = Excerpt(MAX_TOOL_TEXT_BYTES // 2)
        self._spool = spool
        self._spooling = trio.Lock()
        self._say = say
        self._said = 0

    async def pump(self, stream: trio.abc.ReceiveStream, excerpt: Excerpt) -> None:
        """Take in one output until it ends."""
        decoder = getincrementaldecoder("utf-8")("replace")
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await stream.receive_some(READ_BYTES):
                excerpt.take(data)
                await self._keep(data)
                self._show(decoder.decode(data), len(data))
        self._show(decoder.decode(b"", final=True), 0)

    def shown(self, max_json_bytes: int) -> tuple[tuple[str, bool], tuple[str, bool]]:
        """Output and errors as text of so many bytes of JSON together; whether each is all there was.

        Shape:  where both are long each has half, where one is short the other has the rest.
        """
        half = max_json_bytes // 2
        output, errors = self.stdout.text(max_json_bytes), self.stderr.text(max_json_bytes)
        if json_bytes(output[0]) + json_bytes(errors[0]) > max_json_bytes:
            errors = self.stderr.text(max(half, max_json_bytes - json_bytes(output[0])))
            output = self.stdout.text(max_json_bytes - json_bytes(errors[0]))
        return output, errors

    def _show(self, text: str, size: int) -> None:
        if text and self._said < MAX_COMMAND_LIVE_BYTES:
            self._said += size
            self._say(text if self._said < MAX_COMMAND_LIVE_BYTES else text + ENOUGH)

    async def _keep(self, data: bytes | bytearray) -> None:
        """Add to the spool. Once that is full, the loop does not go to a thread for nothing."""
        if self._spool.takes_more:
            async with self._spooling:
                await trio.to_thread.run_sync(self._spool.write, data)
        else:
            self._spool.dropped += len(data)
