"""Events about tasks: part of the journal's union, each about one task, and each with the least there is."""

from typing import get_args

from protocol.envelope import Envelope
from protocol.events import EVENT_TYPES, decode_event, encode_line
from protocol.objects.task import ShellCommand, ShellEnding, TaskEnding
from protocol.tasks import TaskCreated, TaskEnded, TaskEvent, TaskUpdated

ENVELOPE = Envelope(cursor=9, at_ms=1)


def test_each_is_in_the_union_and_names_its_task() -> None:
    """So a record can be folded from them."""
    for event in get_args(TaskEvent):
        assert event.__struct_config__.tag in EVENT_TYPES
        assert event.__struct_fields__[0] == "task_id"


def test_every_end_is_read_back() -> None:
    """As what it was written as."""
    for status in get_args(TaskEnding):
        for reason in get_args(ShellEnding):
            event = TaskEnded(task_id="t", status=status, terminal_reason=reason)
            assert decode_event(encode_line(ENVELOPE, event)) == event


def test_absent_is_not_null() -> None:
    """A journal line says what changed, and nothing of what did not."""
    line = encode_line(ENVELOPE, TaskUpdated(task_id="t", owner=None))
    assert line.endswith(b'"type":"task_updated","task_id":"t","owner":null}')
    assert decode_event(line) == TaskUpdated(task_id="t", owner=None)


def test_a_shell_is_created_with_its_command() -> None:
    """And where it is to run."""
    shell = ShellCommand(command="make", workdir="/w/x", workspace="/w", sandboxed=True)
    created = TaskCreated(task_id="t", title="make", kind="shell", shell=shell)
    assert decode_event(encode_line(ENVELOPE, created)) == created
