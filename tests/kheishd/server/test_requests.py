"""Open requests and batches."""

import msgspec
import pytest
import trio

from kheishd.server.requests import BatchReply, OpenRequest
from protocol.errors.rpc import Overloaded
from protocol.errors.run import RunNotFound
from protocol.limits.rpc import MAX_LINE_BYTES


class Job:
    """An update that is queued or running."""

    def __init__(self, queued: bool) -> None:
        self.queued = queued

    def cancel(self) -> bool:
        return self.queued


class Desk:
    """A recorder of answers and closed requests."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.closed: list[OpenRequest] = []

    def open(self, *, waits: bool = False) -> OpenRequest:
        return OpenRequest(b"7", self.answers.append, self.closed.append, waits=waits)

    def reasons(self) -> list[str]:
        return [msgspec.json.decode(answer)["error"]["data"]["reason"] for answer in self.answers]


def test_an_answer_closes_the_request_first() -> None:
    """A request is closed before its answer is sent."""
    desk = Desk()
    opened = desk.open()
    opened.finish(b"done")
    assert desk.answers == [b"done"]
    assert desk.closed == [opened]


def test_a_refusal_is_an_answer_with_the_request_s_id() -> None:
    """A refusal is sent with the request's id and its reason."""
    desk = Desk()
    desk.open().refuse(RunNotFound())
    assert msgspec.json.decode(desk.answers[0])["id"] == 7
    assert desk.reasons() == ["run_not_found"]


def test_what_is_queued_can_be_taken_back() -> None:
    """A queued request is answered at once when it is cancelled."""
    desk = Desk()
    opened = desk.open()
    opened.job = Job(queued=True)
    opened.cancel()
    assert desk.reasons() == ["request_cancelled"]


def test_what_runs_cannot() -> None:
    """A running request is answered by its result and no longer waits."""
    desk = Desk()
    opened = desk.open()
    opened.job = Job(queued=False)
    opened.cancel()
    assert desk.answers == []
    assert opened.refusal is not None


def test_who_waits_is_woken() -> None:
    """Cancelling a waiting request wakes its task, which answers with the refusal."""
    opened = Desk().open(waits=True)
    opened.scope = trio.CancelScope()
    refusal = RunNotFound()
    opened.cancel(refusal)
    assert opened.scope.cancel_called
    assert opened.refusal is refusal


def test_leaving_takes_nothing_back() -> None:
    """A disconnect ends waits and keeps queued transactions."""
    desk = Desk()
    queued, waiting = desk.open(), desk.open(waits=True)
    queued.job = Job(queued=True)
    waiting.scope = trio.CancelScope()
    queued.abandon()
    waiting.abandon()
    assert desk.answers == []
    assert waiting.scope.cancel_called


def test_a_batch_answers_once_all_are_there() -> None:
    """A batch is answered in one array when all its answers are ready."""
    answers: list[bytes] = []
    gathering = BatchReply(answers.append)
    for _ in range(3):
        gathering.expect()
    gathering.add(b"1")
    gathering.add(None)
    gathering.add(None)
    assert answers == []
    gathering.add(b"2")
    assert answers == [b"[1,2]"]


def test_a_batch_without_answers_sends_nothing() -> None:
    """A batch without answers sends nothing."""
    answers: list[bytes] = []
    BatchReply(answers.append).add(None)
    assert answers == []


def test_a_batch_of_long_answers_is_cut_short() -> None:
    """Requests of a batch are refused once its answers fill a message."""
    gathering = BatchReply(lambda answer: None)
    gathering.expect()
    gathering.require_capacity()
    gathering.add(b" " * MAX_LINE_BYTES)
    with pytest.raises(Overloaded):
        gathering.require_capacity()
