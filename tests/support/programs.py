"""Where the installed programs are, and what surroundings they are run in."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    """The environment of a program under test: ours without what would change where it looks."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KHEISH_", "PYTHON"))}
    return {**own, **more}
