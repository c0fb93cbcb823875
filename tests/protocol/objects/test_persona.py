"""Personas on the wire."""

from typing import Any

import msgspec
import pytest

from protocol.limits.persona import MAX_DEFAULT_SKILLS, MAX_SOUL_BYTES
from protocol.objects.persona import PersonaCreate, PersonaImport, PersonaUpdate


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (PersonaCreate, {"display_name": "", "soul": "x"}),
        (PersonaCreate, {"display_name": "x", "soul": "x" * (MAX_SOUL_BYTES + 1)}),
        (PersonaCreate, {"display_name": "x", "soul": "x", "persona_id": "../x"}),
        (PersonaCreate, {"display_name": "x", "soul": "x", "scope": {"tool": []}}),
        (
            PersonaCreate,
            {"display_name": "x", "soul": "x", "default_skills": ["s"] * (MAX_DEFAULT_SKILLS + 1)},
        ),
        (PersonaImport, {"content": "x", "filename": ""}),
        (PersonaUpdate, {"persona_id": "x", "display_name": None}),
    ],
)
def test_bad_params_are_refused(kind: type[Any], params: dict[str, Any]) -> None:
    """Names, ids, scopes and lengths are checked when params are decoded."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(params, kind)
