"""How text becomes the frozen LLM's token ids, in training as at run time."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from ppedge.errors import ModelError
from ppedge.llm.gguf import Gguf
from ppedge.llm.segments import Text

NO_LLAMA = "note: no llama-cpp-python here; transformers cuts text into tokens in its place"


class Words(Protocol):
    """How text becomes token ids."""

    start: list[int]  # what the model wants before everything
    end: int  # closes an answer

    def tokens(self, text: str, special: bool) -> list[int]: ...


class GgufWords:
    """llama.cpp's own tokenizer of a GGUF: what the run time uses, so the two cannot differ."""

    def __init__(self, path: Path) -> None:
        from ppedge.llm.llm import LLM  # It wants llama-cpp-python at once.

        try:
            self._llm = LLM(path, n_ctx=64, n_threads=1)
        except ModelError as error:
            raise ValueError(str(error)) from None
        if self._llm.has_encoder:
            raise ValueError(f"{path}: an encoder-decoder model; training wants a causal one")
        bare = self._llm.tokenize("a")
        self.start = self._llm.tokens([Text("a")])[: -len(bare)]
        self.end = gguf_end(path)

    def tokens(self, text: str, special: bool) -> list[int]:
        return self._llm.tokenize(text, special=special)

    def ensure_steerable(self, n_control: int) -> None:
        self._llm.ensure_steerable(n_control)


def gguf_end(path: Path) -> int:
    """Id of the token that closes an answer, as a GGUF names it.

    Raises:
        ValueError: it names none.
    """
    with Gguf(path) as gguf:
        end = gguf.get("tokenizer.ggml.eot_token_id", gguf.get("tokenizer.ggml.eos_token_id"))
    if end is None:
        raise ValueError(f"{path} names no end-of-text token (tokenizer.ggml.eos_token_id)")
    return int(end)


def gguf_words(llm: Path | str) -> GgufWords | None:
    """The tokenizer of a GGUF; None for other models, and without llama-cpp-python.

    On a rented GPU it is often not there. Transformers then reads the GGUF's vocabulary itself.
    """
    if not str(llm).endswith(".gguf"):
        return None
    if "llama_cpp" not in sys.modules and importlib.util.find_spec("llama_cpp") is None:
        print(NO_LLAMA, file=sys.stderr)
        return None
    return GgufWords(Path(llm))


class TransformersWords:
    """The tokenizer of a Hugging Face model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self._inner = tokenizer.backend_tokenizer
        if name.endswith(".gguf"):
            # transformers 5.17 takes SmolLM2's beginning of a turn for its end.
            self.end = gguf_end(Path(name))
        elif tokenizer.eos_token_id is None:
            raise ValueError(f"{name}: its tokenizer names no end-of-text token (eos_token)")
        else:
            self.end = int(tokenizer.eos_token_id)
        first, bos = tokenizer("a")["input_ids"][:1], tokenizer.bos_token_id
        self.start = [bos] if bos is not None and list(first) == [bos] else []

    def tokens(self, text: str, special: bool) -> list[int]:
        # The tokenizer within: what transformers puts around it takes five times as long.
        self._inner.encode_special_tokens = not special
        return list(self._inner.encode(text, add_special_tokens=False).ids)
