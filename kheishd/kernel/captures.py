"""The interface to debug captures of model calls. Types only: the package ``debug`` implements it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from kheishd.kernel.runtime import ModelEvent, ModelRequest
    from protocol.objects.run import DebugArtifact


class Capture(Protocol):
    """The capture of one model call, entered around the call. Its methods never fail and never wait."""

    def __enter__(self) -> Capture: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def record_request(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Record the request and its headers as sent."""
        ...

    def record_local_request(self) -> None:
        """Record a request that is not sent anywhere."""
        ...

    def record_reply(self, status: int, headers: Mapping[str, str]) -> None:
        """Record the status and the headers of the reply."""
        ...

    def record_body(self, data: bytes) -> None:
        """Record a part of the reply's body."""
        ...

    def record_event(self, event: ModelEvent) -> None:
        """Record an event that the caller receives."""
        ...


class NoCapture:
    """The capture of a call that is not captured."""

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def record_request(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Do nothing."""

    def record_local_request(self) -> None:
        """Do nothing."""

    def record_reply(self, status: int, headers: Mapping[str, str]) -> None:
        """Do nothing."""

    def record_body(self, data: bytes) -> None:
        """Do nothing."""

    def record_event(self, event: ModelEvent) -> None:
        """Do nothing."""


NO_CAPTURE: Final = NoCapture()


class Captures(Protocol):
    """All captures of a daemon."""

    def start(self, request: ModelRequest) -> Capture:
        """Return a new capture of a model call; NO_CAPTURE if its run is not captured."""
        ...

    def collect(self, max_age_s: float, max_bytes: int) -> None:
        """Start to delete old captures, and the oldest while all together exceed ``max_bytes``."""
        ...

    async def list_artifacts(self, run_id: str) -> list[DebugArtifact]:
        """Return the artifacts of a run, oldest first. Errors: DebugNotFound."""
        ...

    async def read_text(
        self, run_id: str, artifact_id: str, offset: int, limit: int
    ) -> tuple[DebugArtifact, str, int | None]:
        """Return an artifact, at most ``limit`` bytes of its text, and the offset of the next part.

        Errors: DebugNotFound, ArtifactNotFound.
        """
        ...
