"""Costly modules are imported where they are used, so programs start fast."""

import subprocess
import sys

import pytest

from tests.house.sources import ROOT


def loaded(module: str, packages: tuple[str, ...]) -> str:
    """Return the packages that importing a module loads, in an interpreter of its own."""
    program = f"import sys, {module}; print(*(name for name in {packages!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("kheishctl.commands.send", ("msgspec", "dataclasses", "asyncio", "subprocess", "ssl")),
        ("kheishctl.program", ("trio", "httpcore2", "prompt_toolkit", "rich", "asyncio", "lmdb", "kheishd")),
        (
            "kheishd.__main__",
            (
                "httpcore2",
                "trio_websocket",
                "rich",
                "prompt_toolkit",
                "yaml",
                "asyncio",
                "jsonschema_rs",
                "tree_sitter",
                "tree_sitter_bash",
                "kheishctl",
            ),
        ),
        ("kheishd.providers.http", ("httpcore2", "h11", "anyio", "asyncio")),
        ("kheishd.hooks.web.tools", ("httpcore2", "h11", "asyncio")),
        ("protocol.rpc.catalogue", ("trio", "socket", "asyncio", "lmdb", "click")),
    ],
)
def test_start_imports_little(module: str, packages: tuple[str, ...]) -> None:
    """Importing a program does not import packages that only some of its uses need."""
    assert loaded(module, packages) == "", f"{module} imports these at once"
