"""The language model: segments of text and soft tokens in; text, logits and scores out.

``LLM`` remembers what its context holds, so a prompt that begins like the last one is not decoded
twice. The book-keeping is in ``prefix_cache.py``, the calls into llama.cpp in ``binding/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError
from ppedge.llm.beam_search import Beam, Search
from ppedge.llm.binding.context import Aborted
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.branches import MAX_WIDTH
from ppedge.llm.candidates import Candidates, ensure_count
from ppedge.llm.generation import Finish, Generation
from ppedge.llm.guidance import ensure_strength, guided
from ppedge.llm.loaded import LoadedModel
from ppedge.llm.logits_processor import LogitsProcessor
from ppedge.llm.opened_file import OpenedFile
from ppedge.llm.prefix_cache import PrefixCache
from ppedge.llm.sampling import Sampling, TextStream
from ppedge.llm.scoring import Score
from ppedge.llm.segments import Segment

__all__ = ["LLM", "Beam", "Cancel", "Generation", "LogitsProcessor", "Sampling", "Score"]


class LLM(LoadedModel):
    """A GGUF language model that takes soft tokens beside text; a context manager.

    Calls from several threads wait for each other. Soft tokens are given at the scale of the
    model's own embedding rows; what the architecture multiplies by, this class applies.

    What is held already is not read again, as far as it was read in the same steps: the beginning
    of which `state` was kept, the whole of the last prompt, and what was written behind it. So the
    logits after a prompt do not depend on what was asked before. The same text read in other steps,
    as an option of `score` or one of several `candidates`, has logits of another rounding, some
    hundredths of a nat a token off with the default (quantised) model.

    Its attributes are those of `LoadedModel`.

    Args:
        path: a GGUF file; or one that is open already, which is this model's from then on.
        n_ctx: positions wanted.
        n_batch: positions decoded at once.
        n_threads, verbose: as of `OpenedFile`, for a file that is not open.

    Raises:
        ModelError: the file is missing, damaged or not supported.
    """

    def __init__(
        self,
        path: str | Path | OpenedFile,
        *,
        n_ctx: int = 2048,
        n_batch: int = 512,
        n_threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        """Check the file and load it."""
        super().__init__(path, n_ctx=n_ctx, n_batch=n_batch, n_threads=n_threads, verbose=verbose)
        self._cache = PrefixCache(self._model, self._gguf)
        self._secondary: PrefixCache | None = None
        self._steers = False  # Whether a control vector was tried.

    @property
    def embedding_scale(self) -> float:
        """What embedding rows are multiplied by on the way in, found by trial at first need.

        Raises:
            ModelError: the architecture treats soft tokens unlike tokens.
        """
        with self._model.lock:
            self._cache.watch(Cancel())
            return self._cache.probe().scale

    # --- what one asks of a model -------------------------------------------------------------

    def prefill(self, segments: Sequence[Segment], *, cancel: Cancel | None = None) -> int:
        """Decode ``segments`` ahead of time, so that a prompt beginning with them starts sooner.

        Args:
            segments: a prompt or its beginning; what the context already holds is not repeated.
            cancel: ends the call early from another thread.

        Returns:
            How many positions the context now holds: all of them unless cancelled. (An
            encoder-decoder model counts its encoder's positions, and gains only when the whole
            prompt is the same.)

        Raises:
            ModelError: the segments do not fit, or llama.cpp failed.
        """
        rows, control = self._rows(segments)
        if not rows:
            return 0
        prompt = self._fitting(rows, control)
        with self._model.lock:
            self._model.ensure_open()
            try:
                if self._cache.count_held(prompt) < len(prompt):
                    self._cache.sync(prompt, cancel or Cancel())
            except Aborted:
                pass
            return self._cache.count_held(prompt)

    def logits(self, segments: Sequence[Segment]) -> NDArray[np.float32]:
        """Return float32 [n_vocab], the logits of the token that would follow ``segments``.

        Raises:
            ModelError: the segments are empty or do not fit, or llama.cpp failed.
        """
        prompt = self._prompt(segments)
        with self._model.lock:
            self._cache.sync(prompt, Cancel())
            return self._cache.logits()

    def generate(
        self,
        segments: Sequence[Segment],
        sampling: Sampling | None = None,
        *,
        processor: LogitsProcessor | None = None,
        prefix: Sequence[Segment] | None = None,
    ) -> Generation:
        """Write on from ``segments``.

        Several texts may be written at once, on one thread or on many; they take turns token by
        token, and each comes out as it would alone.

        Args:
            segments: the prompt; checked at once, decoded when the first piece is asked for.
            sampling: how to choose tokens and when to end.
            processor: has a say in each token; None leaves that to the model alone.
            prefix: the beginning of ``segments`` that `state` or `restore` was given, if any. It is
                then read by itself, whatever the model has read before. None: the last such one.

        Returns:
            An iterator over pieces of text.

        Raises:
            ModelError: the segments are empty or do not fit; while iterating, also what `processor`
                returned cannot be drawn from.
        """
        prompt = self._prompt(segments, prefix)
        return Generation(self._model, self._cache, prompt, sampling or Sampling(), processor)

    def candidates(
        self,
        segments: Sequence[Segment],
        sampling: Sampling | None = None,
        *,
        count: int,
        processor: LogitsProcessor | None = None,
        prefix: Sequence[Segment] | None = None,
    ) -> Candidates:
        """Write on from ``segments`` in several ways, decoded together.

        Args:
            segments: the prompt; decoded once, when the answers are read.
            sampling: how to choose tokens and when to end; of each answer, with seeds in a row.
            count: how many answers, 1 to ``ppedge.llm.candidates.MAX_CANDIDATES``.
            processor: has a say in each token.
            prefix: as in `generate`.

        Raises:
            ModelError: ``count`` is out of range, or the segments are empty or do not fit.
        """
        ensure_count(count)
        prompt = self._prompt(segments, prefix)
        return Candidates(
            self._model, self._cache, prompt, sampling or Sampling(), count, processor
        )

    def set_opening(self, segments: Sequence[Segment]) -> None:
        """Say what prompts begin with, so that it stays read from one to the next.

        Args:
            segments: such as a template's text before the prompt.

        Raises:
            ModelError: the segments are empty or do not fit, or the model is closed.
        """
        prompt = self._prompt(segments)
        if not self.has_encoder:
            with self._model.lock:
                self._cache.set_opening(prompt)

    def state(self, segments: Sequence[Segment], *, cancel: Cancel | None = None) -> bytes | None:
        """Read the beginning of a prompt, and return what the model made of it, for `restore`.

        Args:
            segments: of text alone.
            cancel: ends the call early from another thread; it then returns None.

        Raises:
            ModelError: the segments are empty, do not fit or hold a control vector; the model has
                an encoder; or llama.cpp failed.
        """
        prompt = self._prompt(segments)
        with self._model.lock:
            try:
                return self._cache.state(prompt, cancel or Cancel())
            except Aborted:
                return None

    def restore(self, segments: Sequence[Segment], state: bytes | memoryview) -> bool:
        """Hold the beginning of a prompt without reading it.

        Args:
            segments: those that ``state`` was made of.
            state: what `state` returned of this very model file, by this version of llama.cpp.

        Returns:
            False where llama.cpp does not take it; the context then holds nothing.

        Raises:
            ModelError: the segments are empty or do not fit, or the model is closed.
        """
        prompt = self._prompt(segments)
        with self._model.lock:
            return self._cache.restore(prompt, state)

    def holds(self, segments: Sequence[Segment]) -> bool:
        """Whether the context holds these segments already, be it as a beginning."""
        prompt = self._prompt(segments)
        with self._model.lock:
            self._model.ensure_open()
            return self._cache.count_held(prompt) == len(prompt)

    def guide(
        self, segments: Sequence[Segment], strength: float, processor: LogitsProcessor | None = None
    ) -> LogitsProcessor:
        """Return a processor that moves each token away from, or towards, another prompt's choice.

        The formula is in ``ppedge.llm.guidance``. The other prompt is decoded in a context of its
        own, made at first use and kept, so a guided text takes about twice the time of a plain one.

        Args:
            segments: the other prompt, such as the same one without soft tokens.
            strength: 0 writes as after the other prompt, 1 as without guidance, at most 5.
            processor: has its say before.

        Raises:
            ModelError: a value is out of range, or the segments are empty or do not fit.
        """
        ensure_strength(strength)
        other = self._prompt(segments)

        def guided_logits(
            logits: NDArray[np.float32], written: Sequence[int]
        ) -> NDArray[np.float32]:
            if processor is not None:
                logits = processor(logits, written)
            with self._model.lock:
                self._model.ensure_open()
                self._secondary = self._secondary or PrefixCache(
                    self._model, self._gguf, self._cache
                )
                prompt = replace(other, decoder=[*other.decoder, *written])
                self._secondary.sync(prompt, Cancel())
                return guided(logits, self._secondary.logits(), strength)

        return guided_logits

    def score(
        self,
        segments: Sequence[Segment],
        options: Sequence[str],
        *,
        end: bool = False,
        processor: LogitsProcessor | None = None,
    ) -> list[Score]:
        """Say how likely each option is to follow ``segments``.

        Each option is tokenized by itself, without control tokens, and starts from the same
        decoded prefix, so its score does not depend on the other options.

        Args:
            segments: the prompt.
            options: continuations.
            end: score ``end_token`` too, behind each option: how likely is it as the whole text,
                where without, it may go on. An option may then be empty.
            processor: as in `generate`; it is asked once for each token of each option.

        Returns:
            One score per option, in order.

        Raises:
            ModelError: an option has no tokens, something does not fit, the model has no token
                to end with, `processor` returned no logits, or llama.cpp failed.
        """
        prompt = self._prompt(segments)
        if end and self.end_token is None:
            raise ModelError(f"{self.path}: its vocabulary has no token that ends a text")
        last = [self.end_token] if end and self.end_token is not None else []
        ids = [self.tokenize(option) + last for option in options]
        for option, tokens in zip(options, ids, strict=True):
            if not tokens:
                raise ModelError(f"option {option!r} has no tokens to score")
            # The last token is only looked up, never decoded.
            self._ensure_room(len(prompt.decoder) + len(tokens) - 1, "the prompt and an option")
        if not options:
            return []
        with self._model.lock:
            logprobs = self._cache.logprobs(prompt, ids, processor)
        return [
            Score(option, logprob, len(tokens))
            for option, logprob, tokens in zip(options, logprobs, ids, strict=True)
        ]

    def beam_search(
        self,
        segments: Sequence[Segment],
        *,
        width: int = 4,
        max_tokens: int,
        length_penalty: float = 1.0,
        cancel: Cancel | None = None,
        processor: LogitsProcessor | None = None,
    ) -> Beam:
        """Find a likelier text after ``segments`` than taking the likeliest token each time does.

        Its rules are in ``ppedge.llm.beam_search``. The beams are decoded together, in a context
        that exists for this call only, of as many positions as the prompt has and
        ``width * max_tokens``. A width of 1 writes what ``generate`` does at temperature 0.

        Args:
            segments: the prompt.
            width: beams to keep, 1 to 255 (llama.cpp's limit).
            max_tokens: tokens that the text may have, its end token included.
            length_penalty: -10 to 10; above 0 favours longer texts, 0 compares log-probabilities.
            cancel: ends the search from another thread; the best text so far is returned.
            processor: as in `generate`; it is asked once for each beam and step.

        Raises:
            ModelError: a value is out of range, the prompt is empty or does not fit, `processor`
                returned no logits, or llama.cpp failed, for one because the beams need more
                memory than there is.
        """
        if width > MAX_WIDTH:
            raise ModelError(f"beam search: width must be at most {MAX_WIDTH}, not {width}")
        prompt, cancel = self._prompt(segments), cancel or Cancel()
        # The last token is never decoded, so the text may be one longer than what still fits.
        length = min(max_tokens, self.n_ctx - len(prompt.decoder) + 1)
        with self._model.lock:
            self._model.ensure_open()
            search = Search(
                self._model.ends,
                width=width,
                max_tokens=length,
                length_penalty=length_penalty,
                processor=processor,
            )
            try:
                with self._cache.branches(prompt, width, length, cancel) as branches:
                    while kept := search.step(branches.logits):
                        branches.extend(kept)
            except Aborted:
                self._model.ensure_open()
                return self._beam(search, "cancelled")
            return self._beam(search, "stop" if search.best.ended else "length")

    def _beam(self, search: Search, finish: Finish) -> Beam:
        best, stream = search.best, TextStream()
        written = best.tokens[:-1] if best.ended else best.tokens
        text = "".join(stream.feed(self._model.piece(token)) for token in written)
        return Beam(text + stream.finish(), best.logprob, len(best.tokens), finish)

    def ensure_steerable(self, n_control: int) -> None:
        """Do as `ensure_control_fits`, and refuse a model that control vectors do not change.

        The first time one is tried, and what the context holds is forgotten.

        Raises:
            ModelError: as there; or llama.cpp does not steer models of this architecture.
        """
        self.ensure_control_fits(n_control)
        with self._model.lock:
            self._model.ensure_open()
            if not self._steers:
                self._cache.ensure_steerable()
                self._steers = True

    def clear(self) -> None:
        """Forget what the context holds: the next prompt is read from its beginning.

        Raises:
            ModelError: the model is closed.
        """
        with self._model.lock:
            self._cache.forget()
