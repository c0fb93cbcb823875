"""``kheishctl`` in this process, against a real daemon."""

import json
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from click.testing import CliRunner

from kheishctl import directories
from kheishctl.program import root

_directory: ContextVar[str | None] = ContextVar("directory", default=None)
patch.object(directories, "current_directory", _directory.get).start()


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

    def __call__(
        self, *arguments: str, stdin: str | bytes | None = None, cwd: Path | None = None, **environ: str
    ) -> Done:
        """Run one command to its end, in no directory unless ``cwd`` names one.

        Errors: unexpected exceptions of the command.
        """
        _directory.set(str(cwd) if cwd is not None else None)
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
