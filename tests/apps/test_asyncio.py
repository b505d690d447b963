"""An answer in an event loop: it streams, never blocks the loop, and ends when nobody reads on."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable
from contextlib import aclosing, suppress

import pytest

from ppedge import Answer, ModelError, Persona, Personalizer
from tests.apps.test_threads import LONG, PROMPT, RAMBLE, WARM, rambling


def workers() -> list[threading.Thread]:
    """The threads that write answers."""
    return [each for each in threading.enumerate() if each.name == "ppedge answer"]


def ended(answer: Answer, *, within: float = 10) -> bool:
    """Whether an answer ends soon, and its thread with it; what was read of it is dropped."""
    gc.collect()
    began = time.monotonic()
    while (answer.finish is None or workers()) and time.monotonic() - began < within:
        time.sleep(0.005)
    return answer.finish is not None and not workers()


def test_the_pieces_are_those_of_a_plain_loop(
    personalizer: Personalizer, people: dict[str, Persona]
) -> None:
    async def read() -> list[str]:
        answer = await personalizer.astream(PROMPT, people["doctor"], WARM)
        return [piece async for piece in answer]

    plain = list(personalizer.stream(PROMPT, people["doctor"], WARM))
    assert asyncio.run(read()) == plain
    assert len(plain) > 4
    assert not workers()


def test_several_tasks_get_what_they_would_get_alone(
    personalizer: Personalizer, people: dict[str, Persona]
) -> None:
    async def ask(persona: Persona | None) -> str:
        answer = await personalizer.astream(PROMPT, persona, WARM)
        return await answer.aread()

    async def ask_all() -> list[str]:
        return await asyncio.gather(*map(ask, [*people.values(), None]))

    alone = [
        personalizer.stream(PROMPT, persona, WARM).read() for persona in [*people.values(), None]
    ]
    assert asyncio.run(ask_all()) == alone


def test_the_loop_goes_on_while_a_new_persona_is_read_and_answers(
    personalizer: Personalizer, people: dict[str, Persona]
) -> None:
    """No gap comes near to what reading the notes or the whole answer takes."""
    gaps: list[float] = []

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    async def read() -> float:
        beating = asyncio.create_task(beat())
        began = time.monotonic()
        answer = await personalizer.astream(PROMPT, people["captain"], WARM)
        await answer.aread()
        beating.cancel()
        return time.monotonic() - began

    personalizer.llm.clear()
    took = asyncio.run(read())
    assert len(gaps) > 10
    assert max(gaps) < took / 2


async def leave_by_break(answer: Answer) -> None:
    async for _ in answer:
        break


async def leave_by_error(answer: Answer) -> None:
    with suppress(ZeroDivisionError):
        async for _ in answer:
            raise ZeroDivisionError


async def leave_by_cancelled_read(answer: Answer) -> None:
    task = asyncio.create_task(answer.aread())
    while not answer.text:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_while_doing_something_else(answer: Answer) -> None:
    async def read() -> None:
        async for _ in answer:
            await asyncio.sleep(60)

    task = asyncio.create_task(read())
    while not answer.text:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_the_tasks_own_timeout(answer: Answer) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(answer.aread(), 0.3)


async def leave_by_closing(answer: Answer) -> None:
    async with aclosing(aiter(answer)) as pieces:
        await anext(pieces)
    assert answer.finish == "cancelled"  # It has ended by now.
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)


WAYS = [
    leave_by_break,
    leave_by_error,
    leave_by_cancelled_read,
    leave_while_doing_something_else,
    leave_by_the_tasks_own_timeout,
    leave_by_closing,
]


@pytest.mark.parametrize("leave", WAYS, ids=lambda way: way.__name__.removeprefix("leave_"))
def test_leaving_the_loop_cancels_the_answer(
    personalizer: Personalizer, leave: Callable[[Answer], object]
) -> None:
    async def leave_and_look() -> Answer:
        answer = await personalizer.astream(RAMBLE, None, LONG)
        await leave(answer)  # type: ignore[misc]
        assert await asyncio.to_thread(ended, answer)  # While the loop still runs.
        return answer

    answer = asyncio.run(leave_and_look())
    assert answer.finish == "cancelled"
    assert answer.generation.new_tokens < 600


def test_an_event_loop_that_is_closed_ends_the_answer(personalizer: Personalizer) -> None:
    answer = rambling(personalizer)
    loop = asyncio.new_event_loop()
    pieces = aiter(answer)
    loop.run_until_complete(anext(pieces))
    loop.close()
    assert ended(answer)
    assert answer.finish == "cancelled"


def test_what_goes_wrong_on_the_thread_is_raised_in_the_loop() -> None:
    async def read(opened: Personalizer) -> None:
        answer = rambling(opened)
        async for _ in answer:
            await asyncio.to_thread(opened.close)

    with Personalizer.open() as opened, pytest.raises(ModelError) as caught:
        asyncio.run(read(opened))
    assert str(caught.value) == f"{opened.llm.path}: this model has been closed"
    assert not workers()


def test_a_timeout_ends_an_answer_in_the_loop_without_an_error(personalizer: Personalizer) -> None:
    async def read() -> Answer:
        answer = await personalizer.astream(RAMBLE, None, LONG, timeout=0.5)
        await answer.aread()
        return answer

    answer = asyncio.run(read())
    assert answer.finish == "timeout"


def test_a_program_that_ends_in_the_middle_of_an_answer_ends(personalizer: Personalizer) -> None:
    """Not after the hundreds of tokens that were to come, and without a traceback."""
    import subprocess

    program = (
        "import asyncio\n"
        "from ppedge import Personalizer, Sampling\n"
        "async def main():\n"
        "    personalizer = await asyncio.to_thread(Personalizer.open)\n"
        f"    answer = await personalizer.astream({RAMBLE!r}, None, Sampling(max_tokens=600))\n"
        "    async for piece in answer:\n"
        "        print('a piece', flush=True)\n"
        "        return answer\n"
        "answer = asyncio.run(main())\n"
        "print(answer.finish in (None, 'cancelled'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a piece\nTrue\n", "")
