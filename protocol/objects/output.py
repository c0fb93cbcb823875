"""An output: what a run gives whoever asked for it. Of a completed run the last one is final.

A run may give outputs by a tool (``emit_output``), of which the last counts; one that gives none gives the
text of its last answer. Where a run is bound to an output contract that text is the JSON it agreed to.
"""

from typing import Any, Literal

from msgspec import Struct

from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.ids import Cursor, Id
from protocol.rpc.method import Method, Page

OutputKind = Literal["assistant_text", "emit_output", "structured_output"]
"""``structured_output``: JSON that a contract bound the run to; ``text`` is it, ``value`` what it says."""


class Output(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output. ``final``: its run completed with it. ``created_cursor`` is its position in the journal."""

    output_id: str
    run_id: str
    session_id: str
    source_kind: OutputKind
    text: str
    at_ms: int
    created_cursor: Cursor
    value: Any = None
    final: bool = False


class OutputList(Struct, frozen=True):
    """A page of outputs."""

    outputs: list[Output]
    next: str | None


class OutputListParams(Page, frozen=True, kw_only=True):
    """Params of ``output.list``: of one run, or of all runs of a session."""

    run_id: Id | None = None
    session_id: Id | None = None


LIST = Method(
    "output.list",
    "query",
    OutputListParams,
    OutputList,
    "List what a run, or every run of a session, gave; oldest first.",
    errors=(RunNotFound, SessionNotFound),
)

METHODS = (LIST,)
