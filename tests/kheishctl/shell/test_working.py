"""Calls on the screen."""

from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.layout import count_columns
from kheishctl.render.pieces import CallOutput, CallRequest, CallResult, CallStart, CallVerdict
from kheishctl.shell.working import RULE, SPINNER, OfCalls, Working
from protocol.text import sanitise

NOW_S = 1_795_000_000.0
NOW_MS = int(NOW_S * 1000)
CALL = "call_1"


def working(*, columns: int = 60, verbose: bool = False, color: bool = False) -> Working:
    """Calls on a screen without color."""
    return Working(lambda: columns, lambda: NOW_S, color=color, verbose=verbose)


def began(number: int = 1, since_s: int = 0) -> CallStart:
    """A call that runs."""
    return CallStart(f"call_{number}", "bash", f"make {number}", NOW_MS - since_s * 1000)


def returned(how: str, text: str = "", **fields: object) -> CallResult:
    """A call that does no longer."""
    return CallResult(CALL, "bash", "make", how, text, **fields)  # type: ignore[arg-type]


def test_a_call_that_cannot_be_carried_out() -> None:
    """Nobody made it fail: it says only what is wrong with it; what was denied says by whom."""
    assert working().show(returned("failed", denied_by="not valid")) == "✗ bash  not valid · make\n"
    assert working().show(returned("denied", denied_by="rule bash")) == "✗ bash  denied by rule bash · make\n"


def test_a_call_is_one_line_when_it_is_asked_for() -> None:
    """Its tool and what it is about, as much as fits."""
    assert working().show(CallRequest(CALL, "bash", "ls -la")) == "→ bash  ls -la\n"
    assert working(columns=20).show(CallRequest(CALL, "bash", "x" * 80)) == "→ bash  xxxxxxxxxxx…\n"
    assert working(columns=20).show(CallRequest(CALL, "t" * 80, "")) == "→ ttttttttt…\n"


def test_ends() -> None:
    """One line each: how it ended, how long it took; of an error its first lines."""
    shows = working().show
    assert shows(returned("returned", "output", took_ms=300)) == "✓ bash  0.3 s · make\n"
    assert shows(returned("failed", "exit 1\n\nno rule\nto make\nmore", took_ms=300)) == (
        f"✗ bash  failed after 0.3 s · make\n{RULE}exit 1\n{RULE}no rule\n{RULE}to make\n"
    )
    assert shows(returned("denied", "no network", denied_by="managed rule bash deny")) == (
        f"✗ bash  denied by managed rule bash deny · make\n{RULE}no network\n"
    )
    assert shows(returned("stopped", "it was stopped")) == "■ bash  stopped · make\n"
    assert shows(returned("upended", "x")) == "· bash  upended · make\n"


def test_what_is_told_elsewhere_is_not_told_again() -> None:
    """A person's denial, an answer, a doubt: each has a line of its own."""
    for piece in (returned("denied", denial_shown=True), returned("answered"), returned("in_doubt")):
        assert working().show(piece) == ""


def test_verbose() -> None:
    """What decided, and what was given."""
    loud, quiet = working(verbose=True), working()
    allowed, asked = (
        CallVerdict(CALL, "bash", "allow", "the default"),
        CallVerdict(CALL, "bash", "ask", "a rule"),
    )
    assert loud.show(allowed) == "· bash  allowed: the default\n"
    assert loud.show(asked) == "· bash  to be asked about: a rule\n"
    assert loud.show(CallVerdict(CALL, "bash", "deny", "told with the result")) == ""
    assert quiet.show(allowed) == quiet.show(asked) == ""
    lines = "\n".join(f"line {number}" for number in range(20))
    assert loud.show(returned("returned", lines)).splitlines()[1:] == [
        f"{RULE}line {number}" for number in range(10)
    ]


def test_a_call_that_runs() -> None:
    """Since when, and the last lines of what it wrote."""
    calls = working()
    assert not calls.busy
    assert calls.live(10) == []
    calls.show(began(since_s=3))
    calls.show(CallOutput(CALL, "one\ntwo\nthree\nfo", False))
    calls.show(CallOutput(CALL, "ur\n", False))
    assert calls.busy
    spinning, *output = calls.live(10)
    assert spinning[0] in SPINNER
    assert spinning[1:] == " bash  make 1 · 3 s"
    assert output == [f"{RULE}two", f"{RULE}three", f"{RULE}four"]
    calls.show(CallOutput(CALL, "anew", True))
    assert calls.live(10)[1:] == [f"{RULE}anew"]
    calls.show(returned("returned"))
    assert calls.live(10) == []


def test_time_goes_by() -> None:
    """In seconds at first; a clock that is behind does not count backwards."""
    for since_s, said in ((-5, "0 s"), (9, "9 s"), (75, "1 min 15 s")):
        calls = working()
        calls.show(began(since_s=since_s))
        assert calls.live(1)[0].endswith(f" · {said}")


def test_what_is_heard_before_the_call_is_known() -> None:
    """It is shown once the call has begun, and forgotten with the run."""
    calls = working()
    calls.show(CallOutput(CALL, "early", False))
    assert calls.live(10) == []
    calls.show(began())
    assert calls.live(10)[1:] == [f"{RULE}early"]
    calls.clear()
    assert not calls.busy


def test_many_that_run() -> None:
    """Each has its line before any has more; where there is no room it is said how many there are."""
    calls = working()
    for number in range(1, 6):
        calls.show(began(number))
        calls.show(CallOutput(f"call_{number}", "a\nb\nc\n", False))
    assert len(calls.live(100)) == 5 * 4
    assert [line.startswith(RULE) for line in calls.live(7)] == [
        False,
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert len(calls.live(3)) == 3
    assert calls.live(3)[-1] == "… and 3 more"
    assert len(calls.live(0)) == 1


def test_colors() -> None:
    """Marks have them."""
    assert (
        working(color=True).show(returned("failed")) == "\x1b[31m✗\x1b[0m \x1b[1mbash\x1b[0m  failed · make\n"
    )


@given(st.text(st.characters(exclude_categories=[])), st.integers(20, 60))
def test_nothing_acts_or_stands_alone(text: str, columns: int) -> None:
    """Whatever a tool is called and writes: harmless lines that fit, each behind a mark or a rule."""
    calls = working(columns=columns, verbose=True)
    pieces: list[OfCalls] = [
        CallRequest(CALL, text, text),
        CallVerdict(CALL, text, "allow", text),
        CallStart(CALL, text, text, 0),
        CallOutput(CALL, text, False),
    ]
    lines = "".join(map(calls.show, pieces)).split("\n")[:-1] + calls.live(9)
    lines += calls.show(returned("failed", text, denied_by=text)).split("\n")[:-1]
    for line in lines:
        assert sanitise(line) == line
        assert "\n" not in line
        assert count_columns(line) <= columns
        assert line.startswith((RULE, "→ ", "· ", "✗ ")) or line[0] in SPINNER
