"""The crash certificate: a run with tools and people is killed at every possible point, and compared.

The script is played once undisturbed, then once per point. After each kill the daemon is restarted,
unanswered requests are repeated with the same key, and people repeat their answers by the stored ids. In the
end the journals must be equal, and each effect must have happened once, or at most once if an item is in
doubt.
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
    """Return a command that appends a line to the file of effects."""
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
                    "header": "Color",
                    "question": "Which color?",
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
    """A client that acts for the people: it sends, answers requests by id, and waits for the ends of runs."""

    def play(self) -> None:
        """Play the whole script."""
        self.run(FIRST)
        self.settle_tasks()
        self.call("conversation.compact", sender="ada", wait="settled")
        self.run(SECOND)

    def run(self, text: str) -> dict[str, Any]:
        """Send a message, and answer all requests until the run has ended."""
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
        """Allow all pending approvals in one answer."""
        waiting = self.query("approval.list", run_id=run_id)["approvals"]
        if waiting:
            answers = [{"approval_id": approval["approval_id"], "decision": "allow"} for approval in waiting]
            self.answer_until_accepted("approval.resolve", answers[0]["approval_id"], resolutions=answers)

    def answer(self, run_id: str) -> None:
        """Choose the first option of every question."""
        for question in self.query("question.list", run_id=run_id)["questions"]:
            answers = [
                {"key": question["key"], "selected": [question["options"][0]["option_id"]]}
                for question in question["questions"]
            ]
            self.answer_until_accepted(
                "question.answer",
                question["question_id"],
                question_id=question["question_id"],
                answers=answers,
            )

    def settle_tasks(self) -> None:
        """Wait until no background shell runs."""
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
        """Return the background shells that ended with a daemon, by their tasks."""
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

    def answer_until_accepted(self, method: str, about: str, **params: Any) -> dict[str, Any]:
        """Answer a request, repeating the answer with the same key until it is accepted."""
        return self.call_again(method, {**params, "idempotency_key": f"answer-{about}"})


@dataclass(slots=True)
class Ending:
    """The result of the script: its comparable journal, the calls in doubt, and the effects."""

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


def play_script(victim: Victim, *wrapper: str) -> Ending:
    """Play the script to its end, despite all kills of the daemon."""
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
        journal={stream: _sort_results(events) for stream, events in journal.items() if stream != "daemon"},
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
        "checkpoint_saved",
        "tool_called",
        "tool_observed",
        "task_started",
        "task_ended",
    )
)
_OUTCOME = ("text", "how", "is_error", "blob", "bytes", "took_ms")


def _without_doubts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without recovery and without the ends of calls, which the effects prove."""
    comparable = []
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
                # The binding is a digest that includes the workspace, and homes differ.
                event.get("preview", {}).pop("binding", None)
            case _:
                pass
        comparable.append(event)
    return comparable


def _sort_results(events: list[str]) -> list[str]:
    """Sort adjacent results, because parallel calls return in any order."""
    ordered: list[str] = []
    run: list[str] = []
    for event in [*events, ""]:
        if '"type": "tool_returned"' in event:
            run.append(event)
            continue
        ordered += sorted(run)
        run = []
        ordered.append(event)
    return ordered[:-1]


def differences(calm: Ending, shaken: Ending) -> Iterator[str]:
    """Return the differences between a disturbed and the undisturbed ending that are not permitted."""
    if shaken.findings:
        yield f"the doctor found {shaken.findings}"
    for stream in sorted(calm.journal.keys() | shaken.journal.keys()):
        yield from _of_streams(calm.journal.get(stream, []), shaken.journal.get(stream, []))
    doubted = " ".join(json.dumps(item["arguments"]) for item in shaken.doubts)
    for name in EFFECTS:
        count = shaken.effects[name]
        in_doubt = re.search(rf"\b{name}\b", doubted) is not None
        if count != 1 and not (count == 0 and in_doubt):
            item = "one says that it is in doubt" if in_doubt else "no item says so"
            yield f"the effect '{name}' was seen {count} times, and {item}"
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


# Disturbances.


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A disturbance: its name, and the command that wraps the daemon (``{}`` for none)."""

    name: str
    wrapper: tuple[str, ...] = ()
    effect: str | None = None


def play_traced(directory: Path, port: int, calls: tuple[str, ...]) -> tuple[Ending, dict[str, int]]:
    """Return the undisturbed result, and the number of these system calls by one thread."""
    victim = home(directory, port)
    trace = directory.parent / "trace"
    ending = play_script(victim, *strace("-o", str(trace), "-e", f"trace={','.join(calls)}"))
    victim.stop()
    counts: dict[str, Counter[str]] = {name: Counter() for name in calls}
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        name = rest.lstrip().partition("(")[0]
        if name in counts:
            counts[name][thread] += 1
    return ending, {name: max(threads.values(), default=0) for name, threads in counts.items()}


def list_disturbances(counts: dict[str, int], every: int) -> Iterator[Disturbance]:
    """Return all points of a kill or fault, or each ``every``-th of them."""
    for name, most in counts.items():
        for k in range(1, most + 1, every):
            yield Disturbance(f"SIGKILL at {name} {k}", _inject(f"{name}:signal=SIGKILL:when={k}"))
    for effect_name in EFFECTS:
        yield Disturbance(f"SIGKILL while '{effect_name}' runs", effect=effect_name)
    flushes = counts.get("fdatasync", 0)
    for k in range(3, flushes, max(every, 4)):
        yield Disturbance(f"fdatasync {k} fails", _inject(f"fdatasync:error=EIO:when={k}"))
    for k in range(6, flushes, max(every, 4)):
        faults = f"pwrite64,writev,pwritev:error=ENOSPC:when={k}..{k + 2}"
        yield Disturbance(f"the disk is full at write {k}", _inject(faults))


def _inject(injection: str) -> tuple[str, ...]:
    names = injection.partition(":")[0]
    return strace("-o", "/dev/null", "-e", f"trace={names}", "-e", f"inject={injection}")


def play_disturbed(directory: Path, port: int, disturbance: Disturbance) -> Ending:
    """Return the result of one play with one disturbance."""
    victim = home(directory, port)
    try:
        with _kill_at_effect(victim, disturbance.effect):
            return play_script(victim, *disturbance.wrapper)
    finally:
        victim.kill()


@contextmanager
def _kill_at_effect(victim: Victim, effect_name: str | None) -> Iterator[None]:
    """Kill the daemon once an effect is seen, while its command still runs."""
    if effect_name is None:
        yield
        return
    done = threading.Event()
    effects = victim.home / "workspace" / "effects"

    def watch() -> None:
        while not done.wait(0.005):
            if effects.exists() and effect_name in effects.read_text().split():
                victim.kill()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
