"""``kheishctl`` in this process, against a real daemon."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from kheishctl.program import root


@dataclass(frozen=True, slots=True)
class Done:
    """The output and the exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document in the output."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The rows of the table in the output."""
        return [line.split("\t") for line in self.out.splitlines()]


class Ctl:
    """A runner of commands on the daemon of one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str, stdin: str | bytes | None = None, **environ: str) -> Done:
        """Run one command to its end. Errors: unexpected exceptions of the command."""
        result = CliRunner(env=environ).invoke(
            root,
            ["--home", str(self.home), *arguments],
            input=stdin,
            prog_name="kheishctl",
            catch_exceptions=False,
        )
        return Done(result.exit_code, result.stdout, result.stderr)

    def json(self, *arguments: str, stdin: str | None = None) -> Any:
        """Return the JSON result of a successful command."""
        done = self(*arguments, "--json", stdin=stdin)
        assert done.code == 0, done.out + done.err
        return done.json
