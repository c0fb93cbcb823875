"""The lines of exports and imports."""

import msgspec
import pytest

from protocol.limits.session import MAX_IMPORT_LINES
from protocol.objects.session import EXPORT, IMPORT
from protocol.objects.transfer import SessionExport, SessionImport


def test_what_is_exported_can_be_imported() -> None:
    """The lines of an export are valid for an import."""
    page = SessionExport(session_id="ses_1", lines=['{"hash":"00","event":{}}'], next=None)
    shown = msgspec.json.decode(msgspec.json.encode(page))
    assert msgspec.convert({"lines": shown["lines"]}, SessionImport).lines == page.lines
    assert (EXPORT.result, IMPORT.params) == (SessionExport, SessionImport)


@pytest.mark.parametrize("count", [0, MAX_IMPORT_LINES + 1])
def test_an_import_has_lines_and_not_too_many(count: int) -> None:
    """An import has at least one line and at most as many as fit one transaction."""
    with pytest.raises(msgspec.ValidationError, match="lines"):
        msgspec.convert({"lines": ["x"] * count}, SessionImport)
