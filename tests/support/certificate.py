"""The crash certificate: a run with tools and people in the loop, killed wherever it can be, and compared.

The script is played once undisturbed, then once for every place to be killed at. Each time the daemon is
started again, what had no answer is asked again under the same key, and people give their answers again by
the stored ids. In the end the journals must say the same, and the world must have seen each effect once; or
at most once, if there is an item that says so.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrib.bench.model import model_server
from tests.support.journals import comparable
from tests.support.victims import Script, Victim, strace

PATIENCE_SECONDS = 60.0

EFFECT = "echo {name} >> effects; sleep 0.2"


def call(tool: str, **arguments: Any) -> str:
    """Return a line that makes the model call a tool."""
    return f"/call {tool} {json.dumps(arguments)}"


def effect(name: str, **more: Any) -> str:
    """Return a command that appends a line to the world."""
    return call("bash", command=EFFECT.format(name=name), **more)


FIRST = "\n".join(
    [
        call("write_file", path="notes.txt", content="one\n"),
        effect("first"),
        "/then",
        call("list_files"),
        call("read_file", path="notes.txt"),
        effect("second"),
        "/then",
        call("edit_file", path="notes.txt", old_text="one", new_text="two"),
        call(
            "ask_user_question",
            questions=[
                {
                    "header": "Colour",
                    "question": "Which colour?",
                    "options": [{"label": "red"}, {"label": "green"}],
                }
            ],
        ),
        "/then",
        effect("third", run_in_background=True),
        call("todo_write", todos=[{"content": "rest", "status": "pending"}]),
        "/then",
        "the first is done",
    ]
)
SECOND = "\n".join([effect("fourth"), "/then", call("read_file", path="notes.txt"), "/then", "all is done"])
EFFECTS = ("first", "second", "third", "fourth")


class Operator(Script):
    """A client and the people: sends, answers what is asked by its stored id, waits until a run has ended."""

    def play(self) -> None:
        """Play the whole script."""
        self.run(FIRST)
        self.settle_tasks()
        self.call("conversation.compact", sender="ada", wait="settled")
        self.run(SECOND)

    def run(self, text: str) -> dict[str, Any]:
        """Send, and answer whatever is asked until the run has ended."""
        run_id = self.send(text, wait="accepted")["run_id"]
        while True:
            run = self.call("run.wait", run_id=run_id)
            match run["status"]:
                case "waiting_for_approval":
                    self.approve(run_id)
                case "waiting_for_user_question":
                    self.answer(run_id)
                case _:
                    return run

    def approve(self, run_id: str) -> None:
        """Allow everything that waits, as one answer."""
        waiting = self.query("approval.list", run_id=run_id)["approvals"]
        if waiting:
            answers = [{"approval_id": each["approval_id"], "decision": "allow"} for each in waiting]
            self.answered("approval.resolve", answers[0]["approval_id"], resolutions=answers)

    def answer(self, run_id: str) -> None:
        """Choose the first option of every question."""
        for asked in self.query("question.list", run_id=run_id)["questions"]:
            answers = [
                {"key": question["key"], "selected": [question["options"][0]["option_id"]]}
                for question in asked["questions"]
            ]
            self.answered(
                "question.answer", asked["question_id"], question_id=asked["question_id"], answers=answers
            )

    def settle_tasks(self) -> None:
        """Wait until no background shell runs any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        session_id = self.query("conversation.get", sender="ada")["session_id"]
        while any(
            task["status"] in ("pending", "in_progress")
            for task in self.query("task.list", session_id=session_id)["tasks"]
            if task.get("kind") == "shell"
        ):
            assert time.monotonic() < deadline, "a background shell goes on"
            self.daemon.breathe()

    def cut_short(self) -> list[dict[str, Any]]:
        """Return the background shells that ended with a daemon, as their tasks say."""
        session_id = self.query("conversation.get", sender="ada")["session_id"]
        tasks = self.query("task.list", session_id=session_id, status="any")["tasks"]
        return [
            {"arguments": task["shell"]["command"]}
            for task in tasks
            if task.get("shell", {}).get("terminal_reason") == "daemon_restarted"
        ]

    def query(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a query."""
        return self.call_again(method, params)

    def answered(self, method: str, about: str, **params: Any) -> dict[str, Any]:
        """Give a person's answer, repeated with the same key until it is accepted."""
        return self.call_again(method, {**params, "idempotency_key": f"answer-{about}"})


@dataclass(slots=True)
class Ending:
    """How the script ended: its journal made comparable, the calls in doubt, and what the world saw."""

    journal: dict[str, list[str]]
    doubts: list[dict[str, Any]]
    effects: Counter[str]
    files: dict[str, str]
    findings: list[Any]
    deaths: int = 0


CONFIG = """
default_route = "scripted"
[routes.scripted]
driver = "openai"
model = "orders"
base_url = "http://127.0.0.1:{port}/v1"
[runs]
backoff_s = 0.01
[daemon]
drain_s = 0
"""


@contextmanager
def world() -> Iterator[int]:
    """Provide the model server, which outlives the daemons, and its port."""
    with model_server() as port:
        yield port


def home(directory: Path, port: int) -> Victim:
    """Provide a daemon in a new home."""
    directory.mkdir(mode=0o700)
    (directory / "config.toml").write_text(CONFIG.format(port=port))
    return Victim(directory)


def played(victim: Victim, *wrapper: str) -> Ending:
    """Play the script to its end, whatever kills the daemon meanwhile."""
    victim.start(*wrapper)
    operator = Operator(victim)
    operator.play()
    doubts = operator.query("indoubt.list", status="any", limit=500)["indoubts"]
    doubts += operator.cut_short()
    findings = operator.query("daemon.doctor", deep=True)["findings"]
    journal = comparable(_without_doubts(operator.journal()), str(victim.home))
    workspace = victim.home / "workspace"
    effects = workspace / "effects"
    return Ending(
        journal={stream: _settled(events) for stream, events in journal.items() if stream != "daemon"},
        doubts=doubts,
        effects=Counter(effects.read_text().split() if effects.exists() else ()),
        files={path.name: path.read_text() for path in sorted(workspace.glob("*.txt"))},
        findings=findings,
        deaths=victim.deaths,
    )


RECOVERY = frozenset(
    (
        "indoubt_opened",
        "call_probed",
        "indoubt_resolved",
        "tool_called",
        "tool_observed",
        "task_started",
        "task_ended",
    )
)
_OUTCOME = ("text", "how", "is_error", "blob", "bytes", "took_ms")


def _without_doubts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without recovery and without the ends of calls, which the world's log proves."""
    kept = []
    for event in events:
        match event["type"]:
            case kind if kind in RECOVERY:
                continue
            case "tool_returned":
                event = {name: value for name, value in event.items() if name not in _OUTCOME}
            case "message_appended" | "context_compacted":
                event.pop("usage", None)
                event.pop("pre_tokens", None)
                event.pop("post_tokens", None)
            case "approval_requested":
                # What it is bound to is a digest of where it would run, and homes differ.
                event.get("preview", {}).pop("binding", None)
            case _:
                pass
        kept.append(event)
    return kept


def _settled(events: list[str]) -> list[str]:
    """Results of calls that ran side by side come in any order: those next to each other are sorted."""
    kept: list[str] = []
    run: list[str] = []
    for event in [*events, ""]:
        if '"type": "tool_returned"' in event:
            run.append(event)
            continue
        kept += sorted(run)
        run = []
        kept.append(event)
    return kept[:-1]


def differences(calm: Ending, shaken: Ending) -> Iterator[str]:
    """Where a disturbed ending differs from the undisturbed one in what must be the same."""
    if shaken.findings:
        yield f"the doctor found {shaken.findings}"
    for stream in sorted(calm.journal.keys() | shaken.journal.keys()):
        yield from _of_streams(calm.journal.get(stream, []), shaken.journal.get(stream, []))
    doubted = " ".join(json.dumps(item["arguments"]) for item in shaken.doubts)
    for name in EFFECTS:
        seen = shaken.effects[name]
        in_doubt = re.search(rf"\b{name}\b", doubted) is not None
        if seen != 1 and not (seen == 0 and in_doubt):
            item = "one says that it is in doubt" if in_doubt else "no item says so"
            yield f"the effect '{name}' was seen {seen} times, and {item}"
    if shaken.files != calm.files and not shaken.doubts:
        yield f"the files differ: {shaken.files}"


def _of_streams(calm: list[str], shaken: list[str]) -> Iterator[str]:
    if calm == shaken:
        return
    for before, after in zip(calm, shaken, strict=False):
        if before != after:
            yield f"expected {before}\n     found {after}"
            return
    more = (calm + shaken)[min(len(calm), len(shaken)) :][:2]
    yield f"expected {len(calm)} events, found {len(shaken)}: {more}"


# Where to be killed.


@dataclass(frozen=True, slots=True)
class Place:
    """One disturbance: what it is called, and the wrapper that brings it about (``{}`` for none)."""

    name: str
    wrapper: tuple[str, ...] = ()
    effect: str | None = None


def traced(directory: Path, port: int, calls: tuple[str, ...]) -> tuple[Ending, dict[str, int]]:
    """Return the undisturbed result, and how often one thread makes each of these system calls."""
    victim = home(directory, port)
    trace = directory.parent / "trace"
    ending = played(victim, *strace("-o", str(trace), "-e", f"trace={','.join(calls)}"))
    victim.stop()
    counts: dict[str, Counter[str]] = {name: Counter() for name in calls}
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        name = rest.lstrip().partition("(")[0]
        if name in counts:
            counts[name][thread] += 1
    return ending, {name: max(threads.values(), default=0) for name, threads in counts.items()}


def places(counts: dict[str, int], every: int) -> Iterator[Place]:
    """Every place to be killed or harmed at, or each ``every``-th of them."""
    for name, most in counts.items():
        for k in range(1, most + 1, every):
            yield Place(f"SIGKILL at {name} {k}", _inject(f"{name}:signal=SIGKILL:when={k}"))
    for effect_name in EFFECTS:
        yield Place(f"SIGKILL while '{effect_name}' runs", effect=effect_name)
    flushes = counts.get("fdatasync", 0)
    for k in range(3, flushes, max(every, 4)):
        yield Place(f"fdatasync {k} fails", _inject(f"fdatasync:error=EIO:when={k}"))
    for k in range(6, flushes, max(every, 4)):
        at = f"when={k}..{k + 2}"
        yield Place(f"the disk is full at write {k}", _inject(f"pwrite64,writev,pwritev:error=ENOSPC:{at}"))


def _inject(what: str) -> tuple[str, ...]:
    names = what.partition(":")[0]
    return strace("-o", "/dev/null", "-e", f"trace={names}", "-e", f"inject={what}")


def disturbed(directory: Path, port: int, place: Place) -> Ending:
    """Return the result of one play with one disturbance."""
    victim = home(directory, port)
    try:
        with _watched(victim, place.effect):
            return played(victim, *place.wrapper)
    finally:
        victim.kill()


@contextmanager
def _watched(victim: Victim, effect_name: str | None) -> Iterator[None]:
    """Kill the daemon as soon as an effect is seen in the world: its command still runs then."""
    if effect_name is None:
        yield
        return
    done = threading.Event()
    seen = victim.home / "workspace" / "effects"

    def watch() -> None:
        while not done.wait(0.005):
            if seen.exists() and effect_name in seen.read_text().split():
                victim.kill()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
