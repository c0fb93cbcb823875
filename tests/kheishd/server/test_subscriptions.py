"""Subscriptions: complete, in order and at the client's pace."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.call import Caller
from kheishd.kernel.live import TOOL_KINDS, Live, LiveText
from kheishd.kernel.state import State, open_state
from kheishd.objects.node.journal import Selection
from kheishd.server.subscriptions import PAGE_ENTRIES, PAGING_S, Hub, Subscription
from kheishd.store.environment import Transaction
from protocol.errors.store import StoreDamaged
from protocol.limits.call import MAX_LIVE_CHARACTERS
from protocol.objects.journal import Filter
from protocol.rpc.method import SCOPES
from tests.support.stories import (
    add_daemon_event,
    add_event,
    add_session,
    ask,
    call,
    end,
    mark_pruned,
    put_run,
)

OWNER = Caller("uid:0", frozenset(SCOPES))


class Peer:
    """A connection that records messages and takes them when told to."""

    def __init__(self, nursery: trio.Nursery, caller: Caller = OWNER) -> None:
        self.caller = caller
        self.ended = False
        self.subscriptions: dict[str, Subscription] | None = {}
        self.clear = True
        self.stuck = False
        self.sent: list[bytes] = []
        self.pushes = 0
        self._nursery = nursery
        self._changed = trio.Event()

    def push(self, messages: list[bytes]) -> None:
        self.sent += messages
        self.pushes += bool(messages)
        if self.stuck and messages:
            self.clear = False

    def take(self) -> None:
        """Take everything, now and later."""
        self.stuck, self.clear = False, True
        self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def change(self) -> None:
        await self._changed.wait()

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(work)

    def heard(self) -> list[tuple[str, dict[str, Any]]]:
        """Return every notification: its kind, and its params without the subscription and the epoch."""
        found = []
        for message in map(msgspec.json.decode, self.sent):
            params = {
                name: value
                for name, value in message["params"].items()
                if name not in ("subscription", "epoch")
            }
            found.append((message["method"].removeprefix("journal."), params))
        return found

    def kinds(self) -> list[str]:
        """Return the kinds of all sent notifications."""
        return [kind for kind, _ in self.heard()]

    def cursors(self) -> list[int]:
        """Return the cursors of all sent events."""
        return [params["cursor"] for kind, params in self.heard() if kind == "event"]


class Stage:
    """A state, live text, a running hub, and peers."""

    def __init__(self, state: State, nursery: trio.Nursery) -> None:
        self.state = state
        self.live = Live()
        self.hub = Hub(state, self.live)
        self.nursery = nursery
        nursery.start_soon(self.hub.run)

    def follow(
        self,
        filter_: Filter | None = None,
        after: int | None = None,
        *,
        caller: Caller = OWNER,
        deltas: bool = False,
        until_settled: str | None = None,
    ) -> Peer:
        """Return a peer with one subscription."""
        peer = Peer(self.nursery, caller)
        self.hub.subscribe(
            peer,
            filter_ or Filter(),
            after,
            deltas=deltas,
            subscription="s",
            until_settled=until_settled,
        )
        return peer

    async def change(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Commit a change and let every subscription receive it."""
        result = await self.state.update(lambda tx: fn(tx, *args))
        await settle()
        return result

    async def add(self, count: int, session_id: str = "ses_1", title: str = "") -> list[int]:
        """Commit events of a session in one transaction and return their cursors."""

        def fill(tx: Transaction) -> list[int]:
            return [add_event(tx, session_id, title) for _ in range(count)]

        cursors: list[int] = await self.change(fill)
        return cursors


async def settle() -> None:
    """Until nobody has anything left to do."""
    await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Provide a store with the session ses_1 in it, at cursor 1."""
    async with open_state(tmp_path / "state", version="test", threaded=False) as state:
        async with trio.open_nursery() as nursery:
            stage = Stage(state, nursery)
            await stage.change(add_session, "ses_1")
            yield stage
            nursery.cancel_scope.cancel()


# Events.


async def test_from_a_cursor_to_the_present_and_on(stage: Stage) -> None:
    """A subscription sends history, one ``synced``, then live events, each once and in order."""
    old = await stage.add(3)
    peer = stage.follow(after=old[0])
    await settle()
    assert peer.cursors() == old[1:]
    assert peer.heard()[-1] == ("synced", {"cursor": old[-1]})
    new = await stage.add(2)
    assert peer.cursors() == old[1:] + new
    assert peer.kinds().count("synced") == 1


async def test_from_now_on_without_a_cursor(stage: Stage) -> None:
    """Without a cursor, only new events are sent."""
    peer = stage.follow()
    await settle()
    assert peer.heard() == [("synced", {"cursor": 1})]
    assert await stage.add(1) == peer.cursors()


@pytest.mark.parametrize("after", [3, 2**63, 10**30])
@pytest.mark.parametrize("filter_", [Filter(), Filter(session_id="ses_1")])
async def test_a_cursor_beyond_the_end_is_a_gap(stage: Stage, after: int, filter_: Filter) -> None:
    """A cursor of another journal is reported as a gap; the subscription continues at the end."""
    peer = stage.follow(filter_, after)
    await settle()
    gap = {"from": after, "to": 1, "reason": "beyond_end"}
    assert peer.heard() == [("gap", gap), ("synced", {"cursor": 1})]
    other = stage.follow()
    await settle()
    new = await stage.add(3)
    assert other.cursors() == peer.cursors() == new


async def test_an_event_is_sent_as_it_is_stored(stage: Stage) -> None:
    """An event is sent as its stored bytes, from the journal and from the hub."""
    peer = stage.follow(after=0)
    await stage.add(1, title="Überschrift \\ / \u2028")
    with stage.state.read() as store:
        lines = [line for _, line in store.entries("ses_1")]
    events = [message for message in peer.sent if b'"journal.event"' in message]
    assert len(events) == 2
    for line, message in zip(lines, events, strict=True):
        assert message.endswith(b'"event":' + line + b"}}")
        assert msgspec.json.decode(message)["params"]["cursor"] == msgspec.json.decode(line)["cursor"]


async def test_events_of_one_commit_are_sent_together(stage: Stage) -> None:
    """The events of one commit are sent in one push."""
    peer = stage.follow()
    await settle()
    before = peer.pushes
    await stage.add(50)
    assert peer.pushes == before + 1


async def test_one_session_is_followed_alone(stage: Stage) -> None:
    """A subscription to one session receives no other events."""
    await stage.change(add_session, "ses_2")
    peer = stage.follow(Filter(session_id="ses_1"), 0)
    mine = await stage.add(1)
    await stage.add(1, "ses_2")
    await stage.change(add_daemon_event)
    assert peer.cursors() == [1, *mine]


async def test_one_run_is_followed_alone(stage: Stage) -> None:
    """A subscription to one run finds its session and skips other runs."""
    await stage.change(put_run, "run_1", "ses_1", "running")
    peer = stage.follow(Filter(run_id="run_1"), 0)
    await stage.change(add_event, "ses_1", "", "run_2")
    mine = await stage.change(add_event, "ses_1", "", "run_1")
    await stage.add(1)
    assert peer.cursors() == [mine]


async def test_types_choose_events(stage: Stage) -> None:
    """A filter of types selects events; an unknown type matches none."""
    peer = stage.follow(Filter(types=["session_created", "no_such_type"]), 0)
    await stage.add(2)
    second = await stage.change(add_session, "ses_2")
    assert peer.cursors() == [1, second]


async def test_a_subtree_holds_descendants_old_and_new(stage: Stage) -> None:
    """A subtree includes present and later descendants at any depth, and no siblings."""
    child = await stage.change(add_session, "ses_child", "default", "user", "ses_1")
    await stage.change(add_session, "ses_other")
    peer = stage.follow(Filter(session_id="ses_1", subtree=True), 0)
    await stage.change(add_session, "ses_nephew", "default", "user", "ses_other")
    grandchild = await stage.change(add_session, "ses_grandchild", "default", "user", "ses_child")
    later = await stage.add(1, "ses_grandchild")
    await stage.change(add_daemon_event)
    assert peer.cursors() == [1, child, grandchild, *later]
    below = stage.follow(Filter(session_id="ses_child", subtree=True), 0)
    await settle()
    assert below.cursors() == [child, grandchild, *later]


async def test_who_is_limited_follows_what_is_covered(stage: Stage) -> None:
    """A limited caller receives only events of its agents and senders, and none of the daemon's."""
    anns = await stage.change(add_session, "ses_ann", "helper", "ann")
    await stage.change(add_session, "ses_bob", "helper", "bob")
    limited = Caller("token:t", frozenset(("read",)), frozenset(("helper",)), frozenset(("ann",)))
    peer = stage.follow(after=0, caller=limited)
    owner = stage.follow(after=0)
    more = await stage.add(1, "ses_ann")
    await stage.add(1, "ses_bob")
    daemons = await stage.change(add_daemon_event)
    assert peer.cursors() == [anns, *more]
    assert daemons in owner.cursors()


async def test_a_peer_that_reads_nothing_is_sent_nothing_and_loses_nothing(stage: Stage) -> None:
    """For a client that reads nothing, at most a page is in flight, and it loses nothing."""
    neighbour = stage.follow()
    peer = stage.follow()
    await settle()
    peer.stuck = True
    first = await stage.add(1)
    held = len(peer.sent)
    flowed = first.copy()
    for _ in range(30):
        flowed += await stage.add(100)
    assert len(peer.sent) == held
    assert neighbour.cursors() == flowed
    peer.take()
    await settle()
    assert peer.cursors() == flowed
    assert await stage.add(1) == [peer.cursors()[-1]]


async def test_history_is_sent_in_pages(stage: Stage) -> None:
    """History is sent in pages, as the client takes them."""
    cursors = []
    for _ in range(8):
        cursors += await stage.add(60, title="x" * 1000)
    peer = stage.follow(after=0)
    peer.stuck = True
    await settle()
    assert 0 < len(peer.cursors()) < 200
    while len(peer.cursors()) < 480:
        peer.clear = True
        peer.wake()
        await settle()
    peer.take()
    await settle()
    assert peer.cursors() == [1, *cursors]


@pytest.fixture
def slow_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a page take most of the time of one turn of the loop."""
    clock = count()
    monkeypatch.setattr("kheishd.server.subscriptions.time.monotonic", lambda: next(clock) * PAGING_S * 0.8)


@pytest.mark.usefixtures("slow_pages")
async def test_a_search_through_a_long_journal_lets_others_run(stage: Stage) -> None:
    """A search examines a limited number of entries per turn of the loop."""
    for _ in range(3):
        await stage.add(PAGE_ENTRIES)
    peer = stage.follow(Filter(types=["no_such_type"]), 0)
    turns = 0
    while not peer.sent:
        await trio.lowlevel.checkpoint()
        turns += 1
    assert turns > 2
    assert peer.kinds() == ["synced"]


@pytest.mark.usefixtures("slow_pages")
async def test_many_who_catch_up_take_turns(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscriptions that catch up take turns, so others are not delayed."""
    await stage.add(PAGE_ENTRIES + 1)
    pages: list[int] = []
    send_page = Subscription._send_page

    def watched(subscription: Subscription) -> bool:
        pages[-1] += 1
        return send_page(subscription)

    monkeypatch.setattr(Subscription, "_send_page", watched)
    peers = [stage.follow(Filter(types=["no_such_type"]), 0) for _ in range(20)]
    while not all(peer.sent for peer in peers):
        pages.append(0)
        await trio.lowlevel.checkpoint()
    assert sum(pages) == 40
    assert max(pages) <= 2, "two turns may lie between two looks"


async def test_who_leaves_while_behind_leaves_nothing(stage: Stage) -> None:
    """A subscription that ends while it is behind leaves nothing in the queue."""
    peers = [stage.follow(after=0) for _ in range(20)]
    for peer in peers:
        assert peer.subscriptions is not None
        peer.subscriptions["s"].forget()
    assert len(stage.hub) == 0
    assert len(stage.hub._behind) == 0
    await settle()
    assert all(peer.sent == [] for peer in peers)


async def test_who_takes_nothing_waits_in_a_task_of_its_own(stage: Stage) -> None:
    """A subscription of a slow client waits in a task and resumes, unless it has ended."""
    stays, leaves = stage.follow(after=0), stage.follow(after=0)
    stays.clear = leaves.clear = False
    await settle()
    assert (stays.sent, leaves.sent) == ([], [])
    assert leaves.subscriptions is not None
    leaves.subscriptions["s"].forget()
    stays.take()
    leaves.take()
    await settle()
    assert (stays.kinds(), leaves.kinds()) == (["event", "synced"], [])


async def test_many_who_follow_are_handed_what_is_new_in_several_turns(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New entries reach many subscriptions in several turns, each exactly once."""
    monkeypatch.setattr("kheishd.server.subscriptions.FOLLOWERS_AT_ONCE", 2)
    peers = [stage.follow(Filter(session_id="ses_1") if n % 2 else None) for n in range(10)]
    await settle()
    peers[3].stuck = True
    filled = stage.state.bell("cursors")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.state.update, lambda tx: [add_event(tx, "ses_1") for _ in range(3)])
        await filled.wait()
        while not any(peer.cursors() for peer in peers):
            await trio.lowlevel.checkpoint()
        assert not all(peer.cursors() for peer in peers if peer is not peers[3]), "it took several turns"
        late = stage.follow(after=0)
    await settle()
    peers[3].take()
    await settle()
    assert [peer.cursors() for peer in peers] == [[2, 3, 4]] * 10
    assert late.cursors() == [1, 2, 3, 4]


async def test_nobody_who_follows_costs_nothing(stage: Stage) -> None:
    """Without level subscriptions, the hub sleeps and skips the entries in between."""
    await stage.add(5)
    peer = stage.follow()
    await settle()
    assert len(stage.hub) == 1
    assert await stage.add(1) == peer.cursors()
    assert peer.subscriptions is not None
    peer.subscriptions["s"].forget()
    await stage.add(1)
    assert len(stage.hub) == 0
    assert len(peer.cursors()) == 1


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_is_lost_or_doubled(stage: Stage, seed: int) -> None:
    """Any mix of joining, taking and not taking delivers exactly the events after the cursor, in order."""
    chance = random.Random(seed)
    await stage.change(add_session, "ses_2")
    peers: list[tuple[Peer, str | None, int]] = []
    appended: list[tuple[str, int]] = [("ses_1", 1), ("ses_2", 2)]

    def commit(tx: Transaction, session_id: str, count: int) -> None:
        appended.extend((session_id, add_event(tx, session_id)) for _ in range(count))

    for _ in range(60):
        match chance.randrange(5):
            case 0:
                only = chance.choice([None, "ses_1"])
                after = chance.randrange(appended[-1][1] + 1)
                peers.append((stage.follow(Filter(session_id=only), after), only, after))
            case 1 if peers:
                chance.choice(peers)[0].stuck = True
            case 2 if peers:
                chance.choice(peers)[0].take()
            case _:
                session_id = chance.choice(["ses_1", "ses_2"])
                job = partial(commit, session_id=session_id, count=chance.randrange(1, 5))
                await stage.state.update(job)
        for _ in range(chance.randrange(4)):
            await trio.lowlevel.checkpoint()
    for peer, _, _ in peers:
        peer.take()
    await settle()
    for peer, only, after in peers:
        expected = [
            cursor for session_id, cursor in appended if cursor > after and only in (None, session_id)
        ]
        assert peer.cursors() == expected


async def test_a_subscription_that_fails_harms_no_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of one subscription is logged and ends only that one."""
    failing, other = stage.follow(), stage.follow()
    await settle()

    def push(messages: list[bytes]) -> None:
        raise RuntimeError("a fault in a subscription")

    monkeypatch.setattr(failing, "push", push)
    new = await stage.add(1)
    assert other.cursors() == new
    assert "a fault in a subscription" in caplog.text
    assert failing.subscriptions == {}


async def test_the_client_of_a_failed_subscription_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscription that cannot read its events ends with the reason ``failed``."""
    failing = stage.follow()
    await settle()

    def admits(*_: object) -> bool:
        raise RuntimeError("a fault in a selection")

    monkeypatch.setattr(Selection, "admits", admits)
    await stage.add(1)
    assert failing.heard()[-1] == ("end", {"reason": "failed"})
    assert failing.subscriptions == {}


async def test_events_before_a_damaged_one_are_sent(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that ends at an event that cannot be read is sent up to it."""
    cursors = await stage.add(3)
    examine = Selection.examine

    def examine_some(*args: Any) -> Iterator[Any]:
        yield from islice(examine(*args), len(cursors))
        raise StoreDamaged("the event cannot be read")

    monkeypatch.setattr(Selection, "examine", examine_some)
    reader = stage.follow(after=0)
    await settle()
    assert len(reader.cursors()) == len(cursors)
    assert reader.heard()[-1] == ("end", {"reason": "failed"})


# Pruned history.


async def test_pruned_history_is_a_gap(stage: Stage) -> None:
    """Pruned history is reported as a gap before later events."""
    cursors = await stage.add(4)
    await stage.change(mark_pruned, "ses_1", cursors[1])
    peer = stage.follow(Filter(session_id="ses_1"), 1)
    await settle()
    assert peer.heard()[0] == ("gap", {"from": 1, "to": cursors[1], "reason": "pruned"})
    assert peer.cursors() == cursors[2:]
    later = stage.follow(Filter(session_id="ses_1"), cursors[1])
    await settle()
    assert later.kinds() == ["event", "event", "synced"]


async def test_history_pruned_while_a_peer_was_slow_is_a_gap(stage: Stage) -> None:
    """History pruned while a client was slow is reported as a gap."""
    peer = stage.follow(Filter(session_id="ses_1"))
    await settle()
    peer.stuck = True
    cursors = await stage.add(1) + await stage.add(3)
    await stage.change(mark_pruned, "ses_1", cursors[2])
    peer.take()
    await settle()
    assert peer.heard()[1:] == [
        ("event", peer.heard()[1][1]),
        ("gap", {"from": cursors[0], "to": cursors[2], "reason": "pruned"}),
        ("event", peer.heard()[3][1]),
    ]
    assert peer.cursors() == [cursors[0], cursors[3]]


async def test_whoever_follows_everything_hears_of_a_gap_once(stage: Stage) -> None:
    """A subscription to everything reports one gap, up to the highest mark."""
    cursors = await stage.add(3)
    await stage.change(mark_pruned, "*", cursors[1])
    peer = stage.follow(after=0)
    await stage.add(1)
    assert peer.kinds().count("gap") == 1
    assert peer.heard()[0] == ("gap", {"from": 0, "to": cursors[1], "reason": "pruned"})
    assert set(cursors) < set(peer.cursors())


# Until settled.


async def test_a_run_is_followed_until_it_has_settled(stage: Stage) -> None:
    """A subscription to a run ends after its last event."""
    await stage.change(put_run, "run_1", "ses_1", "running")
    peer = stage.follow(Filter(run_id="run_1"), 0, until_settled="run_1")
    asked = await stage.change(ask, "run_1", "ses_1", "itm_1")
    ended = await stage.change(end, "run_1", "ses_1")
    await stage.change(add_event, "ses_1", "", "run_1")
    assert peer.cursors() == [asked, ended]
    assert peer.heard()[-1] == ("end", {"reason": "settled"})
    assert peer.subscriptions == {}
    assert len(stage.hub) == 0


async def test_a_run_that_has_settled_already_is_sent_and_ends(stage: Stage) -> None:
    """A subscription to a settled run sends its history and ends."""
    ended = await stage.change(end, "run_1", "ses_1")
    peer = stage.follow(Filter(run_id="run_1"), 0, until_settled="run_1")
    await settle()
    assert peer.cursors() == [ended]
    assert peer.kinds() == ["event", "synced", "end"]


async def test_waiting_for_a_person_is_settled_too(stage: Stage) -> None:
    """A subscription to a run ends when the run waits for a person."""
    await stage.change(put_run, "run_1", "ses_1", "running")
    peer = stage.follow(Filter(run_id="run_1"), 0, until_settled="run_1")
    await settle()

    def wait(tx: Transaction) -> None:
        put_run(tx, "run_1", "ses_1", "waiting_for_approval")
        add_event(tx, "ses_1", "", "run_1")

    await stage.change(wait)
    assert peer.kinds()[-2:] == ["event", "end"]


# Text being written.


def texts(peer: Peer) -> list[tuple[int, int, str]]:
    """Return the deltas: attempt, offset, text."""
    return [
        (params["attempt"], params["offset"], params["text"])
        for kind, params in peer.heard()
        if kind == "delta"
    ]


async def writing(stage: Stage, *pieces: str, session_id: str = "ses_1", run_id: str = "run_1") -> LiveText:
    """Create a run with an answer in progress."""
    await stage.change(ask, run_id, session_id, "itm_1")
    written = stage.live.begin(session_id, run_id, "itm_1", 1)
    for piece in pieces:
        stage.live.append(written, "text", piece)
    return written


async def test_pieces_are_sent_as_they_come(stage: Stage) -> None:
    """Pieces of text are sent at once, only to subscriptions that request deltas."""
    peer = stage.follow(deltas=True)
    without = stage.follow()
    await settle()
    await writing(stage, "Once", " upon")
    assert peer.heard()[-1] == (
        "delta",
        {"run_id": "run_1", "item_id": "itm_1", "attempt": 1, "offset": 4, "kind": "text", "text": " upon"},
    )
    assert texts(peer) == [(1, 0, "Once"), (1, 4, " upon")]
    assert texts(without) == []


async def test_a_new_follower_gets_the_text_so_far(stage: Stage) -> None:
    """A new subscription receives the text so far at offset 0, after ``synced``, thinking first."""
    written = await writing(stage, "Once", " upon")
    stage.live.append(written, "thinking", "hm")
    peer = stage.follow(Filter(run_id="run_1"), 0, deltas=True)
    await settle()
    stage.live.append(written, "text", " a time")
    assert peer.kinds() == ["event", "synced", "delta", "delta", "delta"]
    assert texts(peer) == [(1, 0, "hm"), (1, 0, "Once upon"), (1, 9, " a time")]


async def test_a_slow_follower_gets_merged_text(stage: Stage) -> None:
    """A slow client receives the missed text in one piece, then single pieces again."""
    peer = stage.follow(deltas=True)
    await settle()
    written = await writing(stage, "a")
    peer.stuck = True
    for piece in "bcdef":
        stage.live.append(written, "text", piece)
    await settle()
    assert texts(peer) == [(1, 0, "a"), (1, 1, "b")]
    peer.take()
    await settle()
    stage.live.append(written, "text", "g")
    assert texts(peer)[2:] == [(1, 2, "cdef"), (1, 6, "g")]


async def test_a_slow_follower_gets_the_new_attempt_from_its_start(stage: Stage) -> None:
    """After a new attempt, a slow client receives its text from the start."""
    peer = stage.follow(deltas=True)
    await settle()
    written = await writing(stage, "old")
    peer.stuck = True
    stage.live.append(written, "text", "er")
    stage.live.append(written, "text", "!")
    written = stage.live.begin("ses_1", "run_1", "itm_1", 2)
    stage.live.append(written, "text", "new")
    peer.take()
    await settle()
    assert texts(peer)[-1] == (2, 0, "new")
    assert (1, 5, "!") not in texts(peer)


async def test_the_message_ends_the_text(stage: Stage) -> None:
    """A slow client receives the durable message instead of the missed text."""
    peer = stage.follow(deltas=True)
    await settle()
    written = await writing(stage, "a")
    peer.stuck = True
    stage.live.append(written, "text", "b")
    stage.live.append(written, "text", "c")
    ended = await stage.change(end, "run_1", "ses_1")
    peer.take()
    await settle()
    assert peer.cursors()[-1] == ended
    assert texts(peer) == [(1, 0, "a"), (1, 1, "b")]
    stage.live.end(written)


async def running(stage: Stage, *call_ids: str) -> list[LiveText]:
    """Create a run whose tools run in parallel."""
    await stage.change(call, "run_1", "ses_1", *call_ids)
    return [stage.live.begin("ses_1", "run_1", call_id, 1, TOOL_KINDS) for call_id in call_ids]


def outputs(peer: Peer) -> dict[str, str]:
    """Assemble the output of tools by call and offset; a gap starts it anew."""
    found: dict[str, tuple[int, str]] = {}
    for kind, params in peer.heard():
        if kind == "delta":
            assert params["kind"] == "output"
            start, text = found.get(params["item_id"], (0, ""))
            if params["offset"] != start + len(text):
                assert params["offset"] > start + len(text), "nothing is sent twice"
                start, text = params["offset"], ""
            found[params["item_id"]] = (start, text + params["text"])
    return {call_id: text for call_id, (_, text) in found.items()}


async def test_tools_that_run_side_by_side_are_heard(stage: Stage) -> None:
    """Each running tool is sent under its call's id until its result."""
    peer = stage.follow(deltas=True)
    await settle()
    one, other = await running(stage, "call_1", "call_2")
    stage.live.append(one, "output", "a")
    stage.live.append(other, "output", "b")
    assert outputs(peer) == {"call_1": "a", "call_2": "b"}
    peer.stuck = True
    for piece in "cde":
        stage.live.append(one, "output", piece)
        stage.live.append(other, "output", piece)
    await stage.change(call, "run_1", "ses_1", "call_2")
    peer.take()
    late = stage.follow(deltas=True)
    await settle()
    stage.live.append(other, "output", "f")
    # What came when the peer was just stuck was sent still.
    assert outputs(peer) == {"call_1": "ac", "call_2": "bcdef"}
    assert outputs(late) == {"call_2": "bcdef"}


async def test_who_falls_far_behind_a_tool_gets_the_end(stage: Stage) -> None:
    """A client far behind receives the end of a tool's output with its true offset."""
    peer = stage.follow(deltas=True)
    await settle()
    (written,) = await running(stage, "call_1")
    stage.live.append(written, "output", "first ")
    peer.stuck = True
    whole = "first "
    for number in range(2_000):
        piece = f"{number:099}\n"
        stage.live.append(written, "output", piece)
        whole += piece
    late = stage.follow(deltas=True)
    peer.take()
    await settle()
    stage.live.append(written, "output", "last")
    whole += "last"
    for each in (peer, late):
        text = outputs(each)["call_1"]
        assert len(whole) > len(text) >= MAX_LIVE_CHARACTERS
        assert whole.endswith(text)


async def test_text_of_others_is_not_heard(stage: Stage) -> None:
    """The filter and the caller's limits apply to text as well as to events."""
    await stage.change(add_session, "ses_2", "helper", "bob")
    limited = Caller("token:t", frozenset(("read",)), frozenset(("default",)))
    one_run = stage.follow(Filter(session_id="ses_1", run_id=None), deltas=True)
    covered = stage.follow(deltas=True, caller=limited)
    subtree = stage.follow(Filter(session_id="ses_1", subtree=True), deltas=True)
    await settle()
    await writing(stage, "elsewhere", session_id="ses_2", run_id="run_2")
    await writing(stage, "here")
    for peer in (one_run, covered, subtree):
        assert texts(peer) == [(1, 0, "here")]


async def test_much_text_waits_for_room(stage: Stage) -> None:
    """The text of many runs is sent one run at a time, as the client takes it."""
    for number in range(5):
        await writing(stage, f"text {number}", run_id=f"run_{number}")
    peer = stage.follow(deltas=True)
    for expected in range(5):
        peer.stuck = True
        await settle()
        assert len(texts(peer)) == expected
        peer.clear = True
        peer.wake()
    peer.take()
    await settle()
    assert {text for _, _, text in texts(peer)} == {f"text {number}" for number in range(5)}
    assert len(texts(peer)) == 5


async def test_what_became_a_secret_later_is_not_sent(stage: Stage) -> None:
    """A value that became a secret later is redacted from old events."""
    await stage.add(1, title="it is sk-12345")
    stage.state.store.set_scrub(Scrubber(["sk-12345"]).scrub_journal_line)
    peer = stage.follow(Filter(session_id="ses_1"), 1)
    await settle()
    (renamed,) = [params["event"] for kind, params in peer.heard() if kind == "event"]
    assert renamed["title"] == "it is [scrubbed]"


@pytest.mark.parametrize("seed", range(12))
async def test_text_is_whole_whoever_is_slow_when(stage: Stage, seed: int) -> None:
    """Assembled by offset, every subscription has exactly the written text."""
    chance = random.Random(seed)
    peers: list[Peer] = []
    written = await writing(stage)
    for number in range(80):
        stage.live.append(written, "text", f"<{number}>")
        match chance.randrange(6):
            case 0:
                peers.append(stage.follow(deltas=True))
            case 1 if peers:
                chance.choice(peers).stuck = True
            case 2 if peers:
                chance.choice(peers).take()
            case _:
                await trio.lowlevel.checkpoint()
    for peer in peers:
        peer.take()
    await settle()
    whole = "".join(f"<{number}>" for number in range(80))
    for peer in peers:
        so_far = ""
        for _, offset, text in texts(peer):
            assert offset == len(so_far)
            so_far += text
        assert so_far == whole
