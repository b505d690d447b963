"""A model's weights, as llama.cpp reads them from a file.

Nothing here needs numpy, whose import takes as long as half of the reading.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ppedge.errors import ModelError
from ppedge.llm.binding.ggml import C, Cancel, because, log


class Weights:
    """A loaded model file, as far as its contexts need to know it.

    Attributes:
        pointer: llama.cpp's; None once they are freed.
        path: the file, for messages.
        n_threads: CPU threads of contexts.
        n_vocab, n_embd: sizes of the token embedding matrix.
        n_layer: layers of the model.
        row_width: numbers in a row of embedding input.
        cancel: ends the decode in progress.

    Args:
        path: a GGUF file whose header has been checked.
        n_threads: CPU threads of contexts.
        verbose: let llama.cpp write to stderr until these are closed.

    Raises:
        ModelError: llama.cpp refused the file.
    """

    pointer: Any = None

    def __init__(self, path: Path, *, n_threads: int, verbose: bool) -> None:
        """Read the file."""
        self.path, self.n_threads, self.cancel = path, n_threads, Cancel()
        self._loud = int(verbose)
        log.loud += self._loud
        log.install()
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        with log.complaints() as lines:
            # Kept within the block, whose end may raise: `close` frees what it knows of.
            self.pointer = C.llama_model_load_from_file(os.fsencode(self.path), _model_params())
            if not self.pointer:
                raise ModelError(f"{self.path}: llama.cpp cannot load this model{because(lines)}")
        self.n_vocab = int(C.llama_vocab_n_tokens(C.llama_model_get_vocab(self.pointer)))
        self.n_embd = int(C.llama_model_n_embd(self.pointer))
        self.n_layer = int(C.llama_model_n_layer(self.pointer))
        wide = getattr(C, "llama_model_n_embd_inp", C.llama_model_n_embd)
        self.row_width = int(wide(self.pointer))

    def close(self) -> None:
        """Free them, once no context is left; safe to call twice."""
        if self.pointer:
            C.llama_model_free(self.pointer)
        self.pointer = None
        log.loud -= self._loud
        self._loud = 0

    def __del__(self) -> None:
        """Free what was not closed."""
        if self.pointer:
            self.close()


def _model_params() -> Any:
    params = C.llama_model_default_params()
    # ggml's AMX kernels crash the process on batches of many tokens (ggml-org/llama.cpp#20824;
    # seen with llama-cpp-python 0.3.36); the extra buffers are how they come into play.
    if b"AMX_INT8 = 1" in C.llama_print_system_info() and hasattr(params, "use_extra_bufts"):
        params.use_extra_bufts = False
    return params


log.install()
C.llama_backend_init()
