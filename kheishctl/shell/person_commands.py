"""Commands that the person runs from the chat with ``!``: in the client, outside the agent's sandbox."""

from __future__ import annotations

import asyncio
import codecs
import io
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from kheishctl.client import Failure
from kheishctl.values import ClientValue
from protocol.text import sanitize

if TYPE_CHECKING:
    from collections.abc import Callable

# The last part of the output that can be sent to the agent: a message has 128 KiB, of which JSON may double
# some characters.
MAX_SHARED_CHARACTERS = 16_000

READ_BYTES = 16 * 1024

# A line beyond this is written in parts.
MAX_LINE_CHARACTERS = 64 * 1024


class PersonCommand(ClientValue):
    """A command that has ended: its line, its exit code, and the last part of its output."""

    line: str
    code: int
    output: str

    def format_message(self, text: str) -> str:
        """Return the message that tells an agent about the command; ``text`` comes first."""
        fence = "```"
        while fence in self.output:
            fence += "`"
        head = f"{text}\n\n" if text else ""
        return f"{head}I ran `{self.line}`; its exit code was {self.code}.\n\n{fence}\n{self.output}\n{fence}"


async def run_command(line: str, directory: str | None, write: Callable[[str], None]) -> PersonCommand:
    """Run a line in the person's shell, without input; write its output as it comes, in whole lines.

    The command's processes are killed if the caller is cancelled. Errors: Failure if it cannot be started.
    """
    shell = os.environ.get("SHELL") or "/bin/sh"
    # Not the library's pipe, whose end it awaits: a process with a session of its own is not killed, and may
    # keep the output open for ever.
    source, sink = os.pipe()
    with io.FileIO(source) as pipe:
        try:
            process = await asyncio.create_subprocess_exec(
                shell,
                "-c",
                line,
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            place = directory or "this directory"
            raise Failure(f"cannot run {shell} in {place}: {error.strerror}") from None
        finally:
            os.close(sink)
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        decoder, rest, kept = codecs.getincrementaldecoder("utf-8")("replace"), "", ""
        try:
            while data := await reader.read(READ_BYTES):
                text = decoder.decode(data)
                kept = (kept + text)[-MAX_SHARED_CHARACTERS:]
                whole, newline, rest = (rest + text).rpartition("\n")
                if newline:
                    write(sanitize(whole) + "\n")
                elif len(rest) > MAX_LINE_CHARACTERS:
                    write(sanitize(rest) + "\n")
                    rest = ""
            code = await process.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        finally:
            transport.close()
    if rest:
        write(sanitize(rest) + "\n")
    return PersonCommand(line, code, sanitize(kept).strip("\n"))
