"""A loaded GGUF: its file, its vocabulary and its embedding rows; nothing is decoded here."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppedge.closable import Closable
from ppedge.errors import ModelError
from ppedge.llm.binding.model import Model
from ppedge.llm.chat_template import ChatTemplate
from ppedge.llm.fingerprint import Fingerprint, fingerprint, sampled_rows
from ppedge.llm.opened_file import OpenedFile, ensure_size
from ppedge.llm.prompt import Control, Prompt, Row
from ppedge.llm.segments import Segment, Soft, control_layers, soft_rows

_REMEMBERED_TEXTS = 128  # of a conversation's parts, most of which the next one has again
_SAMPLES = 64
_SAMPLE_BYTES = 4096


class LoadedModel(Closable):
    """What a model file says without decoding; `ppedge.llm.llm.LLM` is one, and decodes.

    Attributes:
        path: the GGUF file.
        architecture: ``general.architecture`` of the file.
        n_embd: width of a soft token.
        n_vocab: number of tokens.
        n_layer: number of layers.
        n_ctx: positions that fit: as asked, but no more than the model was trained for.
        has_encoder: whether this is an encoder-decoder model; the segments are its encoder's.
        end_token: what ends a text; None if the vocabulary has no such token.
        fingerprint: what a plug compares itself with.
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
        """Load the file; arguments and errors as of `ppedge.llm.llm.LLM`."""
        ensure_size("n_ctx", n_ctx)
        ensure_size("n_batch", n_batch)
        file = path
        if not isinstance(file, OpenedFile):
            file = OpenedFile(file, n_threads=n_threads, verbose=verbose)
        # Guards the vocabulary and the file against close(), also while the context is busy.
        self._reading = threading.Lock()
        self.path, self._gguf = file.gguf.path, file.gguf
        try:
            self.architecture = self._gguf.architecture
            self.fingerprint: Fingerprint = fingerprint(self._gguf)
            self.n_embd = self.fingerprint.n_embd
            self._model = Model(file.weights, n_ctx=n_ctx, n_batch=n_batch)
        except BaseException:
            file.close()
            raise
        self._pieces: dict[int, bytes] = {}  # Rules look at hundreds of them for each token.
        self._remembered_tokens = lru_cache(_REMEMBERED_TEXTS)(self._model.tokenize)
        self.n_vocab = self._model.n_vocab
        self.n_layer = self._model.n_layer
        self.n_ctx = self._model.context.n_ctx
        self.has_encoder = self._model.has_encoder
        self.end_token = self._end_token()

    def close(self) -> None:
        """Free the model; safe to call twice.

        Calls in progress on other threads end at once, with a ModelError that says so.
        """
        self._model.begin_closing()
        with self._model.lock, self._reading:
            self._model.close()
            self._gguf.close()
            self._pieces.clear()

    def ensure_control_fits(self, n_control: int) -> None:
        """Refuse control vectors of another number of rows than the model has a place for.

        Raises:
            ModelError: it has another number of layers, or an encoder.
        """
        if self.has_encoder or n_control != self._model.n_layer - 1:
            kind = "an encoder-decoder model" if self.has_encoder else "a model"
            raise ModelError(
                f"{self.path}: {kind} of {self._model.n_layer} layers takes no control vector for "
                f"{n_control}; take a plug that was made for it (--plug)"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads from decoding, for what would be undone by them in between."""
        with self._model.lock:
            yield

    def _end_token(self) -> int | None:
        # A file that names an end of turn was taught to end answers with it. What llama.cpp takes
        # for one where none is named comes last: of several it finds any.
        named = self._gguf.get("tokenizer.ggml.eot_token_id")
        if isinstance(named, int) and self._model.is_end(named):
            return named
        return self._model.end

    # --- vocabulary and embedding rows ---------------------------------------------------------

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
        found = self._pieces.get(token)
        if found is None:
            with self._reading:
                self._model.ensure_open()
                found = self._pieces[token] = self._model.piece(token)
        return found

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

    # --- rows: what segments become -----------------------------------------------------------

    def tokens(self, segments: Sequence[Segment]) -> list[int]:
        """Return the ids that the context (or encoder) will hold for ``segments``.

        A BOS comes first if the model's metadata asks for one and none is there; each soft
        token is -1.

        Raises:
            ModelError: a soft segment has the wrong shape or is not finite.
        """
        rows, _ = self._rows(segments)
        return [row if isinstance(row, int) else -1 for row in rows]

    def _rows(self, segments: Sequence[Segment]) -> tuple[list[Row], Control | None]:
        """Return what the context (or encoder) is to hold, and what steers it from where on."""
        rows: list[Row] = []
        control: Control | None = None
        with self._reading:
            self._model.ensure_open()
            for i, segment in enumerate(segments):
                if isinstance(segment, Soft):
                    vectors = soft_rows(segment, i, self.n_embd)
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

    def _prompt(
        self, segments: Sequence[Segment], prefix: Sequence[Segment] | None = None
    ) -> Prompt:
        prompt = self._fitting(*self._rows(segments))
        if prefix is None:
            return prompt
        rows, _ = self._rows(prefix)
        # Where tokens run across its end, it is no beginning.
        return replace(prompt, n_prefix=len(rows) * (prompt.decoder[: len(rows)] == rows))

    def _fitting(self, rows: list[Row], control: Control | None) -> Prompt:
        if not rows:
            raise ModelError("the prompt is empty: the model needs at least one token")
        self._ensure_room(len(rows), "the prompt")
        if self.has_encoder:
            return Prompt(rows, [self._model.decoder_start], n_read=1)
        return Prompt([], rows, control, len(rows))

    def _ensure_room(self, count: int, what: str) -> None:
        if count > self.n_ctx:
            raise ModelError(
                f"{what} takes {count} tokens, and {self.n_ctx} fit; "
                "shorten it or ask for a larger context (--context, n_ctx)"
            )
