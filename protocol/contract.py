"""Contracts: the JSON Schema of a session's input or of a run's output.

A schema is stored once, by its SHA-256; records hold the digest.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.limits.output import DEFAULT_REPAIRS, MAX_REPAIRS, MAX_REQUIRED_PATH_BYTES

Schema = Annotated[
    dict[str, Any],
    Meta(
        description="JSON Schema of type, properties, required, additionalProperties (false), items, "
        "description; at the root also $schema and title."
    ),
]
FollowUp = Literal["output_contract", "completion", "length", "pause"]
"""The reason for another model call after an answer: the answer violates the output contract, a completion
requirement is open, the answer was truncated at its length limit, or the provider paused the turn.
"""


class InputContract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A contract of a session's input: one JSON value that matches a schema."""

    schema: Schema


class OutputContract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A contract of a run's output: one JSON value that matches a schema.

    ``max_repairs`` is the number of times the model may correct an answer that violates it.
    """

    schema: Schema
    max_repairs: Annotated[int, Meta(ge=0, le=MAX_REPAIRS)] = DEFAULT_REPAIRS


class BoundContract(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An output contract as stored: ``digest`` is the SHA-256 of its schema, in hex."""

    digest: str
    max_repairs: int = DEFAULT_REPAIRS


class Requirement(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A completion requirement of a run: it has written the file ``path``, or any file if that is null."""

    type: Literal["workspace_file"]
    path: Annotated[str, Meta(min_length=1, max_length=MAX_REQUIRED_PATH_BYTES)] | None = None
