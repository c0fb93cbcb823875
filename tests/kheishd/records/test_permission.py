"""The record of the rules of the whole daemon."""

from kheishd.records.permission import PERMISSION_RECORDS
from protocol.events.permission import PermissionsChanged
from protocol.objects.permission import Rule, RuleRef
from tests.support.records import fold_record

ALLOW, DENY = Rule(tool="bash", decision="allow"), Rule(tool="web*", decision="deny")


def test_it_holds_the_rules_of_all_changes() -> None:
    """The record holds the rules after all changes, and the cursor of the last one."""
    record = fold_record(
        PERMISSION_RECORDS,
        PermissionsChanged(add=[ALLOW]),
        PermissionsChanged(add=[DENY], remove=[RuleRef(tool="bash")]),
    )
    assert (record.rules, record.updated_cursor) == ([DENY], 2)
    assert not PERMISSION_RECORDS.final(record)
