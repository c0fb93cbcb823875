"""Rows that declare cron entries or triggers."""

from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import fields

from kheishd.core.cron.file import CRON_FILE
from kheishd.core.subscriptions import SUBSCRIPTION_FILE
from kheishd.core.wake_file import RowError, require_possible
from protocol.objects.cron import CronCreate, CronUpdate
from protocol.objects.trigger import TriggerCreate
from protocol.objects.wake import WakeTarget
from protocol.rpc.method import Mutation


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({"prompt": "x"}, "agent"),
        ({"agent": "a", "session_id": "s", "prompt": "x"}, "agent"),
        ({"session_id": "s", "sender": "u", "prompt": "x"}, "sender"),
        ({"agent": "a"}, "prompt"),
        ({"agent": "a", "prompt": "x", "skill": "s"}, "prompt"),
        ({"agent": "a", "prompt": " "}, "prompt"),
        ({"agent": "a", "prompt": "x", "arguments": "y"}, "arguments"),
    ],
)
def test_a_target_has_one_address_and_one_task(target: Any, field: str) -> None:
    """The error names the field."""
    with pytest.raises(RowError) as caught:
        require_possible(WakeTarget(**target))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("kind", "key", "hint"),
    [
        (CRON_FILE, "zone", "unknown key; write 'timezone'"),
        (CRON_FILE, "session", "unknown key; write 'session_id'"),
        (SUBSCRIPTION_FILE, "pattern", "unknown key; write 'source'"),
        (SUBSCRIPTION_FILE, "coalesce", "unknown key; write 'coalesce_s', in seconds"),
    ],
)
def test_keys_that_people_confuse_have_a_hint(kind: Any, key: str, hint: str) -> None:
    """The warning names the right key."""
    (warning,) = kind.parse(f'[[{kind.table}]]\n{key} = "x"\n', "f.toml").warnings
    assert warning.startswith(f"skipped the {kind.noun} in f.toml:2: {key}: {hint}")


def test_the_properties_of_an_entry_are_the_same_everywhere() -> None:
    """A row, the params of the creation and of an update, and the record have the same ones."""

    def shapes(kind: type[Struct]) -> dict[str, Any]:
        return {field.name: (field.type, field.default) for field in fields(kind)}

    for file, create in ((CRON_FILE, CronCreate), (SUBSCRIPTION_FILE, TriggerCreate)):
        properties = shapes(file.kind)
        assert properties.items() <= shapes(create).items()
        assert {"id"} == shapes(file.row).keys() - properties.keys() - shapes(WakeTarget).keys()
        del properties["target"]
        assert properties.items() <= shapes(file.row).items()
    assert shapes(CRON_FILE.kind).keys() == shapes(CronUpdate).keys() - set(Mutation.__struct_fields__) - {
        "cron_id",
        "revision",
    }
