"""The language model: segments of text and soft tokens in; text, logits and scores out.

``LLM`` remembers what its context holds, so a prompt that begins like the last one is not decoded
twice. The book-keeping is in ``_context.py``, the calls into llama.cpp in ``_llama.py``,
``_session.py`` and ``_ggml.py``.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppedge import _llama
from ppedge._branches import MAX_WIDTH
from ppedge._context import Context, Control, Prompt, Row
from ppedge._ggml import Cancel
from ppedge._preflight import ensure_loadable
from ppedge._segments import control_layers, soft_rows
from ppedge._session import Aborted
from ppedge.beam import Beam, Search
from ppedge.candidates import Candidates, ensure_count
from ppedge.chat_template import ChatTemplate
from ppedge.closing import Closing
from ppedge.errors import ModelError
from ppedge.fingerprint import Fingerprint, fingerprint, sampled_rows
from ppedge.generation import Finish, Generation
from ppedge.gguf import Gguf
from ppedge.guidance import ensure_strength, guided
from ppedge.mixing import Mix
from ppedge.prompt import Segment, Soft
from ppedge.sampling import Sampling, TextStream
from ppedge.scoring import Score

__all__ = ["LLM", "Beam", "Cancel", "Generation", "Mix", "Sampling", "Score"]


_REMEMBERED_TEXTS = 128  # of a conversation's parts, most of which the next one has again
_SAMPLES = 64
_SAMPLE_BYTES = 4096


class LLM(Closing):
    """A GGUF language model that takes soft tokens beside text; a context manager.

    Calls from several threads wait for each other. Soft tokens are given at the scale of the
    model's own embedding rows; what the architecture multiplies by, this class applies.

    A prompt that begins like the last one keeps that beginning. With the default (quantised)
    model on a CPU its logits are then bit for bit those of a cold context. With float weights the
    size of a batch sets the order of sums, and last bits may differ.

    Attributes:
        path: the GGUF file.
        architecture: ``general.architecture`` of the file.
        n_embd: width of a soft token.
        n_vocab: number of tokens.
        n_layer: number of layers.
        n_ctx: positions that fit: as asked, but no more than the model was trained for.
        embedding_scale: what embedding rows are multiplied by on the way in, found by trial.
        has_encoder: whether this is an encoder-decoder model; the segments are its encoder's.
        end_token: what ends a text; None if the vocabulary has no such token.
        fingerprint: what a plug compares itself with.

    Args:
        path: a GGUF file.
        n_ctx: positions wanted.
        n_batch: positions decoded at once.
        n_threads: CPU threads; None takes what this process may use, half of it above four.
        verbose: let llama.cpp write to stderr.

    Raises:
        ModelError: the file is missing, damaged or not supported.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int = 2048,
        n_batch: int = 512,
        n_threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        """Check the file, load it, and find out how soft tokens must be fed."""
        for name, value in (("n_ctx", n_ctx), ("n_batch", n_batch), ("n_threads", n_threads)):
            if value is not None and not 1 <= value < 2**31:
                raise ModelError(f"{name} must be at least 1, not {value}")
        self.path = Path(path)
        # Guards the vocabulary and the file against close(), also while the context is busy.
        self._reading = threading.Lock()
        self._gguf = Gguf(self.path)
        try:
            self.architecture = self._gguf.architecture
            self.fingerprint: Fingerprint = fingerprint(self._gguf)
            self.n_embd = self.fingerprint.n_embd
            ensure_loadable(self._gguf)
            self._model = _llama.Model(
                self.path,
                n_ctx=n_ctx,
                n_batch=n_batch,
                n_threads=n_threads or _default_threads(),
                verbose=verbose,
            )
        except BaseException:
            self._gguf.close()
            raise
        self._remembered_tokens = lru_cache(_REMEMBERED_TEXTS)(self._model.tokenize)
        self.n_vocab = self._model.n_vocab
        self.n_layer = self._model.n_layer
        self.n_ctx = self._model.session.n_ctx
        self.has_encoder = self._model.has_encoder
        self.end_token = self._end_token()
        try:
            self._context = Context(self._model, self._gguf)
        except BaseException:
            self.close()
            raise
        self._aside: Context | None = None
        self.embedding_scale = self._context.scale

    def close(self) -> None:
        """Free the model; waits for a call in progress; safe to call twice."""
        with self._model.lock, self._reading:
            self._model.close()
            self._gguf.close()

    def _end_token(self) -> int | None:
        # A file that names an end of turn was taught to end answers with it. What llama.cpp takes
        # for one where none is named comes last: of several it finds any.
        named = self._gguf.get("tokenizer.ggml.eot_token_id")
        if isinstance(named, int) and self._model.is_end(named):
            return named
        return self._model.end

    # --- tokens and rows ----------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of ``text``; no BOS is added.

        Args:
            text: any text; a lone surrogate is refused.
            special: recognise control tokens such as ``<|im_end|>`` in it.

        Raises:
            ModelError: the text is not valid Unicode, or the model is closed.
        """
        with self._reading:
            self._model.ensure_open()
            return self._model.tokenize(text, special)

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token stands for; a control token stands for none."""
        with self._reading:
            self._model.ensure_open()
            return self._model.piece(token)

    def is_end(self, token: int) -> bool:
        """Whether a token ends a text."""
        with self._reading:
            self._model.ensure_open()
            return self._model.is_end(token)

    @cached_property
    def identity(self) -> str:
        """SHA-256 (hex) by which this very file is known again, of its size, date and samples.

        Unlike the fingerprint it tells quantisations of one model apart.
        """
        found = self.path.stat()
        digest = hashlib.sha256(f"{found.st_size} {found.st_mtime_ns}".encode())
        with self.path.open("rb") as file:
            for i in range(_SAMPLES):
                file.seek(found.st_size * i // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()

    def sampled_rows(self) -> NDArray[np.float32]:
        """Return the embedding rows that the fingerprint has a hash of, float32 [64, n_embd]."""
        with self._reading:
            self._model.ensure_open()
            return sampled_rows(self._gguf)

    def chat_template(self) -> ChatTemplate:
        """Return the chat template of the model's metadata, empty where it has none."""
        with self._reading:
            self._model.ensure_open()
            source = self._gguf.get("tokenizer.chat_template")
            bos, eos = self._model.bos_and_eos
        return ChatTemplate(source if isinstance(source, str) else "", bos, eos)

    def tokens(self, segments: Sequence[Segment]) -> list[int]:
        """Return the ids that the context (or encoder) will hold for ``segments``.

        A BOS comes first if the model's metadata asks for one and none is there; each soft
        token is -1.

        Raises:
            ModelError: a soft segment has the wrong shape or is not finite.
        """
        rows, _ = self._rows(segments)
        return [row if isinstance(row, int) else -1 for row in rows]

    def embedding_rows(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Return rows of the token embedding matrix, as the GGUF holds them, dequantised.

        Args:
            ids: token ids, integers [n].

        Returns:
            float32 [n, n_embd]; as ``Soft`` vectors they stand for exactly these tokens.

        Raises:
            ModelError: an id is outside the vocabulary, or the model is closed.
        """
        with self._reading:
            self._model.ensure_open()
            return self._gguf.embedding_rows(ids)

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
                if self._context.count_held(prompt) < len(prompt):
                    self._context.settle(prompt, cancel or Cancel())
            except Aborted:
                pass
            return self._context.count_held(prompt)

    def logits(self, segments: Sequence[Segment]) -> NDArray[np.float32]:
        """Return float32 [n_vocab], the logits of the token that would follow ``segments``.

        Raises:
            ModelError: the segments are empty or do not fit, or llama.cpp failed.
        """
        prompt = self._prompt(segments)
        with self._model.lock:
            self._context.settle(prompt, Cancel())
            return self._context.logits()

    def generate(
        self,
        segments: Sequence[Segment],
        sampling: Sampling | None = None,
        *,
        mix: Mix | None = None,
    ) -> Generation:
        """Write on from ``segments``.

        Args:
            segments: the prompt; checked at once, decoded when the first piece is asked for.
            sampling: how to choose tokens and when to end.
            mix: has a say in each token; None leaves that to the model alone.

        Returns:
            An iterator over pieces of text.

        Raises:
            ModelError: the segments are empty or do not fit; while iterating, also what `mix`
                returned cannot be drawn from.
        """
        prompt = self._prompt(segments)
        return Generation(self._model, self._context, prompt, sampling or Sampling(), mix)

    def candidates(
        self,
        segments: Sequence[Segment],
        sampling: Sampling | None = None,
        *,
        count: int,
        mix: Mix | None = None,
    ) -> Candidates:
        """Write on from ``segments`` in several ways, decoded together.

        Args:
            segments: the prompt; decoded once, when the answers are read.
            sampling: how to choose tokens and when to end; of each answer, with seeds in a row.
            count: how many answers, 1 to ``ppedge.candidates.MAX_CANDIDATES``.
            mix: has a say in each token.

        Raises:
            ModelError: ``count`` is out of range, or the segments are empty or do not fit.
        """
        ensure_count(count)
        prompt = self._prompt(segments)
        return Candidates(self._model, self._context, prompt, sampling or Sampling(), count, mix)

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
                return self._context.state(prompt, cancel or Cancel())
            except Aborted:
                return None

    def restore(self, segments: Sequence[Segment], state: bytes) -> bool:
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
            return self._context.restore(prompt, state)

    def holds(self, segments: Sequence[Segment]) -> bool:
        """Whether the context holds these segments already, be it as a beginning."""
        prompt = self._prompt(segments)
        with self._model.lock:
            self._model.ensure_open()
            return self._context.count_held(prompt) == len(prompt)

    def guide(self, segments: Sequence[Segment], strength: float, mix: Mix | None = None) -> Mix:
        """Return a `Mix` that moves each token away from, or towards, another prompt's choice.

        The formula is in ``ppedge.guidance``. The other prompt is decoded in a context of its own,
        made at first use and kept, so a guided text takes about twice the time of a plain one.

        Args:
            segments: the other prompt, such as the same one without soft tokens.
            strength: 0 writes as after the other prompt, 1 as without guidance, at most 5.
            mix: has its say before.

        Raises:
            ModelError: a value is out of range, or the segments are empty or do not fit.
        """
        ensure_strength(strength)
        other = self._prompt(segments)

        def mix_in(logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
            if mix is not None:
                logits = mix(logits, written)
            with self._model.lock:
                self._model.ensure_open()
                self._aside = self._aside or Context(self._model, self._gguf, self._context)
                prompt = Prompt(other.encoder, [*other.decoder, *written], other.control)
                self._aside.settle(prompt, Cancel())
                return guided(logits, self._aside.logits(), strength)

        return mix_in

    def score(
        self,
        segments: Sequence[Segment],
        options: Sequence[str],
        *,
        end: bool = False,
        mix: Mix | None = None,
    ) -> list[Score]:
        """Say how likely each option is to follow ``segments``.

        Each option is tokenized by itself, without control tokens, and starts from the same
        decoded prefix, so its score does not depend on the other options.

        Args:
            segments: the prompt.
            options: continuations.
            end: score ``end_token`` too, behind each option: how likely is it as the whole text,
                where without, it may go on. An option may then be empty.
            mix: as in `generate`; it is asked once for each token of each option.

        Returns:
            One score per option, in order.

        Raises:
            ModelError: an option has no tokens, something does not fit, the model has no token
                to end with, `mix` returned no logits, or llama.cpp failed.
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
            logprobs = self._context.logprobs(prompt, ids, mix)
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
        mix: Mix | None = None,
    ) -> Beam:
        """Find a likelier text after ``segments`` than taking the likeliest token each time does.

        Its rules are in ``ppedge.beam``. The beams are decoded together, in a context that exists
        for this call only, of as many positions as the prompt has and ``width * max_tokens``. A
        width of 1 writes what ``generate`` does at temperature 0.

        Args:
            segments: the prompt.
            width: beams to keep, 1 to 255 (llama.cpp's limit).
            max_tokens: tokens that the text may have, its end token included.
            length_penalty: -10 to 10; above 0 favours longer texts, 0 compares log-probabilities.
            cancel: ends the search from another thread; the best text so far is returned.
            mix: as in `generate`; it is asked once for each beam and step.

        Raises:
            ModelError: a value is out of range, the prompt is empty or does not fit, `mix`
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
                mix=mix,
            )
            try:
                with self._context.branches(prompt, width, length, cancel) as branches:
                    while kept := search.step(branches.logits):
                        branches.extend(kept)
            except Aborted:
                return self._beam(search, "cancelled")
            return self._beam(search, "stop" if search.best.ended else "length")

    def _beam(self, search: Search, finish: Finish) -> Beam:
        best, stream = search.best, TextStream()
        written = best.tokens[:-1] if best.ended else best.tokens
        text = "".join(stream.feed(self._model.piece(token)) for token in written)
        return Beam(text + stream.finish(), best.logprob, len(best.tokens), finish)

    def ensure_steerable(self, n_control: int) -> None:
        """Refuse a model that control vectors of ``n_control`` rows do not fit or do not change.

        Raises:
            ModelError: it has another number of layers, or llama.cpp does not steer models of this
                architecture.
        """
        if self.has_encoder or n_control != self._model.n_layer - 1:
            kind = "an encoder-decoder model" if self.has_encoder else "a model"
            raise ModelError(
                f"{self.path}: {kind} of {self._model.n_layer} layers takes no control vector for "
                f"{n_control}; take a plug that was made for it (--plug)"
            )
        with self._model.lock:
            self._model.ensure_open()
            self._context.ensure_steerable()

    def clear(self) -> None:
        """Forget what the context holds: the next prompt is read from its beginning.

        Raises:
            ModelError: the model is closed.
        """
        with self._model.lock:
            self._context.forget()

    # --- rows: what segments become -----------------------------------------------------------

    def _rows(self, segments: Sequence[Segment]) -> tuple[list[Row], Control | None]:
        """Return what the context (or encoder) is to hold, and what steers it from where on."""
        rows: list[Row] = []
        control: Control | None = None
        with self._reading:
            self._model.ensure_open()
            for i, segment in enumerate(segments):
                if isinstance(segment, Soft):
                    vectors = soft_rows(segment, i, self.n_embd, self.embedding_scale)
                    if segment.control is not None:
                        if control:
                            raise ModelError(f"segment {i}: a second control vector; one is all")
                        control = Control(len(rows), self._layers(segment.control, i))
                    rows += [vector.tobytes() for vector in vectors]
                else:
                    rows += self._remembered_tokens(segment.text, segment.special)
            ids = [row if isinstance(row, int) else -1 for row in rows]
            before, after = self._model.frame(ids)
        if control:
            control = Control(len(before) + control.start, control.layers)
        return [*before, *rows, *after], control

    def _layers(self, control: NDArray[np.float32], index: int) -> bytes:
        """Return a control vector's bytes, once it fits."""
        if self.has_encoder:
            raise ModelError(f"segment {index}: an encoder-decoder model takes no control vector")
        return control_layers(control, index, self._model.n_layer, self.n_embd)

    def _prompt(self, segments: Sequence[Segment]) -> Prompt:
        return self._fitting(*self._rows(segments))

    def _fitting(self, rows: list[Row], control: Control | None) -> Prompt:
        if not rows:
            raise ModelError("the prompt is empty: the model needs at least one token")
        self._ensure_room(len(rows), "the prompt")
        if self.has_encoder:
            return Prompt(rows, [self._model.decoder_start])
        return Prompt([], rows, control)

    def _ensure_room(self, count: int, what: str) -> None:
        if count > self.n_ctx:
            raise ModelError(
                f"{what} takes {count} tokens, and {self.n_ctx} fit; "
                "shorten it or ask for a larger context (--context, n_ctx)"
            )


def _default_threads() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Decoding waits for memory: beyond a few cores, second hardware threads only get in the way.
    return (usable or 1) if (usable or 1) <= 4 else max(4, (usable or 1) // 2)
