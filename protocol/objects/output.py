"""An output: the result of a run. The last output of a completed run is final.

A run emits outputs by a tool call (``emit_output``); without one, the text of its last answer is its output.
Under an output contract, that text is the JSON which matches the contract.
"""

from typing import Any, Literal

from msgspec import Struct

from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.ids import Cursor, Id
from protocol.rpc.method import Method, Page

OutputKind = Literal["assistant_text", "emit_output", "structured_output"]
"""``structured_output``: JSON under an output contract, with ``text`` its encoding and ``value`` its value.
"""


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
    """Params of ``output.list``: outputs of one run, or of all runs of a session."""

    run_id: Id | None = None
    session_id: Id | None = None


LIST = Method(
    "output.list",
    "query",
    OutputListParams,
    OutputList,
    "List the outputs of a run, or of every run of a session, oldest first.",
    errors=(RunNotFound, SessionNotFound),
)

METHODS = (LIST,)
