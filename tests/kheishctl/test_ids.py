"""Abbreviated ids."""

import sys

import pytest

from kheishctl import exit_codes
from kheishctl.ids import CHOSEN, SEARCHES
from kheishctl.options import COMPLETIONS, ID_KINDS
from protocol.rpc.catalogue import METHODS
from tests.support.ctl import Ctl
from tests.support.terminal import Terminal


def test_every_kind_has_its_search() -> None:
    """Each kind of id has a list, whose ids are complete, and methods that exist."""
    assert SEARCHES.keys() == ID_KINDS
    assert {source for source, _ in SEARCHES.values()} <= COMPLETIONS.keys()
    assert {method for pairs in CHOSEN.values() for method, _ in pairs} <= METHODS.keys()


def test_a_part_of_an_id_is_enough(ctl: Ctl, sender: str) -> None:
    """The first or last characters, also as cut in a table, name the only object that has them."""
    sent = ctl.json("send", "default", "hello", "--as", sender)
    run_id = sent["run_id"]
    for part in (run_id[:-1], run_id[-6:], f"…{run_id[-6:]}", f"{run_id[:-3]}…"):
        assert ctl.json("run", "show", part)["run_id"] == run_id, part
    session_id = sent["session_id"]
    assert ctl.json("session", "show", session_id[-8:])["session_id"] == session_id
    filtered = ctl.json("run", "list", "--session", session_id[-8:])["runs"]
    assert [run["run_id"] for run in filtered] == [run_id]
    again = ctl.json("session", "send", session_id[:-2], "again")
    assert again["session_id"] == session_id


def test_settled_requests_have_short_ids(ctl: Ctl, sender: str) -> None:
    """An approval is found by a part of its id, pending and resolved."""
    sent = ctl("send", "default", '/call write_file {"path": "a", "content": "x"}', "--as", sender, "--json")
    (approval,) = sent.json["waiting"]["approvals"]
    part = approval["approval_id"][-7:]
    assert ctl("approval", "deny", part).code == exit_codes.OK
    assert ctl.json("approval", "show", part)["status"] == "denied"
    ctl("conversation", "cancel", "--as", sender)


def test_several_objects(ctl: Ctl, sender: str) -> None:
    """An ambiguous part is a usage error with the candidates; on a terminal, a person picks one."""
    runs = [ctl.json("send", "default", "hello", "--as", sender)["run_id"] for _ in range(2)]
    # The first characters of the time are those of every id for decades.
    part = runs[0][:5]
    done = ctl("run", "show", part)
    assert (done.code, f"'{part}' abbreviates several ids: run_" in done.err) == (exit_codes.USAGE, True)
    command = [sys.executable, "-m", "kheishctl", "run", "show", part, "--home", str(ctl.home)]
    with Terminal(command, {}) as terminal:
        terminal.sees("Which of them?")
        terminal.say(runs[1])
        terminal.sees("completed")
        assert terminal.ends() == exit_codes.OK


def test_chosen_ids_and_nicknames_are_not_parts(ctl: Ctl, sender: str) -> None:
    """The whole id of an object names it; an unknown text reaches the daemon unchanged."""
    session_id = ctl.json("session", "create", "--id", "CAFE", "--agent", "default")["session_id"]
    assert ctl.json("session", "show", session_id)["session_id"] == "CAFE"
    for word in ("run_ZZZZ", "0000", "run_nothing", "run_0000000000000"):
        done = ctl("run", "show", word)
        assert (done.code, "no run" in done.err.lower() or "does not exist" in done.err) == (1, True), (
            done.err
        )


@pytest.mark.parametrize("words", [("run", "show", "run_0"), ("session", "show", "VVVV")])
def test_without_a_daemon(ctl: Ctl, words: tuple[str, ...]) -> None:
    """Without a daemon, the message and the exit code are those of the command."""
    done = Ctl(ctl.home / "none")(*words)
    assert (done.code, "no daemon is running" in done.err) == (exit_codes.NO_DAEMON, True)
