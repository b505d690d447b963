"""The line before the model: one request at a time, in the order in which they came.

The model's work is done on one thread. A job tells what it has so far to the event loop and never
waits for it to be read: a client that reads slowly holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from ppedge.closable import Closable
from ppedge.server.errors import ApiError

_END: Final = object()


class Job:
    """One request's work: iterate over what it tells; `cancel` ends it early."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use `Line.join` instead."""
        self._loop = loop
        self._told: asyncio.Queue[Any] = asyncio.Queue()
        self._stop: Callable[[], None] | None = None
        self._future: Future[None] | None = None
        self.cancelled = False

    # --- on the model's thread ---

    def tell(self, piece: Any) -> None:
        """Hand something to whoever iterates, without waiting."""
        with suppress(RuntimeError):  # The loop has ended, and nobody is left to tell.
            self._loop.call_soon_threadsafe(self._told.put_nowait, piece)

    def stops_by(self, stop: Callable[[], None]) -> None:
        """Say how what is under way is ended from another thread."""
        self._stop = stop
        # `cancel` sets one and reads the other in the opposite order, so one of both sees it.
        if self.cancelled:
            stop()

    # --- on the event loop ---

    def cancel(self) -> None:
        """End soon, be it waiting or under way; safe at any time."""
        self.cancelled = True
        if self._stop is not None:
            self._stop()
        if self._future is not None:
            self._future.cancel()

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Yield what the work tells, to its end.

        Raises:
            Exception: what ended the work.
        """
        while True:
            piece = await self._told.get()
            if piece is _END:
                return
            if isinstance(piece, _Failure):
                raise piece.error
            yield piece

    def _start(self, future: Future[None]) -> None:
        self._future = future

    def _ended(self, future: Future[None]) -> None:
        try:
            error = future.exception()
        except CancelledError:
            error = None
        self.tell(_END if error is None else _Failure(error))


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class Line(Closable):
    """Does jobs one by one; all methods are for the event loop's thread.

    Args:
        waiting: how many may wait beside the one that is being done.
        seconds: after which a client that found it full may try again.
    """

    def __init__(self, waiting: int, seconds: int = 2) -> None:
        """Start the model's thread when the first job comes."""
        self._waiting, self._seconds = waiting, seconds
        self._thread = ThreadPoolExecutor(1, "ppedge-model")
        self._jobs: set[Job] = set()
        self.closing = False

    def join(self, work: Callable[[Job], None]) -> Job:
        """Put work at the line's end.

        Args:
            work: is called on the model's thread.

        Raises:
            ApiError: 503: the line is full, or the server is about to end.
        """
        if self.closing:
            raise ending()
        if len(self._jobs) > self._waiting:
            raise ApiError(
                503,
                f"{self._waiting} requests wait for the model already; ask again soon",
                code="busy",
                retry_after=self._seconds,
            )
        loop = asyncio.get_running_loop()
        job = Job(loop)
        self._jobs.add(job)
        future = self._thread.submit(_do, job, work)
        job._start(future)
        future.add_done_callback(job._ended)
        future.add_done_callback(lambda _: self._leave(loop, job))
        return job

    def cancel_all(self) -> None:
        """End what is under way and what waits; nobody may join any more."""
        self.closing = True
        for job in list(self._jobs):
            job.cancel()

    def close(self) -> None:
        """End everything, and wait until the model is idle."""
        self.cancel_all()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _leave(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        with suppress(RuntimeError):  # The loop has ended.
            loop.call_soon_threadsafe(self._jobs.discard, job)


def _do(job: Job, work: Callable[[Job], None]) -> None:
    if not job.cancelled:
        work(job)


def ending() -> ApiError:
    """What a request is told that the server's end cuts off."""
    return ApiError(503, "the server is ending; start it again", code="ending")
