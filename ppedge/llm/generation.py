"""An answer while it is written: tokens drawn one by one, handed out as clean pieces of text."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from time import perf_counter
from typing import Literal

from ppedge.llm.binding.context import Aborted
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.binding.model import Model
from ppedge.llm.binding.sampler import Sampler
from ppedge.llm.logits_processor import LogitsProcessor, apply
from ppedge.llm.prefix_cache import PrefixCache
from ppedge.llm.prompt import Prompt
from ppedge.llm.sampling import MAX_SEED, Sampling, TextStream

Finish = Literal["stop", "length", "cancelled", "timeout"]
"""Why a text ended: by itself or a stop string; no more room or tokens; somebody cancelled, or the
time of ``Personalizer.stream`` was up."""


class Generation:
    """An answer while it is written: iterate over it for pieces of text.

    Attributes:
        text: what was written so far; whole once iteration has ended.
        prompt_tokens: positions of the prompt (BOS and soft tokens included).
        new_tokens: tokens drawn so far, the one that ended the text not counted.
        finish: "stop" (end of text, or a stop string), "length" (``max_tokens`` or the context is
            used up), "cancelled", "timeout", or None while it goes on.
        seed: the seed in use, also when ``Sampling.seed`` was None.
        seconds_prefill: time to decode the prompt.
        seconds_decode: time for the new tokens, waiting for the reader not counted.
    """

    def __init__(
        self,
        model: Model,
        cache: PrefixCache,
        prompt: Prompt,
        sampling: Sampling,
        processor: LogitsProcessor | None = None,
    ) -> None:
        """Get ready; nothing is decoded before the first piece is asked for."""
        self._model = model
        self._cache = cache
        self._prompt = prompt
        self._sampling = sampling
        self._processor = processor
        self._written: list[int] = []
        self._cancel = Cancel()
        self.seed = secrets.randbelow(MAX_SEED + 1) if sampling.seed is None else sampling.seed
        self.text = ""
        self.prompt_tokens = len(prompt.encoder or prompt.decoder)
        self.new_tokens = 0
        self.finish: Finish | None = None
        self.seconds_prefill = 0.0
        self.seconds_decode = 0.0
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        """Return itself: a text is written once."""
        return self

    def __next__(self) -> str:
        """Return the next piece of text, never empty."""
        piece = next(self._pieces)
        self.text += piece
        return piece

    @property
    def cancelling(self) -> Cancel:
        """Ends the writing once it is set."""
        return self._cancel

    def read(self) -> str:
        """Write to the end and return the whole text."""
        for _ in self:
            pass
        return self.text

    def cancel(self) -> None:
        """End promptly, from any thread; what was written stays."""
        self._cancel.set()

    def _run(self) -> Iterator[str]:
        stream = TextStream(self._sampling.stop)
        sampler = Sampler.of(self._model, self._sampling, self.seed)
        try:
            while self.finish is None:
                if piece := stream.feed(self._next_bytes(sampler)):
                    yield piece
                if stream.stopped:
                    self.finish = "stop"
            if rest := stream.finish():
                yield rest
        finally:
            sampler.close()
            self._cache.end_writing(self._prompt)

    def _next_bytes(self, sampler: Sampler) -> bytes:
        """Draw one token and return its bytes; sets ``finish`` when there is none to come."""
        held, model = self._prompt.decoder, self._model
        if self.new_tokens >= self._sampling.max_tokens or len(held) > model.context.n_ctx:
            self.finish = "length"
            return b""
        with model.lock:
            try:
                self._sync()
            except Aborted:
                model.ensure_open()  # Closing it ends what is being decoded, too.
                self.finish = "cancelled"
                return b""
            begun = perf_counter()
            token = self._draw(sampler)
            self.seconds_decode += perf_counter() - begun
            if model.is_end(token):
                self.finish = "stop"
                return b""
            held.append(token)
            self._written.append(token)
            self.new_tokens += 1
            return model.piece(token)

    def _draw(self, sampler: Sampler) -> int:
        logits = self._cache.logits()
        if self._processor:
            logits = apply(self._processor, logits, self._written)
        return sampler.choose(logits)

    def _sync(self) -> None:
        begun = perf_counter()
        try:
            # Each time anew: right also when somebody else used the model in between.
            self._cache.write_on(self._prompt, self._cancel)
        finally:
            seconds = perf_counter() - begun
            if self.new_tokens:
                self.seconds_decode += seconds
            else:
                self.seconds_prefill += seconds
