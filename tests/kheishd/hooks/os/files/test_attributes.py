"""Attributes of files: read from one file, given to another."""

import os
from pathlib import Path

import pytest

from kheishd.hooks.os.files.attributes import copy_attributes, read_attributes


def read(path: Path) -> tuple[int, int, int, int, dict[str, bytes]]:
    """Return the attributes of a file as a tuple."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        attributes = read_attributes(descriptor, os.fstat(descriptor))
    finally:
        os.close(descriptor)
    return attributes.mode, attributes.owner, attributes.group, attributes.links, attributes.xattrs


def test_all_attributes_are_copied(tmp_path: Path) -> None:
    """A new file gets mode and extended attributes of the old one."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"")
    old.chmod(0o640)
    os.setxattr(old, "user.a", b"1")
    descriptors = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in (old, new)]
    attributes = read_attributes(descriptors[0], os.fstat(descriptors[0]))
    assert copy_attributes(attributes, descriptors[1])
    for descriptor in descriptors:
        os.close(descriptor)
    assert read(new) == read(old)


def test_an_attribute_that_cannot_be_set_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to set one, the copy is incomplete and has no set-user-ID bit."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"")
    old.chmod(0o4755)
    os.setxattr(old, "user.a", b"1")
    descriptors = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in (old, new)]
    attributes = read_attributes(descriptors[0], os.fstat(descriptors[0]))

    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "setxattr", refuse)
    assert not copy_attributes(attributes, descriptors[1])
    for descriptor in descriptors:
        os.close(descriptor)
    assert read(new)[0] == 0o755
