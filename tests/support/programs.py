"""The paths and the environment of the installed programs."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program under test, without variables that change its paths."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KHEISH_", "PYTHON"))}
    return {**own, **more}
