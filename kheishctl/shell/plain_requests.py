"""Pending requests on plain lines: printed whole, then answered by a word. Pure.

A person may have begun a line before a request appeared, and the terminal does not tell. So only a word
answers a request, and every other line is a message. The words are printed once the request was visible for
a moment; an answer that is entered earlier belongs to no request that the person has read.
"""

from kheishctl.shell.panel import RequestPanel
from kheishctl.shell.pending import Actions, EditInput, PendingRequest, PendingRequests

PLAIN_KEYS = (
    ("Enter", "send; on plain lines, each line is a message"),
    ("!COMMAND", "run a command yourself, in the directory of the conversation"),
    ("//NAME", "send a message that begins with the name of a command"),
    ("Ctrl-C", "discard the line and stop the answer"),
    ("Ctrl-D", "leave, on an empty line; the run continues"),
    ("Ctrl-R", "write the unfinished line again, if the terminal supports it"),
)

APPROVAL_WORDS = "type: allow, allow run, allow session, deny, deny NOTE, or edit"
FREE_WORDS = "type: answer TEXT, or decline"
CHOICE_WORDS = "type: a number, answer TEXT, or decline"
CHOICES_WORDS = "type: numbers such as 1 3, answer TEXT, or decline"

WORDS = ("allow", "deny", "edit", "answer", "decline")

EXTENTS = {"allow": "once", "allow run": "run", "allow session": "session"}


def format_words(request: PendingRequest) -> str:
    """Return the words that answer a request."""
    if not request.is_question:
        return APPROVAL_WORDS
    if not request.options:
        return FREE_WORDS
    return CHOICES_WORDS if request.question.get("multi_select") else CHOICE_WORDS


class RequestLines:
    """The pending requests of a chat as lines, each request once."""

    def __init__(self, pending: PendingRequests, panel: RequestPanel) -> None:
        self._pending = pending
        self._panel = panel
        self._printed: tuple[str, int, bool] | None = None

    def take(self, columns: int, now_s: float) -> str:
        """Return the lines that are due: a new request, and its words once they are effective."""
        request = self._pending.first
        if request is None:
            return ""
        # The line may not be empty, so that no line without a word becomes an answer.
        self._pending.mark_drawn(empty=False)
        previous = self._printed
        current = self._printed = (request.key, request.part, self._pending.is_armed)
        if current == previous:
            return ""
        is_new = previous is None or previous[:2] != current[:2]
        text = self._panel.format_request(request, columns, now_s) if is_new else ""
        return text + (f"{format_words(request)}\n" if self._pending.is_armed else "")

    def read_answer(self, line: str) -> Actions | str | None:
        """Return the actions of a line, or the problem with it; None for a line that is a message."""
        request = self._pending.first
        word, _, rest = " ".join(line.split()).partition(" ")
        if request is None:
            # An answer that comes too late must not reach the agent as a message.
            phrase = f"{word} {rest}".rstrip().lower()
            is_answer = word.lower() in ("deny", "answer") or phrase in (*EXTENTS, "edit", "decline")
            is_late = self._printed is not None and is_answer
            self._printed = None
            return (
                "not accepted: the request above is answered; enter it again to send it" if is_late else None
            )
        if not self._pending.is_armed:
            is_answer = word.lower() in WORDS or word.isdecimal()
            return "not accepted: the request has just appeared; read it first" if is_answer else None
        read = self._read_question if request.is_question else self._read_approval
        return read(request, word.lower(), rest)

    def _read_approval(self, request: PendingRequest, word: str, rest: str) -> Actions | str | None:
        phrase = f"{word} {rest.lower()}".rstrip()
        if phrase in EXTENTS:
            return self._pending.resolve([request], "allow", remember=EXTENTS[phrase])
        if word == "deny":
            return self._pending.resolve([request], "deny", note=rest)
        return (EditInput(request.key),) if phrase == "edit" else None

    def _read_question(self, request: PendingRequest, word: str, rest: str) -> Actions | str | None:
        if word == "answer":
            return self._pending.answer(request, [], rest) if rest else "usage: answer TEXT"
        if word == "decline" and not rest:
            return self._pending.decline(request)
        numbers = f"{word} {rest}".replace(",", " ").split()
        options = [str(option["option_id"]) for option in request.options]
        if not options or not numbers or not all(number.isdecimal() for number in numbers):
            return None
        if not all(1 <= int(number) <= len(options) for number in numbers):
            return f"there are the options 1 to {len(options)}; 'answer TEXT' is an answer of your own"
        selected = list(dict.fromkeys(options[int(number) - 1] for number in numbers))
        if len(selected) > 1 and not request.question.get("multi_select"):
            return "the question takes one number"
        return self._pending.answer(request, selected)
