import asyncio

from asr.engine import Hypothesis
from asr.latest import Latest


def words(text: str) -> Hypothesis:
    return Hypothesis(tentative=text)


async def follow(latest: Latest, pause: float = 0.0) -> list[str]:
    heard = []
    async for hypothesis in latest.each():
        heard.append(hypothesis.text)
        await asyncio.sleep(pause)
    return heard


async def test_what_was_told_before_anybody_followed_is_told() -> None:
    latest = Latest(Hypothesis())
    latest.tell(words("book"))
    latest.end()
    assert await follow(latest) == ["book"]


async def test_one_who_is_slow_is_told_the_last_words_too() -> None:
    latest = Latest(Hypothesis())
    following = asyncio.create_task(follow(latest, 0.05))
    await asyncio.sleep(0.01)
    latest.tell(words("book"))
    await asyncio.sleep(0.01)
    latest.tell(words("book me"))
    latest.tell(words("book me on monday"))
    latest.end()
    assert await following == ["book", "book me on monday"]


async def test_two_may_follow_and_nothing_told_is_nothing_heard() -> None:
    latest, silent = Latest(Hypothesis()), Latest(Hypothesis())
    both = asyncio.gather(follow(latest), follow(latest), follow(silent))
    await asyncio.sleep(0.01)
    latest.tell(words("yes"))
    await asyncio.sleep(0.01)
    latest.end()
    silent.end()
    assert await both == [["yes"], ["yes"], []]
