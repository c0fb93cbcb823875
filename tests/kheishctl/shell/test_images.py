"""Tests of the detection of images."""

from pathlib import Path

import pytest

from kheishctl.shell.images import find_image


@pytest.mark.parametrize("form", ["{}", " '{}' ", '"{}"', "file://{}"])
def test_image(tmp_path: Path, form: str) -> None:
    """A line that is the path of an image, as terminals type it, is found."""
    image = tmp_path / "a shot.PNG"
    image.touch()
    assert find_image(form.format(image)) == str(image)
    assert find_image(str(image).replace(" ", "\\ ")) == str(image)
    assert find_image(f"file://{str(image).replace(' ', '%20')}") == str(image)


def test_other_lines(tmp_path: Path) -> None:
    """A path within a message, a missing file, and a file of another kind are messages."""
    for name in ("shot.png", "notes.txt"):
        (tmp_path / name).touch()
    for line in (
        f"look at {tmp_path}/shot.png",
        f"{tmp_path}/no.png",
        f"{tmp_path}/notes.txt",
        ".png",
        "a\nb.png",
    ):
        assert find_image(line) == ""
    assert find_image("\0.png") == ""
