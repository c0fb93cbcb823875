"""The AGENTS.md files of a workspace: their order, their limits, and what is not read."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.agents_files import PREAMBLE, find_places, read_files
from protocol.limits.workspace import MAX_AGENTS_BYTES, MAX_AGENTS_FILES
from protocol.objects.workspace import AgentsFile


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Provide a home and a trusted root with a workspace two levels down, each with a file."""
    shop = tmp_path.resolve() / "shop"
    (shop / "api" / "v1").mkdir(parents=True)
    (shop.parent / "home").mkdir()
    for directory, text in (("home", "global"), ("shop", "shop"), ("shop/api/v1", "v1")):
        (shop.parent / directory / "AGENTS.md").write_text(text)
    return shop


def read(shop: Path, *names: str) -> tuple[str, list[AgentsFile]]:
    """Read the files of a workspace below the root."""
    directories = [str(shop)]
    for name in names:
        directories.insert(0, f"{directories[0]}/{name}")
    return read_files(find_places(str(shop.parent / "home"), directories))


def test_deeper_files_come_later(shop: Path) -> None:
    """The global file is first, and directories without a file are left out."""
    (shop.parent / "AGENTS.md").write_text("above the root")
    text, files = read(shop, "api", "v1")
    assert text == "\n\n".join(
        (
            PREAMBLE,
            f"# {shop.parent}/home/AGENTS.md\n\nglobal",
            f"# {shop}/AGENTS.md\n\nshop",
            f"# {shop}/api/v1/AGENTS.md\n\nv1",
        )
    )
    assert files[-1] == AgentsFile(
        path=f"{shop}/api/v1/AGENTS.md", bytes=2, read_bytes=2, sha256=sha256(b"v1").hexdigest()
    )


def test_only_the_global_file_counts_without_a_trusted_root(shop: Path) -> None:
    """Nothing of the workspace is looked at."""
    text, files = read_files(find_places(str(shop.parent / "home"), []))
    assert [file.path for file in files] == [f"{shop.parent}/home/AGENTS.md"]
    assert "shop\n" not in text


def test_no_file_and_empty_files_have_no_text(shop: Path) -> None:
    """Then the instructions have no section."""
    assert read_files([]) == ("", [])
    (shop.parent / "home" / "AGENTS.md").unlink()
    (shop / "AGENTS.md").write_text(" \n")
    text, files = read(shop)
    assert (text, files[0].read_bytes) == ("", 2)


def test_a_huge_file_is_cut_visibly(shop: Path) -> None:
    """Of 10 MB only the limit is read; what comes later is left out, too, and both say so."""
    with (shop / "AGENTS.md").open("w") as file:
        file.write("é" * 5_000_000)
    text, (first, huge, last) = read(shop, "api", "v1")
    assert (huge.bytes, huge.cut, huge.read_bytes) == (10_000_000, True, MAX_AGENTS_BYTES - len("global"))
    assert (first.cut, last.cut, last.read_bytes) == (False, True, 0)
    assert f"[The rest of {shop}/AGENTS.md is left out" in text
    assert f"[The rest of {shop}/api/v1/AGENTS.md is left out" in text
    assert "�" not in text
    assert len(text.encode()) < MAX_AGENTS_BYTES + 2_000


def test_replacement_characters_count(shop: Path) -> None:
    """A file of bytes that are no text is cut by the size of what the model reads."""
    (shop / "AGENTS.md").write_bytes(b"\xff" * 60_000)
    text, files = read(shop)
    assert files[1].cut
    assert len(text.encode()) < MAX_AGENTS_BYTES + 1_000


def test_text_is_cleaned(shop: Path) -> None:
    """A byte order mark goes; NUL and invalid bytes become replacement characters."""
    (shop / "AGENTS.md").write_bytes(b"\xef\xbb\xbfone\r\ntwo\x00\xfe")
    text, _ = read(shop)
    assert text.endswith("one\ntwo��")


def test_a_link_within_the_root_is_followed(shop: Path) -> None:
    """Its target may have any name and lie anywhere below the root."""
    (shop / "docs").mkdir()
    (shop / "docs" / "rules.md").write_text("linked")
    (shop / "api" / "AGENTS.md").symlink_to("../docs/rules.md")
    text, _ = read(shop, "api")
    assert text.endswith("AGENTS.md\n\nlinked")


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "api/../../secret", "gone", "AGENTS.md"])
def test_a_link_out_of_the_root_is_not_read(shop: Path, target: str) -> None:
    """Neither is one to nothing or to itself; the others are read."""
    (shop.parent / "secret").write_text("secret")
    (shop / "AGENTS.md").unlink()
    (shop / "AGENTS.md").symlink_to(target)
    text, files = read(shop, "api", "v1")
    assert files[1].problem
    assert (files[1].sha256, files[1].read_bytes) == (None, 0)
    assert "secret" not in text
    assert text.endswith("v1")


def test_a_linked_directory_is_not_entered(shop: Path) -> None:
    """A directory that became a link after the workspace was resolved leads nowhere."""
    (shop.parent / "other").mkdir()
    (shop.parent / "other" / "AGENTS.md").write_text("other")
    (shop / "lib").symlink_to("../other")
    text, files = read(shop, "lib")
    assert files[-1].problem
    assert "other\n" not in text


def test_only_regular_files_are_read(shop: Path) -> None:
    """A FIFO, a directory and a file without the right to read are named, and nothing waits."""
    (shop / "AGENTS.md").unlink()
    os.mkfifo(shop / "AGENTS.md")
    (shop / "api" / "AGENTS.md").mkdir()
    (shop / "api" / "v1" / "AGENTS.md").unlink()
    (shop / "api" / "v1" / "AGENTS.md").symlink_to("/dev/zero")
    text, files = read(shop, "api", "v1")
    assert [bool(file.problem) for file in files] == [False, True, True, True]
    assert files[1].problem == "it is no regular file"
    assert text.endswith("global")


def test_the_number_of_files_is_limited(shop: Path) -> None:
    """The deepest directories count."""
    names = [f"d{number}" for number in range(MAX_AGENTS_FILES + 3)]
    directory = shop
    for name in names:
        directory /= name
        directory.mkdir()
        (directory / "AGENTS.md").write_text(name)
    _, files = read(shop, *names)
    assert len(files) == MAX_AGENTS_FILES
    assert files[0].path.endswith("home/AGENTS.md")
    assert files[-1].path.endswith(f"{names[-1]}/AGENTS.md")


def test_a_secret_at_the_cut(shop: Path) -> None:
    """Of a file that is cut, no part of a secret is left."""
    secret = "sk-" + "0123456789" * 5
    room = MAX_AGENTS_BYTES - len("global")
    (shop / "AGENTS.md").write_text("x" * (room - 20) + secret + "y")
    places = find_places(str(shop.parent / "home"), [str(shop)])
    text, _ = read_files(places, Scrubber([secret]).scrub_cut)
    assert "012" not in text
    assert "The rest of" in text
