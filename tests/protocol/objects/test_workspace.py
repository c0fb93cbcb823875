"""Trusted roots on the wire."""

import msgspec
import pytest

from protocol.limits.names import MAX_PATH_BYTES
from protocol.objects.workspace import TrustedRoot, WorkspaceTrust


def test_a_configured_root_has_no_author() -> None:
    """Only the fields that a root has are sent."""
    root = TrustedRoot(root="/srv/shop", source="config")
    assert msgspec.json.encode(root) == b'{"root":"/srv/shop","source":"config"}'


@pytest.mark.parametrize("params", [{}, {"root": ""}, {"root": 7}, {"root": "/" * (MAX_PATH_BYTES + 1)}])
def test_params_name_a_root(params: object) -> None:
    """A root is a path of limited length."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(params, WorkspaceTrust)
