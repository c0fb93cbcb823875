"""Images that a person drops on the terminal: it types their path."""

import os
from urllib.parse import unquote

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".svg")


def find_image(line: str) -> str:
    """Return the path of the image if the line is nothing but that of an existing one; else empty.

    A path may be quoted, have escaped blanks, or be a ``file:`` URL, as terminals type it.
    """
    text = line.strip()
    if "\n" in text or not text.strip("'\"").lower().endswith(IMAGE_SUFFIXES):
        return ""
    plain = text.strip("'\"")
    url = unquote(plain.removeprefix("file://")) if plain.startswith("file://") else plain
    candidates = (url, url.replace("\\ ", " "))
    return next((path for path in map(os.path.expanduser, candidates) if os.path.isfile(path)), "")
