"""Skills: the discovery of 2,000 at the first look and at a reload, and turns with 200 of them visible."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from contrib.bench.model import config, model_server
from contrib.bench.processes import daemon, on_core
from contrib.bench.prototype import run_turn
from contrib.bench.table import Round, Row, at_most
from contrib.bench.turn import turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.bench.client import Client
    from contrib.bench.scale import Scale

MATTER = (
    "---\nname: {name}\ndescription: Does the work of {name} in a certain way, in 40 steps. Use it when "
    "somebody asks for that.\nlicense: MIT\nallowed-tools: Read Bash(git:*)\n---\n"
)
BODY = "# Steps\n\n" + "1. Do this, then that, and look at the result.\n" * 40


def measure(scale: Scale) -> Iterator[Row]:
    """Measure four rows."""
    yield from discovery(scale, scale.pick(2_000, 20))
    yield turns(scale, scale.pick(200, 20))


def write_skill(root: Path, name: str) -> None:
    """Write a skill of two kilobytes."""
    (root / name).mkdir(parents=True)
    (root / name / "SKILL.md").write_text(MATTER.format(name=name) + BODY)


def write_skills(root: Path, count: int) -> None:
    """Write skills of two kilobytes each."""
    for number in range(count):
        write_skill(root, f"skill-{number}")


def discovery(scale: Scale, count: int) -> Iterator[Row]:
    """Measure the first reading, a reload without changes, and the first turn after one more skill."""
    first, again, late = [], [], []
    for _ in scale.rounds:
        with ExitStack() as stack:
            port = stack.enter_context(model_server())
            server = stack.enter_context(daemon(config(port)))
            client = stack.enter_context(server.client())
            run_turn(client, "warm")
            write_skills(server.home / "skills", count)
            first.append(Round(reload(client)))
            again.append(Round(median(reload(client) for _ in range(3))))
            known = median(turn(client, "known") for _ in range(5))
            late_turns = []
            for number in range(3):
                write_skill(server.home / "skills", f"late-{number}")
                late_turns.append(turn(client, "known"))
            late.append(Round(median(late_turns), known))
    name = f"{count:,} skills"
    yield Row(
        f"{name} read for the first time", "ms", first, note="in a thread: neither a start nor a turn waits"
    )
    yield Row(f"{name} looked at again, none changed", "ms", again)
    beside = "a turn without a new skill"
    yield Row(f"a turn that finds one new skill among {name}", "ms", late, None, "difference", beside)


def reload(client: Client) -> float:
    """Read all skills again; return the time that the daemon states, in milliseconds."""
    took_ms: float = client.call("skill.reload")["took_ms"]
    return took_ms


def turns(scale: Scale, count: int) -> Row:
    """Measure turns with some visible skills beside turns of a daemon without any."""
    rounds = []
    with on_core(), ExitStack() as stack:
        port = stack.enter_context(model_server())
        servers = [stack.enter_context(daemon(config(port))) for _ in range(2)]
        write_skills(servers[0].home / "skills", count)
        with_skills, without = (stack.enter_context(server.client()) for server in servers)
        for client in (with_skills, without):
            run_turn(client, "warm")
        for number in scale.rounds:
            ours, bare = [], []
            for _ in range(scale.pick(20, 3)):
                bare.append(turn(without, f"round{number}"))
                ours.append(turn(with_skills, f"round{number}"))
            rounds.append(Round(median(ours), median(bare)))
    name = f"a turn with {count} visible skills"
    return Row(name, "ms", rounds, at_most(1.1), "ratio", "a turn without skills")
