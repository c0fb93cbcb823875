"""The key of the home: private, made once, and refused if it is not a key."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from kheishd.signing import SigningKey
from protocol.errors.session import ExportKeyUnusable
from protocol.export import ExportEnd, has_valid_signature

if TYPE_CHECKING:
    from pathlib import Path

END = ExportEnd(session_id="s", lines=1, cursor=2, hash="00", epoch="e", exported_at_ms=3)


def test_the_key_is_made_once(tmp_path: Path) -> None:
    """The first use makes a private file; later uses read it."""
    path = tmp_path / "export.key"
    public = SigningKey(path).public()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["export.key"]
    signed = SigningKey(path).sign(END)
    assert signed.signature is not None
    assert (signed.signature.key, has_valid_signature(signed)) == (public, True)


def test_each_home_has_its_own_key(tmp_path: Path) -> None:
    """Two homes have two keys."""
    assert SigningKey(tmp_path / "a").public() != SigningKey(tmp_path / "b").public()


@pytest.mark.parametrize("content", [b"", b"no key", b"AAAA\n", b"\xff" * 10])
def test_a_file_that_is_no_key_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """Unreadable content is refused and left as it is."""
    path = tmp_path / "export.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ExportKeyUnusable, match="is no key"):
        SigningKey(path).sign(END)
    assert path.read_bytes() == content


def test_an_open_key_is_refused(tmp_path: Path) -> None:
    """A key that others could read or replace signs nothing; so does a link."""
    path = tmp_path / "export.key"
    SigningKey(path).public()
    path.chmod(0o644)
    with pytest.raises(ExportKeyUnusable, match="open to other users"):
        SigningKey(path).public()
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(ExportKeyUnusable, match="cannot be read"):
        SigningKey(link).public()


def test_a_home_that_is_gone_has_no_key(tmp_path: Path) -> None:
    """A key that cannot be made is a refusal."""
    with pytest.raises(ExportKeyUnusable, match="cannot be read or made"):
        SigningKey(tmp_path / "gone" / "export.key").public()
