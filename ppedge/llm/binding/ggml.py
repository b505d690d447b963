"""What ppedge asks of ggml itself: its messages, its abort callback, its dequantisation."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ppedge.errors import ModelError
from ppedge.llm.binding.importing import binding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

C: Final = binding()

# enum ggml_log_level
_ERROR: Final = 4
_CONTINUED: Final = 5
_LOAD_ERROR: Final = "llama_model_load: error loading model: "


_THREADED_IN: set[int] = set()  # the process whose threads OpenMP has, once it has any


def ensure_threads(path: Path) -> None:
    """Refuse to compute on several threads in a fork of a process that has done so.

    A fork takes no threads along, and OpenMP would wait for them for ever.

    Raises:
        ModelError: this is such a process.
    """
    _THREADED_IN.add(os.getpid())
    if len(_THREADED_IN) > 1:
        _THREADED_IN.remove(os.getpid())
        raise ModelError(
            f"{path}: this process was forked from one in which a model had run, and a fork takes "
            "no threads along; start it by the method spawn, or fork before a model is opened"
        )


class Log:
    """Keeps llama.cpp's messages from the terminal, and its complaints for error messages.

    Attributes:
        loud: how many models want the messages on stderr.
    """

    def __init__(self) -> None:
        """Say nothing until asked to."""
        self.loud = 0
        self._level = 0
        self._here = threading.local()
        # Held for the life of the process: llama.cpp keeps the bare pointer.
        self._callback = C.llama_log_callback(self._receive)

    def install(self) -> None:
        """Become the place where all of llama.cpp's messages go."""
        C.llama_log_set(self._callback, None)

    def remove(self) -> None:
        """Give the messages back to ggml's own printer, which needs no Python."""
        C.llama_log_set(C.llama_log_callback(), None)

    @contextmanager
    def complaints(self) -> Iterator[deque[str]]:
        """Collect the errors that this thread's calls log meanwhile.

        Raises:
            KeyboardInterrupt: Ctrl-C came while llama.cpp was telling something.
        """
        outer = getattr(self._here, "lines", None)
        self._here.lines = lines = deque[str](maxlen=8)
        try:
            with _interrupts_kept():
                yield lines
        finally:
            self._here.lines = outer

    def _receive(self, level: int, text: bytes, _: object) -> None:
        self._level = level if level != _CONTINUED else self._level
        message = text.decode("utf-8", "replace")
        if self.loud and sys.stderr is not None:
            sys.stderr.write(message)
        lines = getattr(self._here, "lines", None)
        if lines is not None and self._level == _ERROR and message.strip():
            lines.append(" ".join(message.split()))


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Raise behind the block a KeyboardInterrupt that a callback of C met within it.

    Python delivers Ctrl-C to whatever Python code runs next. Where that is a callback, ctypes can
    hand the exception to nobody, and the program would go on as if nothing had been pressed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Signals come to the main thread alone.
        return
    met: list[BaseException] = []
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            met.append(unraisable.exc_value)
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
    if met:
        raise KeyboardInterrupt


log: Final = Log()


def because(lines: Sequence[str]) -> str:
    """Return what llama.cpp complained about first, as the end of an error message."""
    return f": {lines[0].removeprefix(_LOAD_ERROR)}" if lines else ""


class Cancel:
    """A switch that ends the work it was handed to, from any thread."""

    def __init__(self) -> None:
        """Begin unset."""
        self._bytes = (ctypes.c_char * 2)()

    def set(self) -> None:
        """End the work promptly, even in the middle of decoding a long prompt."""
        self._bytes[0] = b"\x01"

    def is_set(self) -> bool:
        """Tell whether ``set`` was called."""
        return bool(self._bytes[0] != b"\x00")

    @property
    def address(self) -> int:
        """Where ``abort_when_set`` looks; valid while this object lives."""
        return ctypes.addressof(self._bytes)


def _strlen_address() -> int:
    libc = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
    return int(ctypes.cast(libc.strlen, ctypes.c_void_p).value or 0)


# ggml asks "abort?" before each of a thousand graph nodes a token. strlen over a Cancel's
# bytes answers in C (0, or 1 once set); a Python callback would wait for the interpreter lock.
abort_when_set: Final = C.ggml_abort_callback(_strlen_address())


def dequantize(rows: NDArray[np.uint8], name: str, n_embd: int) -> NDArray[np.float32]:
    """Turn quantised rows into floats with ggml's own routine.

    Args:
        rows: uint8 [n, bytes in a row].
        name: ggml type name, for example ``"q8_0"``.
        n_embd: weights in a row.

    Returns:
        float32 [n, n_embd].

    Raises:
        ModelError: this llama.cpp cannot read the type.
    """
    import numpy as np  # Late: the file is read without it.

    routine = _function(f"dequantize_row_{name}")
    if routine is None:
        raise ModelError(f"embedding rows of type {name} cannot be read by this llama.cpp")
    routine.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    routine.restype = None
    rows = np.ascontiguousarray(rows)
    floats = np.empty((len(rows), n_embd), np.float32)
    routine(rows.ctypes.data, floats.ctypes.data, floats.size)
    return floats


def _function(name: str) -> Any:
    found = getattr(C._lib, name, None)
    if found is None:
        # Where a library does not show its dependencies' symbols (Windows).
        loader = importlib.import_module("llama_cpp._ctypes_extensions")
        base = loader.load_shared_library("ggml-base", Path(C._base_path))
        found = getattr(base, name, None)
    return found
