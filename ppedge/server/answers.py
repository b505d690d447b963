"""An answer for one client: written on the model's thread, cancelled when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from starlette.types import Receive

from ppedge.answer import Answer
from ppedge.errors import ModelError
from ppedge.personalizer import Personalizer
from ppedge.server.bodies import Asked
from ppedge.server.errors import bad
from ppedge.server.guard import Limits
from ppedge.server.line import Job, Line, ending
from ppedge.server.people import People, persona_name

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Begun:
    """The request makes sense, and its answer is about to come.

    Attributes:
        seed: by which it is drawn.
    """

    seed: int


@dataclass(frozen=True, slots=True)
class Written:
    """An answer's end.

    Attributes:
        text: the whole of it.
        finish: "stop" or "length", as OpenAI has it.
        prompt_tokens: positions of the prompt, the persona's turns among them.
        new_tokens: tokens drawn.
        is_cut: whether somebody ended it.
    """

    text: str
    finish: str
    prompt_tokens: int
    new_tokens: int
    is_cut: bool

    @property
    def usage(self) -> dict[str, int]:
        """The counts, as OpenAI has them."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": self.prompt_tokens + self.new_tokens,
        }


class Answers:
    """Has answers written, one at a time.

    Args:
        personalizer: writes them.
        people: whose personas.
        line: the line before the model.
        limits: how long an answer may take.
    """

    def __init__(
        self, personalizer: Personalizer, people: People, line: Line, limits: Limits
    ) -> None:
        """Write nothing yet."""
        self._personalizer, self._people = personalizer, people
        self._line, self._limits = line, limits

    @asynccontextmanager
    async def answer(
        self, asked: Asked, receive: Receive
    ) -> AsyncIterator[AsyncGenerator[Begun | str | Written, None]]:
        """Give an iterator over an answer: `Begun`, pieces of text, `Written`.

        Args:
            asked: what to write.
            receive: tells when the client goes away, which ends the answer.

        Raises:
            ApiError: the line is full, or the server is about to end; while iterating, what was
                asked for cannot be written.
        """
        name = persona_name(asked.model)
        if name is None and asked.best_of > 1:
            raise bad(
                "the bare model has nothing to choose the best by; name a persona's", "best_of"
            )

        def write(job: Job) -> None:
            with ExitStack() as stack:
                persona = None
                if name is not None:
                    persona = stack.enter_context(self._people.opened(name, asked.scope))
                try:
                    answer = self._personalizer.stream(
                        asked.prompt,
                        persona,
                        asked.sampling,
                        strength=asked.strength,
                        best_of=asked.best_of,
                        conversation=asked.conversation,
                        timeout=self._limits.answer_seconds,
                    )
                except ModelError as error:
                    # Such as a prompt that is too long: nothing was begun, and it is the request's.
                    raise bad(str(error)) from None
                job.stops_by(answer.cancel)
                job.tell(Begun(answer.generation.seed))
                for piece in answer:
                    job.tell(piece)
                job.tell(_written(answer))

        async with self.working(write, receive) as job:
            yield self._whole(job)

    async def one(self, work: Callable[[Personalizer, People], Result], receive: Receive) -> Result:
        """Have something else done by the model, and wait for it.

        Args:
            work: is called on the model's thread.
            receive: tells when the client goes away.

        Raises:
            ApiError: as `answer`.
        """
        async with self.working(
            lambda job: job.tell(work(self._personalizer, self._people)), receive
        ) as job:
            async for result in job:
                return cast("Result", result)
        raise ending()

    @asynccontextmanager
    async def working(self, work: Callable[[Job], None], receive: Receive) -> AsyncIterator[Job]:
        """A job in the line, which ends with the block, or when its client goes away.

        Raises:
            ApiError: the line is full, or the server is about to end.
        """
        job = self._line.join(work)
        async with AsyncExitStack() as stack:
            stack.callback(job.cancel)
            watching = asyncio.create_task(_cancel_when_gone(receive, job))
            stack.callback(watching.cancel)
            yield job

    async def _whole(self, job: Job) -> AsyncGenerator[Any, None]:
        """What the job tells, if it comes to its end."""
        async for told in job:
            if isinstance(told, Written):
                if told.is_cut and self._line.closing:
                    break
                yield told
                return
            yield told
        raise ending()


def _written(answer: Answer) -> Written:
    done = answer.generation
    finish = "stop" if done.finish == "stop" else "length"
    is_cut = done.finish == "cancelled"
    return Written(done.text, finish, done.prompt_tokens, done.new_tokens, is_cut)


async def _cancel_when_gone(receive: Receive, job: Job) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    job.cancel()
