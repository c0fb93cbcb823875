"""The daemon with a small address space for its store: valgrind cannot map a tebibyte."""

import sys
from functools import partial
from typing import Any

import lmdb

from kheishd.__main__ import main

MAP_BYTES = 1 << 32


def open_small(original: Any, *arguments: Any, **options: Any) -> Any:
    """Open an LMDB environment of at most 4 GiB."""
    options["map_size"] = min(options.get("map_size", MAP_BYTES), MAP_BYTES)
    return original(*arguments, **options)


if __name__ == "__main__":
    setattr(lmdb, "open", partial(open_small, lmdb.open))  # noqa: B010 - mypy takes the function for a class.
    sys.exit(main())
