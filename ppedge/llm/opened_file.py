"""A model file, checked and read: what of opening a model can go on beside Python's imports."""

from __future__ import annotations

from pathlib import Path

from ppedge.closable import Closable
from ppedge.errors import ModelError
from ppedge.llm.binding.weights import Weights
from ppedge.llm.gguf import Gguf
from ppedge.llm.preflight import ensure_loadable
from ppedge.processors import default_threads


class OpenedFile(Closable):
    """A GGUF file that was checked, and its weights; a `ppedge.llm.llm.LLM` is made of one.

    Attributes:
        gguf: the file.
        weights: what llama.cpp read of it.

    Args:
        path: the GGUF file.
        n_threads: CPU threads; None takes what this process may use, half of it above four.
        verbose: let llama.cpp write to stderr, as long as the model is open.

    Raises:
        ModelError: the file is missing, damaged or not supported.
    """

    def __init__(
        self, path: str | Path, *, n_threads: int | None = None, verbose: bool = False
    ) -> None:
        """Check and read it."""
        ensure_size("n_threads", n_threads)
        self.gguf = Gguf(path)
        try:
            ensure_loadable(self.gguf)
            self.weights = Weights(
                self.gguf.path, n_threads=n_threads or default_threads(), verbose=verbose
            )
        except BaseException:
            self.gguf.close()
            raise

    def close(self) -> None:
        """Free the weights and let go of the file."""
        self.weights.close()
        self.gguf.close()


def ensure_size(name: str, value: int | None) -> None:
    """Raise a ModelError unless a number of threads or positions, where it is given, can be one."""
    if value is not None and not 1 <= value < 2**31:
        raise ModelError(f"{name} must be at least 1, not {value}")
