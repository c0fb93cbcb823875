"""``kheishctl goal``, on a daemon that pursues goals by itself."""

from tests.support.ctl import Ctl


def test_a_goal_from_its_beginning_to_its_end(ctl: Ctl) -> None:
    """The daemon continues by itself until the continuations are used up; each run says why."""
    session = ctl.json("session", "create", "--title", "goal")["session_id"]
    goal = ctl.json(
        "goal", "set", session, "Count.", "--done-when", "three", "--constraint", "no four",
        "--stop-when", "late", "--max-continuations", "2", "--max-tokens", "9000000", "--max-time", "1h",
    )  # fmt: skip
    assert (goal["status"], goal["constraints"]) == ("active", ["no four"])
    while (shown := ctl.json("goal", "show", session))["status"] == "active":
        pass
    assert (shown["status"], shown["continuations"]) == ("exhausted", 2)
    runs = ctl.json("run", "list", "--session", session)["runs"]
    assert [run["goal"]["number"] for run in runs] == [2, 1]
    assert runs[0]["goal"]["reason"] == "the offline stand-in cannot judge"
    shown_run = ctl("run", "show", runs[0]["run_id"]).out
    assert "continuation 2: the offline stand-in cannot judge" in shown_run
    assert "Continuation 1 of at most 2" in ctl("session", "history", session).out


def test_pause_resume_and_clear(ctl: Ctl) -> None:
    """A person pauses, resumes and removes a goal."""
    session = ctl.json("session", "create")["session_id"]
    terms = ("--max-continuations", "1", "--no-judge")
    ctl.json("goal", "set", session, "Count.", *terms)
    paused = ctl("goal", "pause", session, "--note", "later", "--json")
    assert paused.code in (0, 1)
    ctl("goal", "resume", session)
    assert ctl.json("goal", "clear", session)["objective"] == "Count."
    assert "goal set" in ctl("goal", "show", session).err
