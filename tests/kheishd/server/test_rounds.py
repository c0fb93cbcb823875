"""Rounds: a crowd of mutations is prepared in portions, in order, and none is lost."""

from itertools import pairwise

import trio
import trio.testing

from kheishd.server.rounds import MAX_ROUND_MUTATIONS, MutationRounds


class Crowd:
    """Tasks that begin a mutation each; ``begun`` lists them in the order in which they had room."""

    def __init__(self, rounds: MutationRounds) -> None:
        self.begun: list[int] = []
        self._rounds = rounds

    async def begin(self, number: int) -> None:
        """Begin a mutation as soon as there is room."""
        if not self._rounds.begin():
            await self._rounds.wait()
        self.begun.append(number)


async def test_a_crowd_begins_in_portions(nursery: trio.Nursery) -> None:
    """Each round has so many mutations, and those that wait begin in the order of their arrival."""
    rounds = MutationRounds()
    crowd = Crowd(rounds)
    total = 3 * MAX_ROUND_MUTATIONS + 5
    sizes = [0]
    for number in range(total):
        if rounds.begin():
            crowd.begun.append(number)
        else:
            nursery.start_soon(rounds.wait)
    await trio.testing.wait_all_tasks_blocked()
    assert crowd.begun == list(range(MAX_ROUND_MUTATIONS))
    waiting = Crowd(MutationRounds())
    async with trio.open_nursery() as inner:
        for number in range(total):
            inner.start_soon(waiting.begin, number)
        while len(waiting.begun) < total:
            sizes.append(len(waiting.begun))
            await trio.lowlevel.checkpoint()
    assert sorted(waiting.begun) == list(range(total))
    # This task runs once in each round, before or after the tasks that begin in it.
    steps = [later - earlier for earlier, later in pairwise([*sizes, total])]
    assert max(steps) <= 2 * MAX_ROUND_MUTATIONS


async def test_a_later_mutation_does_not_overtake(nursery: trio.Nursery) -> None:
    """A mutation that arrives while others wait takes none of their room."""
    rounds = MutationRounds()
    crowd = Crowd(rounds)
    for number in range(2 * MAX_ROUND_MUTATIONS):
        if not rounds.begin():
            await trio.testing.wait_all_tasks_blocked()
            break
        crowd.begun.append(number)
    for number in range(MAX_ROUND_MUTATIONS):
        assert rounds.begin(), f"after a pause there is room for {number}"
    assert not rounds.begin()


async def test_a_cancelled_wait_takes_no_room() -> None:
    """A connection that is closed while it waits is forgotten."""
    rounds = MutationRounds()
    while rounds.begin():
        pass
    with trio.move_on_after(0) as scope:
        await rounds.wait()
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert all(rounds.begin() for _ in range(MAX_ROUND_MUTATIONS))
