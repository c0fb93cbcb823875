"""The stored record of a run beside its public form."""

from kheishd.core.run.record import RunRecord
from protocol.objects.run import Run


def test_the_public_run_shows_every_field_of_the_record() -> None:
    """The record lacks only the pinned values, which have a table of their own; two fields are private."""
    private = {"empty_answers", "awaited"}
    assert {*Run.__struct_fields__} == {*RunRecord.__struct_fields__, "pinned"} - private
