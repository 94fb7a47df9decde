"""Who takes over begins with what has changed lately."""

import asyncio

from ipvs_operator.items import Item, Work
from ipvs_operator.leading import RECENT_SECONDS, Leading
from ipvs_operator.queue import KeyedQueue


def item(name: str) -> Item:
    return Item(Work.SERVICE, "shop", name)


async def drained(queue: KeyedQueue[Item]) -> list[str]:
    found = []
    while len(queue):
        each = await queue.get()
        assert each is not None
        queue.done(each)
        found.append(each.name)
    return found


def test_nothing_is_worked_on_before_it_leads_and_the_latest_news_come_first_then() -> None:
    async def story() -> None:
        now = 0.0
        queue: KeyedQueue[Item] = KeyedQueue()
        leading = Leading(queue, lambda: now)
        for name in ("old", "again", "late"):
            leading.mark(item(name))
            now += RECENT_SECONDS / 2
        leading.mark(item("again"), bulk=True)
        assert len(queue) == 0
        leading.begin(item(name) for name in ("all", "old", "late", "again"))
        assert await drained(queue) == ["late", "again", "all", "old"]
        leading.mark(item("bulk"), bulk=True)
        leading.mark(item("news"))
        assert await drained(queue) == ["news", "bulk"]

    asyncio.run(story())


def test_what_waits_for_its_turn_to_lead_does_not_grow_with_time() -> None:
    async def story() -> None:
        now = 0.0
        queue: KeyedQueue[Item] = KeyedQueue()
        leading = Leading(queue, lambda: now)
        for number in range(1000):
            leading.mark(item(f"web-{number}"))
            now += 1.0
        leading.begin(())
        assert len(await drained(queue)) <= RECENT_SECONDS + 1

    asyncio.run(story())
