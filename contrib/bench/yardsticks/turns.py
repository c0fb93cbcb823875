"""The bare prototype: a text turn on trio and LMDB, with nothing that a turn can do without.

    python -m contrib.bench.yardsticks.turns SOCKET DIRECTORY REQUEST PORT

A turn keeps the daemon's promises of order: the input is on disk before it is acknowledged or sent to the
model, the answer is shown piece by piece as it arrives, and it is on disk before the client gets the result.
The model server on PORT gets the same bytes as from the daemon: REQUEST is a file with a request that the
daemon sent, and only its messages are replaced. A start reads all conversations back.

There are no rights, limits, tools, retries or captures. A client may leave; other failures end the program.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import lmdb
import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAX_GROUP_ENTRIES = 256
READ_BYTES = 65536
SWITCH_SECONDS = 0.0005
"""The interpreter's switch interval in the daemon, where a loop and a writer share one interpreter, too."""
FIRST_USER = b',{"role":"user","content":'
"""The begin of the first message after the system's in a captured request."""


class Entry(msgspec.Struct):
    """A message of a conversation, as the journal stores it."""

    sender: str
    role: str
    content: str


class Params(msgspec.Struct):
    """The parameters of a send that the prototype knows."""

    sender: str = "user"
    content: str = ""
    wait: str = ""
    stream: bool = False


class Request(msgspec.Struct):
    """A request of a client."""

    id: int | str
    method: str
    params: Params


class Delta(msgspec.Struct):
    """The new text in an event of the model."""

    content: str | None = None


class Choice(msgspec.Struct):
    """The only choice in an event of the model."""

    delta: Delta


class Event(msgspec.Struct):
    """An event of the model."""

    choices: list[Choice]


encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_event = msgspec.json.Decoder(Event).decode
decode_entry = msgspec.json.Decoder(Entry).decode


class Journal:
    """Entries in LMDB. A thread commits all entries that wait in one transaction."""

    def __init__(self, directory: str) -> None:
        self.environment = lmdb.open(directory, map_size=1 << 30, max_dbs=2, readahead=False)
        self.table = self.environment.open_db(b"journal")
        with self.environment.begin(db=self.table) as transaction:
            self.entries = [decode_entry(value) for _, value in transaction.cursor()]
        self._length = len(self.entries)
        self._queue: SimpleQueue[tuple[bytes, trio.Event]] = SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._write, daemon=True).start()

    async def append(self, entry: Entry) -> None:
        """Append an entry; return when it is on disk."""
        stored = trio.Event()
        self._queue.put((encode(entry), stored))
        await stored.wait()

    def _write(self) -> None:
        while True:
            group = [self._queue.get()]
            while len(group) < MAX_GROUP_ENTRIES and not self._queue.empty():
                group.append(self._queue.get())
            with self.environment.begin(write=True, db=self.table) as transaction:
                for value, _ in group:
                    transaction.put(self._length.to_bytes(8, "big"), value, append=True)
                    self._length += 1
            self._token.run_sync_soon(set_all, [stored for _, stored in group])


def set_all(events: list[trio.Event]) -> None:
    """Wake the tasks that wait for one of these events."""
    for event in events:
        event.set()


class Reader:
    """The reader of one answer: HTTP chunks outside, events inside."""

    def __init__(self) -> None:
        self.has_ended = False
        self._chunks = bytearray()
        self._events = b""
        self._is_in_body = False

    def feed(self, data: bytes) -> list[str]:
        """Return the texts that more bytes complete."""
        self._chunks += data
        if not self._is_in_body:
            end = self._chunks.find(b"\r\n\r\n")
            if end < 0:
                return []
            if not self._chunks.startswith(b"HTTP/1.1 200 "):
                raise ValueError(bytes(self._chunks[:end]))
            del self._chunks[: end + 4]
            self._is_in_body = True
        self._events += self._take_chunks()
        *events, self._events = self._events.split(b"\n\n")
        texts = []
        for event in events:
            if event != b"data: [DONE]":
                decoded = decode_event(event[6:])
                texts += [choice.delta.content for choice in decoded.choices if choice.delta.content]
        return texts

    def _take_chunks(self) -> bytes:
        """Remove the whole chunks; return their contents."""
        contents, start = [], 0
        while (end := self._chunks.find(b"\r\n", start)) >= 0:
            size = int(self._chunks[start:end], 16)
            following = end + 2 + size + 2
            if following > len(self._chunks):
                break
            contents.append(self._chunks[end + 2 : end + 2 + size])
            start = following
            self.has_ended = not size
        del self._chunks[:start]
        return b"".join(contents)


class Model:
    """The model server. The connection that was used last is used first."""

    def __init__(self, port: int, request: bytes) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self._head = b"\r\n".join(line for line in lines if not line.lower().startswith(b"content-length:"))
        self._before, start, rest = body.partition(FIRST_USER)
        if not start:
            raise ValueError("the request has no user's message")
        self._after = rest[rest.index(b"]") :]
        self._address = ("127.0.0.1", port)
        self._idle: list[Any] = []

    async def ask(self, messages: bytes, show: Callable[[list[str]], Awaitable[None]]) -> str:
        """Return the answer to the messages, shown as it arrives."""
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = trio.socket.socket()
            connection.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
            await connection.connect(self._address)
        body = b"".join((self._before, messages, self._after))
        request = b"%b\r\ncontent-length: %d\r\n\r\n%b" % (self._head, len(body), body)
        while request:
            request = request[await connection.send(request) :]
        reader, answer = Reader(), []
        while not reader.has_ended:
            received = await connection.recv(READ_BYTES)
            if not received:
                raise ConnectionError("the model server closed the connection")
            texts = reader.feed(received)
            if texts:
                answer += texts
                await show(texts)
        self._idle.append(connection)
        return "".join(answer)


class Conversation:
    """One conversation: its messages as the model gets them, and a lock that its turns take one by one."""

    def __init__(self) -> None:
        self.messages = b""
        self.lock = trio.Lock()

    def add(self, entry: Entry) -> None:
        """Append a message."""
        self.messages += b"," + encode({"role": entry.role, "content": entry.content})


class Client:
    """A connection of a client. One task at a time writes to it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lock = trio.Lock()

    async def read(self) -> bytes:
        """Return the next bytes; nothing once the client has left."""
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except trio.BrokenResourceError:
            return b""

    async def write(self, *messages: dict[str, Any]) -> None:
        """Send messages, one per line."""
        lines = b"".join(encode({"jsonrpc": "2.0", **message}) + b"\n" for message in messages)
        async with self._lock:
            # A client may leave before its answer; the turn ends all the same.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(lines)


class Server:
    """The conversations, and the turns that clients request."""

    def __init__(self, journal: Journal, model: Model) -> None:
        self._journal = journal
        self._model = model
        self._conversations: defaultdict[str, Conversation] = defaultdict(Conversation)
        for entry in journal.entries:
            self._conversations[entry.sender].add(entry)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection: a ping is answered at once, a send by a task."""
        client, rest = Client(stream), b""
        async with stream, trio.open_nursery() as nursery:
            while received := await client.read():
                *lines, rest = (rest + received).split(b"\n")
                for line in lines:
                    request = decode_request(line)
                    if request.method == "rpc.ping":
                        await client.write({"id": request.id, "result": {}})
                    else:
                        nursery.start_soon(self._send, client, request.id, request.params)

    async def _send(self, client: Client, number: int | str, params: Params) -> None:
        """Store the input; then, if the client waits for it, run the turn."""
        conversation = self._conversations[params.sender]
        async with conversation.lock:
            await self._append(conversation, Entry(params.sender, "user", params.content))
            result = {"status": "queued"}
            if params.wait:

                async def show(texts: list[str]) -> None:
                    if params.stream:
                        await client.write(
                            *({"method": "journal.delta", "params": {"text": text}} for text in texts)
                        )

                answer = await self._model.ask(conversation.messages, show)
                await self._append(conversation, Entry(params.sender, "assistant", answer))
                result = {"status": "completed", "output": answer}
            await client.write({"id": number, "result": result})
            if params.stream:
                await client.write({"method": "journal.end", "params": {}})

    async def _append(self, conversation: Conversation, entry: Entry) -> None:
        await self._journal.append(entry)
        conversation.add(entry)


async def main(path: str, directory: str, request: str, port: str) -> None:
    """Listen on a Unix socket."""
    server = Server(Journal(directory), Model(int(port), await trio.Path(request).read_bytes()))
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(path)
    listener.listen(4096)
    await trio.serve_listeners(server.serve, [trio.SocketListener(listener)])


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(exist_ok=True)
    sys.setswitchinterval(SWITCH_SECONDS)
    trio.run(partial(main, *sys.argv[1:]))
