"""The contract as OpenRPC: valid, complete and true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from protocol.errors.refusal import REFUSALS
from protocol.errors.run import RunNotFound
from protocol.journal.line import EVENT_TYPES
from protocol.objects.journal import NOTIFICATIONS
from protocol.rpc.catalogue import METHODS
from protocol.rpc.method import AnyMethod
from protocol.rpc.openrpc import list_errors, make_document
from tests.support.samples import sample

HERE = Path(__file__).parents[1]
DOCUMENT = make_document(METHODS.values(), "0.1.0")
BY_NAME = {method["name"]: method for method in DOCUMENT["methods"]}


def schema(name: str) -> dict[str, Any]:
    """Return a schema stored beside the tests, validated by the rules of draft 7."""
    found: dict[str, Any] = json.loads((HERE / name).read_text())
    return found | {"$schema": "http://json-schema.org/draft-07/schema#"}


@pytest.fixture(scope="module")
def meta() -> jsonschema_rs.Validator:
    """Return a validator of the OpenRPC meta-schema. Nothing is fetched."""
    inner = schema("json-schema-meta-schema.json")
    names = ("https://meta.json-schema.tools/", "https://meta.json-schema.tools")
    registry = jsonschema_rs.Registry([(name, inner) for name in names])
    return jsonschema_rs.validator_for(schema("openrpc-meta-schema.json"), registry=registry, offline=True)


def test_valid_by_the_meta_schema(meta: jsonschema_rs.Validator) -> None:
    """The document is valid OpenRPC."""
    assert [(error.message, error.instance_path) for error in meta.iter_errors(DOCUMENT)] == []


def test_meta_schema_sees_what_is_wrong(meta: jsonschema_rs.Validator) -> None:
    """The validator finds mistakes at any depth."""
    copy = json.loads(json.dumps(DOCUMENT))
    copy["components"]["schemas"]["Run"]["type"] = 3
    assert not meta.is_valid(copy)
    assert not meta.is_valid(DOCUMENT | {"methods": [{"name": "a"}]})


def test_deterministic() -> None:
    """Equal rows give equal bytes, in any order."""
    other = make_document(reversed(METHODS.values()), "0.1.0")
    assert json.dumps(other) == json.dumps(DOCUMENT)


def test_encodes() -> None:
    """The document is plain JSON and fits one message."""
    assert msgspec.json.decode(msgspec.json.encode(DOCUMENT)) == json.loads(json.dumps(DOCUMENT))
    assert len(msgspec.json.encode(DOCUMENT)) < 1024 * 1024


def references(node: Any) -> Iterator[str]:
    """Yield every reference in a document."""
    if isinstance(node, dict):
        if isinstance(found := node.get("$ref"), str):
            yield found
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_references_resolve() -> None:
    """Every reference resolves, and no name contains a module's path."""
    for reference in references(DOCUMENT):
        kind, name = reference.removeprefix("#/components/").split("/")
        assert name in DOCUMENT["components"][kind], reference
        assert not name.startswith(("protocol.", "kheishd.")), reference


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a document."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from objects(inner)


def test_generators_can_name_every_type() -> None:
    """Names of components are identifiers, equal their titles and differ from the types of methods."""
    methods = {"".join(word.title() for word in name.split(".")) for name in BY_NAME}
    assert "SessionList" in methods
    for name, component in DOCUMENT["components"]["schemas"].items():
        assert name.isidentifier()
        assert component["title"] == name
        assert name not in methods


def test_generators_can_type_every_value() -> None:
    """Enumerations state their type; a reference has no default, which would be a value of another type."""
    nodes = list(objects(DOCUMENT))
    enumerations = [node for node in nodes if isinstance(node.get("enum"), list)]
    assert len(enumerations) > 100
    assert {node["type"] for node in enumerations} <= {"string", "integer", "boolean"}
    assert not [node for node in nodes if "$ref" in node and "default" in node]


def test_components_are_used() -> None:
    """Every component is referenced, except the data of errors."""
    used = set(references(DOCUMENT))
    for kind, components in DOCUMENT["components"].items():
        for name in components:
            assert f"#/components/{kind}/{name}" in used or name == "ErrorData", name


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_every_method_is_described(row: AnyMethod) -> None:
    """A described method has the name, scope, kind, version, params and refusals of its row."""
    method = BY_NAME[row.name]
    assert (method["x-scope"], method["x-kind"], method["x-since"]) == (row.scope, row.kind, row.since)
    assert (method["summary"], method["paramStructure"]) == (row.summary, "by-name")
    assert {param["name"] for param in method["params"]} == set(row.params.__struct_encode_fields__)
    required = [param["required"] for param in method["params"]]
    assert required == sorted(required, reverse=True), "required params come first"
    declared = {reference["$ref"].rsplit("/", 1)[1] for reference in method["errors"]}
    assert {refusal.reason for refusal in row.errors} <= declared <= set(REFUSALS)


def validator(node: dict[str, Any]) -> jsonschema_rs.Validator:
    """Return a validator of a schema inside the document."""
    return jsonschema_rs.validator_for(node | {"components": DOCUMENT["components"]}, offline=True)


@pytest.mark.parametrize("full", [False, True], ids=["least", "full"])
@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_the_description_is_true(row: AnyMethod, full: bool) -> None:
    """Accepted params and sent results match their schemas."""
    method = BY_NAME[row.name]
    params = sample(row.params, full=full)
    for param in method["params"]:
        if param["name"] in params:
            assert validator(param["schema"]).is_valid(params[param["name"]]), param["name"]
    result = msgspec.json.decode(msgspec.json.encode(sample(row.result, full=full)), type=row.result)
    sent = json.loads(msgspec.json.encode(result))
    if row.name == "journal.read":
        sent["events"] = journal_lines()[:5]
    assert [error.message for error in validator(method["result"]["schema"]).iter_errors(sent)] == []


def journal_lines() -> list[Any]:
    """Return the lines of the corpus."""
    return [json.loads(line) for line in (HERE / "corpus/format-2.jsonl").read_bytes().splitlines()]


def test_journal_lines_are_described() -> None:
    """Every line of the corpus matches its schema; so does one of an unknown type."""
    schemas = DOCUMENT["components"]["schemas"]
    line = validator(schemas["JournalLine"])
    for each in journal_lines():
        assert line.is_valid(each), each
        name = "".join(word.title() for word in each["type"].split("_"))
        assert validator(schemas[f"{name}Event"]).is_valid(each), each
    assert line.is_valid({"cursor": 1, "at_ms": 1, "type": "planet_landed"})
    assert not line.is_valid({"at_ms": 1, "type": "run_started", "start": 1})
    listed = [reference["$ref"].rpartition("/")[2] for reference in schemas["JournalLine"]["anyOf"][:-1]]
    assert {schemas[name]["properties"]["type"]["enum"][0] for name in listed} == EVENT_TYPES


def test_notifications_are_described() -> None:
    """Notifications are described."""
    described = {each["name"]: each for each in DOCUMENT["x-notifications"]}
    assert set(described) == set(NOTIFICATIONS)
    for name, struct in NOTIFICATIONS.items():
        names = {param["name"] for param in described[name]["params"]}
        assert names == set(struct.__struct_encode_fields__)
        assert "\n  " not in described[name]["summary"]


def test_errors_of_a_kind() -> None:
    """The refusals of all mutations are listed for every mutation and for no query."""
    cancel = list_errors(METHODS["run.cancel"])
    assert RunNotFound in cancel
    for reason in ("idempotency_conflict", "storage_full", "scope_missing", "invalid_params"):
        assert REFUSALS[reason] in cancel
    assert REFUSALS["idempotency_conflict"] not in list_errors(METHODS["run.get"])
    assert REFUSALS["scope_missing"] not in list_errors(METHODS["rpc.ping"])
    assert REFUSALS["already_shown"] in list_errors(METHODS["token.create"])


def test_an_error_is_described() -> None:
    """A described refusal has its number, message and data."""
    described = DOCUMENT["components"]["errors"]["run_not_found"]
    assert described["code"] == 1404
    assert described["message"] == RunNotFound().message
    assert validator(DOCUMENT["components"]["schemas"]["ErrorData"]).is_valid(described["data"])


def test_only_what_is_served_is_described() -> None:
    """The document describes only the served methods."""
    one = make_document([METHODS["rpc.ping"]], "0.1.0")
    assert [method["name"] for method in one["methods"]] == ["rpc.ping"]
    assert "Session" not in one["components"]["schemas"]


def test_data_of_providers_is_no_part_of_a_history() -> None:
    """Histories are for people: their schema has neither provider data nor signatures."""
    schemas = DOCUMENT["components"]["schemas"]
    seen: set[str] = set()
    pending = ["History"]
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += [reference.rpartition("/")[2] for reference in references(schemas[name])]
    assert "VisibleMessage" in seen
    shown = json.dumps([schemas[name] for name in seen])
    assert "provider_data" not in shown
    assert "signature" not in shown
