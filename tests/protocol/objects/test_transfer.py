"""An export's lines and an import's, as they cross the wire."""

import msgspec
import pytest

from protocol.limits.session import MAX_IMPORT_LINES
from protocol.objects.session import EXPORT, IMPORT
from protocol.objects.transfer import SessionExport, SessionImport


def test_what_is_exported_can_be_imported() -> None:
    """The lines of the one are the lines of the other."""
    page = SessionExport(session_id="ses_1", lines=['{"hash":"00","event":{}}'], next=None)
    shown = msgspec.json.decode(msgspec.json.encode(page))
    assert msgspec.convert({"lines": shown["lines"]}, SessionImport).lines == page.lines
    assert (EXPORT.result, IMPORT.params) == (SessionExport, SessionImport)


@pytest.mark.parametrize("count", [0, MAX_IMPORT_LINES + 1])
def test_an_import_has_lines_and_not_too_many(count: int) -> None:
    """Neither none nor more than one transaction takes."""
    with pytest.raises(msgspec.ValidationError, match="lines"):
        msgspec.convert({"lines": ["x"] * count}, SessionImport)
