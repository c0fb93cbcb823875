"""Events of what a run gives and its agent plans."""

import msgspec
import pytest

from protocol import events, given
from protocol.envelope import Event
from protocol.given import OutputEmitted, TodosWritten
from protocol.objects.session import Todo


def test_all_are_in_the_union() -> None:
    """Whoever reads the journal finds them where all events are."""
    declared = {each for each in vars(given).values() if isinstance(each, type) and issubclass(each, Event)}
    assert declared - {Event} <= set(events.JournalEvent.__args__)


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
