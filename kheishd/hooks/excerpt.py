"""An excerpt of output: its beginning and its end, however much there is in between.

The first lines say what was done and the last ones how it ended, so both are kept and the middle is counted.
It takes bytes as they come and gives text that fits into so many bytes of JSON.
"""

import msgspec

_encode = msgspec.json.Encoder().encode


def json_bytes(text: str) -> int:
    """How long a text is as JSON, without its quotes."""
    return len(_encode(text)) - 2


def clipped(text: str, max_json_bytes: int) -> str:
    """A text, without its middle if it is longer than so many bytes of JSON."""
    excerpt = Excerpt(max_json_bytes)
    excerpt.take(text.encode(errors="replace"))
    return excerpt.text(max_json_bytes)[0]


def beginning(text: str, max_json_bytes: int) -> tuple[str, bool]:
    """The beginning of a text, of so many bytes of JSON; and whether that is all of it."""
    if json_bytes(text) <= max_json_bytes:
        return text, True
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        size = (fits + too_long) // 2
        if json_bytes(text[:size]) <= max_json_bytes:
            fits = size
        else:
            too_long = size
    return text[:fits], False


def ending(data: bytes, max_json_bytes: int) -> str:
    """The end of some output, as text of so many bytes of JSON."""
    text = _ended(data).decode(errors="replace")
    while json_bytes(text) > max_json_bytes:
        text = text[len(text) // 8 + 1 :]
    return text


class Excerpt:
    """The first and the last ``half`` bytes of a stream; ``total`` is how much it was."""

    def __init__(self, half: int) -> None:
        self.total = 0
        self._half = half
        self._head = bytearray()
        self._tail = bytearray()

    def take(self, data: bytes | bytearray) -> None:
        """More of the stream."""
        self.total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        del self._tail[: -self._half]

    @property
    def whole(self) -> bool:
        """Whether nothing was left out so far."""
        return self.total == len(self._head) + len(self._tail)

    def text(self, max_json_bytes: int) -> tuple[str, bool]:
        """What is kept, as text of so many bytes of JSON; and whether that is all there was."""
        if self.whole:
            text = (self._head + self._tail).decode(errors="replace")
            if json_bytes(text) <= max_json_bytes:
                return text, True
        head, tail = bytes(self._head), bytes(self._tail)
        if self.whole:
            joined = head + tail
            middle = len(joined) // 2
            head, tail = joined[:middle], joined[middle:]
        return self._longest(head, tail, max_json_bytes), False

    def _longest(self, head: bytes, tail: bytes, max_json_bytes: int) -> str:
        """As much from both ends as fits, found by halving."""
        fits, too_long = 0, max(len(head), len(tail)) + 1
        while too_long - fits > 1:
            size = (fits + too_long) // 2
            if json_bytes(self._cut(head, tail, size)) <= max_json_bytes:
                fits = size
            else:
                too_long = size
        return self._cut(head, tail, fits)

    def _cut(self, head: bytes, tail: bytes, size: int) -> str:
        first, last = _begun(head[:size]), _ended(tail[len(tail) - min(size, len(tail)) :])
        left_out = self.total - len(first) - len(last)
        marker = f"\n[... {left_out} bytes left out ...]\n"
        return first.decode(errors="replace") + marker + last.decode(errors="replace")


def _begun(data: bytes) -> bytes:
    """Without a character that is cut at the end."""
    for length in range(1, min(3, len(data)) + 1):
        last = data[-length]
        if last >= 0xC0:
            needed = 2 if last < 0xE0 else 3 if last < 0xF0 else 4
            return data[:-length] if needed > length else data
        if last < 0x80:
            break
    return data


def _ended(data: bytes) -> bytes:
    """Without a character that is cut at the beginning."""
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] < 0xC0:
        start += 1
    return data[start:]
