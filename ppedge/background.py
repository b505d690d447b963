"""Work on a thread of its own, for an event loop that must not wait for it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import asyncio

_Item = str | BaseException | None
"""A piece, what went wrong, or None behind the last piece."""


class AsyncPieces(AsyncIterator[str]):
    """Pieces of text that a thread makes, for ``async for``.

    The thread begins with the first piece that is asked for, and makes them as fast as it can.
    When the loop is left early, by ``break``, an error or the task's cancellation, they are
    cancelled, and the thread ends soon.
    """

    def __init__(self, pieces: Iterator[str], cancel: Callable[[], None]) -> None:
        """Get ready; nothing runs yet.

        Args:
            pieces: made on the thread.
            cancel: ends them soon; safe from any thread.
        """
        self._pieces, self._cancel = pieces, cancel
        self._queue: asyncio.Queue[_Item] | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> str:
        """Return the next piece; what goes wrong on the thread is raised here."""
        if self._ended:
            raise StopAsyncIteration
        queue = self._start() if self._queue is None else self._queue
        try:
            item = await queue.get()
        except BaseException:  # The task is cancelled.
            self._leave()
            raise
        if isinstance(item, str):
            return item
        self._end()
        if item is None:
            raise StopAsyncIteration
        raise item

    async def aclose(self) -> None:
        """Cancel what is left, and wait until the thread has let go of it."""
        self._cancel()
        while not self._ended and self._queue is not None:
            if not isinstance(await self._queue.get(), str):
                self._end()
        self._ended = True

    def __del__(self) -> None:
        """Cancel: nobody can ask for the rest any more."""
        if self._queue is not None and not self._ended:
            self._leave()

    def _end(self) -> None:
        self._ended = True
        if self._thread is not None:
            self._thread.join()  # It has said its last word, so this is no wait.

    def _leave(self) -> None:
        self._ended = True
        self._cancel()

    def _start(self) -> asyncio.Queue[_Item]:
        import asyncio  # Late: most programs have no event loop.

        loop = asyncio.get_running_loop()
        self._queue = queue = asyncio.Queue[_Item]()

        def put(item: _Item) -> bool:
            try:
                loop.call_soon_threadsafe(queue.put_nowait, item)
            except RuntimeError:
                return False  # The loop is closed, and with it the task that read.
            return True

        # The thread must not know this object, or it would never be missed.
        work = (self._pieces, self._cancel, put)
        self._thread = threading.Thread(target=_make, args=work, name="ppedge answer")
        self._thread.start()
        return queue


def _make(pieces: Iterator[str], cancel: Callable[[], None], put: Callable[[_Item], bool]) -> None:
    """Make pieces until there are no more, or nobody is left to read them."""
    end: BaseException | None = None
    try:
        for piece in pieces:
            if not put(piece):
                cancel()
    except BaseException as error:  # It belongs to the task that reads.
        end = error
    put(end)


class TimeLimit:
    """Calls a function once a time is up, unless its block ended before.

    Attributes:
        passed: whether the time was up.
    """

    def __init__(self, seconds: float | None, end: Callable[[], None]) -> None:
        """Get ready.

        Args:
            seconds: of the block; None for no limit.
            end: called from a thread of its own.
        """
        self.passed = False
        self._end = end
        self._timer = None if seconds is None else threading.Timer(seconds, self._pass)
        if self._timer is not None:
            self._timer.daemon = True  # A program that ends does not wait for it.

    def __enter__(self) -> Self:
        """Begin to count."""
        if self._timer is not None:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        if self._timer is not None:
            self._timer.cancel()

    def _pass(self) -> None:
        self.passed = True
        self._end()
