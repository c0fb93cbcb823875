"""Contracts: what must be said to a session, and what a run must give, as JSON Schema in a small subset.

A schema is kept once, by its SHA-256; what is bound to it holds the digest.
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
FollowUp = Literal["output_contract", "completion", "length"]
"""Why a model is asked again though it had answered: the answer does not fit, something is still to be done,
or the answer was cut at its length limit."""


class InputContract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What everything said to a session must be: one JSON value that fits a schema."""

    schema: Schema


class OutputContract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run must give: one JSON value that fits a schema. ``max_repairs``: how often it may mend it."""

    schema: Schema
    max_repairs: Annotated[int, Meta(ge=0, le=MAX_REPAIRS)] = DEFAULT_REPAIRS


class BoundContract(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An output contract as it is kept: ``digest`` is the SHA-256 of its schema, in hex."""

    digest: str
    max_repairs: int = DEFAULT_REPAIRS


class Requirement(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a run must have done before it is complete: written a file, this one if ``path`` is given."""

    type: Literal["workspace_file"]
    path: Annotated[str, Meta(min_length=1, max_length=MAX_REQUIRED_PATH_BYTES)] | None = None
