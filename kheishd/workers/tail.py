"""The end of a text that may go on without end."""

from collections import deque

TAIL_CHARACTERS_MAX = 4_000


class Tail:
    """Keeps the last ``characters_max`` characters of what is added."""

    def __init__(self, characters_max: int = TAIL_CHARACTERS_MAX) -> None:
        self._max = characters_max
        self._pieces: deque[str] = deque()
        self._length = 0

    def add(self, text: str) -> None:
        """Add to the text."""
        text = text[-self._max :]
        self._pieces.append(text)
        self._length += len(text)
        while self._length - len(self._pieces[0]) >= self._max:
            self._length -= len(self._pieces.popleft())

    def text(self) -> str:
        """The end of it."""
        return "".join(self._pieces)[-self._max :]
