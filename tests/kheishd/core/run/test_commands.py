"""Commands are immutable values, and each of them occurs."""

from typing import get_args

import pytest
from msgspec.structs import replace

from kheishd.core.run.commands import Command
from tests.support.machine import all_transitions

KINDS: tuple[type[Command], ...] = get_args(Command)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_command_is_a_value(kind: type[Command]) -> None:
    """A command cannot be changed, has a docstring, and occurs in the life of a run."""
    command = next(
        transition.command for transition in all_transitions() if isinstance(transition.command, kind)
    )
    assert kind.__doc__
    assert command == replace(command)
    for name in kind.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(command, name, None)
