"""Events of every object: each is in the union, and is read back as it was written."""

from importlib import import_module
from pkgutil import iter_modules
from typing import get_args

import msgspec
import pytest

from protocol import events
from protocol.events.context import CompactionFailed, CompactStrategy, CompactTrigger, ContextCompacted
from protocol.events.output import OutputEmitted
from protocol.events.plan import TodosWritten
from protocol.events.task import TaskCreated, TaskEnded, TaskEvent, TaskUpdated
from protocol.journal.envelope import Envelope, Event
from protocol.journal.line import EVENT_TYPES, JournalEvent, decode_event, encode_line
from protocol.objects.run import RunError
from protocol.objects.session import Todo
from protocol.objects.task import ShellCommand, ShellEnding, TaskEnding

ENVELOPE = Envelope(cursor=9, at_ms=1)


def test_every_declared_event_is_in_the_union() -> None:
    """A journal reader decodes every event that a module declares."""
    for info in iter_modules(events.__path__):
        module = import_module(f"protocol.events.{info.name}")
        declared = {
            value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Event)
        }
        assert declared - {Event} <= set(JournalEvent.__args__), module


def test_every_strategy_and_trigger_is_read_back() -> None:
    """As what it was written as."""
    for strategy in get_args(CompactStrategy):
        for trigger in get_args(CompactTrigger):
            event = ContextCompacted(upto=3, strategy=strategy, trigger=trigger)
            assert decode_event(encode_line(ENVELOPE, event)) == event


def test_a_failure_says_why() -> None:
    """And what it was that failed."""
    failed = CompactionFailed(trigger="auto", error=RunError("empty", "the model said nothing"))
    assert decode_event(encode_line(ENVELOPE, failed)) == failed


@pytest.mark.parametrize("value", [None, False, 0, "", [], {"a": [1.5, None]}])
def test_any_value_is_emitted_as_it_is(value: object) -> None:
    """Null is no value; nothing else is lost."""
    emitted = OutputEmitted(output_id="out_1", text="x", value=value)
    encoded = msgspec.json.encode(emitted)
    assert msgspec.json.decode(encoded, type=OutputEmitted) == emitted
    assert (b'"value"' in encoded) == (value is not None)


def test_a_todo_is_pending_unless_said_otherwise() -> None:
    """What is as usual is left out of the journal."""
    written = TodosWritten(todos=[Todo(todo_id="1", content="look")])
    assert msgspec.json.encode(written) == (
        b'{"type":"todos_written","todos":[{"todo_id":"1","content":"look"}]}'
    )


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
