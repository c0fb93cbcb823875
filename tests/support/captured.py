"""Debug captures of model calls against a model server."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from msgspec.structs import replace

from kheishd.core.text.scrub import Scrubber
from kheishd.debug.captures import CaptureService
from kheishd.debug.files import CaptureFiles, CaptureLimits
from kheishd.kernel.runtime import ModelRequest
from kheishd.providers.caller import ProviderCaller
from tests.support.model_calls import RecordedCall, ask, inline, make_request
from tests.support.model_server import ModelServer

SECRET = "sk-canary-0123456789"
LONG = "What a long sentence this is, to be sure."
STEM = "turn-0001-attempt-0001"


class CapturedModels:
    """A model caller whose calls are captured, and the resulting artifacts."""

    def __init__(self, directory: Path, server: ModelServer, limits: CaptureLimits | None = None) -> None:
        self.directory = directory
        self.server = server
        self.captures = CaptureService(CaptureFiles(directory, limits))
        self.models = ProviderCaller(
            environ={"KEY": SECRET},
            in_thread=inline,
            learned=lambda secret: self.captures.scrub(Scrubber([secret])),
            captures=self.captures,
        )

    def request(
        self, model: str, *, driver: str = "openai", content: str = LONG, **pinned: Any
    ) -> ModelRequest:
        """Return a request of a captured run."""
        fields = {"debug": "full", "base_url": self.server.base_url, "auth_ref": "env:KEY"} | pinned
        request = make_request(content, driver=driver, model=model, **fields)
        return replace(request, run_id="run_1", turn=1, attempt=1)

    async def ask(self, model: str, **changes: Any) -> RecordedCall:
        """Ask a model; when this returns, all artifacts are written."""
        call = await ask(self.models, self.request(model, **changes))
        await self.captures.queue.flush()
        return call

    def read(self, ending: str, stem: str = STEM) -> str:
        """Return the content of an artifact."""
        return (self.directory / "run_1" / f"{stem}-{ending}").read_text()

    def document(self, kind: str, stem: str = STEM) -> Any:
        """Return a decoded request or answer."""
        return json.loads(self.read(f"{kind}.json", stem))

    def events(self) -> list[Any]:
        """Return the decoded events."""
        return [json.loads(line) for line in self.read("events.jsonl").splitlines()]

    def read_all(self) -> str:
        """Return the names and the contents of all files."""
        paths = sorted(self.directory.rglob("*"))
        return "\n".join(f"{path}\n{path.read_text() if path.is_file() else ''}" for path in paths)


@asynccontextmanager
async def captured_models(
    directory: Path, server: ModelServer, limits: CaptureLimits | None = None
) -> AsyncIterator[CapturedModels]:
    """Provide a model caller whose calls are captured."""
    captured = CapturedModels(directory / "debug", server, limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(captured.captures.serve)
        yield captured
        await captured.models.aclose()
        nursery.cancel_scope.cancel()
