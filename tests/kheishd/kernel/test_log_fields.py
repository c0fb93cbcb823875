"""The fields of log lines: the run, its call, and the chain of runs up to the first request."""

from msgspec.structs import replace

from kheishd.kernel.log_fields import LogScope, current_log_fields, set_log_scope
from kheishd.kernel.state import State
from kheishd.records.writer import Origin, SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import AGENTS
from kheishd.store.writer import Store
from protocol.events.run import InputReceived, RunAccepted
from protocol.events.session import SessionCreated
from protocol.transcript import Text
from tests.support.histories import PINNED, rich_history, session_with_runs, update


def add_root(store: Store) -> None:
    """Add a session whose run was accepted for the request 'deploy-7'."""

    def add(tx: Transaction) -> None:
        writer = SessionWriter(tx, "ses_root", session=None, origin=Origin("uid:1", None, "deploy-7"))
        writer.append(SessionCreated(agent="default", sender="anna"))
        writer.begin_run("run_root")
        writer.append(InputReceived(input_id="inp_1", items=[Text("hello")]))
        writer.append(RunAccepted(input_id="inp_1", agent="default", pinned=PINNED, sender="anna"))
        writer.write()

    update(store, add)


async def test_a_line_names_its_run_and_the_request(store: Store) -> None:
    """A run has the id of the request that it was accepted for."""
    add_root(store)
    state = State(store, lambda: 7)
    assert LogScope(state, "run_root", "ses_root", "call_1").read_fields() == {
        "run_id": "run_root",
        "session_id": "ses_root",
        "call_id": "call_1",
        "request_id": "deploy-7",
    }


async def test_a_child_names_its_parent_and_the_first_request(store: Store) -> None:
    """The run of a spawned agent has the run that spawned it, and the request above that."""
    rich_history(store)
    add_root(store)
    session_with_runs(store, "ses_child", "running")
    with store.read() as snapshot:
        agent = next(agent for _, agent in snapshot.scan(AGENTS))
    child = replace(agent, agent_id="ses_child", spawned_by_run_id="run_root")
    update(store, lambda tx: tx.put(AGENTS, "ses_child", value=child))
    fields = LogScope(State(store, lambda: 7), "run_ses_child_0", "ses_child").read_fields()
    assert (fields["parent_run_id"], fields["request_id"]) == ("run_root", "deploy-7")


async def test_a_task_without_a_scope_has_no_fields(store: Store) -> None:
    """A scope that cannot be read still names its run."""
    assert current_log_fields() == {}
    set_log_scope(LogScope(State(store, lambda: 7), "run_gone", "ses_gone"))
    assert current_log_fields() == {"run_id": "run_gone", "session_id": "ses_gone"}
