"""Text to vectors: a tokenizer and an ONNX graph, one text a run, one thread a text.

That is a choice: a vector's bits then depend on its text alone, so a store built in any order, in
any batches and by any number of threads is the same store. (onnxruntime splits its sums by the
threads of a run: two give other last bits than one.) Unpadded single texts cost 8 to 15 % of the
speed of batches of like length (onnxruntime 1.31, 128 tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import PlugError
from ppedge.notes.reader import Note
from ppedge.plug.graph import Graph, one_line
from ppedge.plug.manifest import EncoderSpec
from ppedge.plug.template import note_text
from ppedge.processors import default_threads

# Longer texts are cut before the tokenizer sees them: no token is longer than this on average,
# and a tokenizer reads all it is given.
_MAX_CHARS_PER_TOKEN = 64


class TextEncoder:
    """Encodes notes to keys and values, and prompts to queries."""

    def __init__(
        self,
        read: Callable[[str], bytes],
        spec: EncoderSpec,
        where: str,
        n_threads: int | None,
    ) -> None:
        """Load the tokenizer and the graphs.

        Args:
            read: returns the bytes of a file of the plug, by name.
            spec: what the manifest says of them.
            where: named in every error.
            n_threads: how many texts are encoded at once; None takes what this process may use,
                half of it above four.

        Raises:
            PlugError: one cannot be loaded.
        """
        # Late, as in `Graph`.
        from tokenizers import Tokenizer

        self._spec = spec
        self._where = f"{where}: {spec.file}"
        try:
            self._tokenizer = Tokenizer.from_str(read(spec.tokenizer).decode("utf-8"))
        except PlugError:
            raise
        except Exception as error:  # tokenizers raises plain Exception
            raise PlugError(
                f"{where}: {spec.tokenizer} is no tokenizer: {one_line(error)}"
            ) from None
        # A tokenizer.json may carry padding and truncation of its own.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.max_tokens)
        inputs = ["ids", "bytes"] if spec.max_bytes else ["ids"]
        outputs = ["key", "value"] if spec.query_file else ["key", "value", "query"]
        self._graph = Graph(read(spec.file), self._where, inputs, outputs)
        self._query_graph = self._graph
        if spec.query_file:
            self._query_graph = Graph(
                read(spec.query_file), f"{where}: {spec.query_file}", ["ids"], ["query"]
            )
        self._n_threads = n_threads or default_threads()

    def notes(
        self, notes: Sequence[Note]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Encode notes, several at once; yields what `note` returns of each, in order."""
        # The longest first, or at the end the other threads would wait for one.
        sizes = [len(note.input) + len(note.output) for note in notes]
        with ThreadPoolExecutor(self._n_threads) as workers:
            longest = sorted(range(len(notes)), key=sizes.__getitem__, reverse=True)
            jobs = {i: workers.submit(self.note, notes[i]) for i in longest}
            try:
                for i in range(len(notes)):
                    yield jobs.pop(i).result()
            finally:
                for job in jobs.values():
                    job.cancel()

    def note(self, note: Note) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode a note: key float32 [d_key], value float32 [d_value]."""
        spec = self._spec
        key_text = note_text(note, spec.key_fields)
        value_text = note_text(note, spec.value_fields)
        if key_text == value_text:
            return self.key_and_value(key_text)
        [key] = self._run(self._graph, key_text, key=(spec.d_key,))
        [value] = self._run(self._graph, value_text, value=(spec.d_value,))
        return key, value

    def key_and_value(self, text: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode one text both ways: key float32 [d_key], value float32 [d_value]."""
        spec = self._spec
        key, value = self._run(self._graph, text, key=(spec.d_key,), value=(spec.d_value,))
        return key, value

    def query(self, prompt: str) -> NDArray[np.float32]:
        """Encode a prompt: query float32 [d_key]."""
        [query] = self._run(self._query_graph, prompt, query=(self._spec.d_key,))
        return query

    def _run(self, graph: Graph, text: str, **wanted: tuple[int, ...]) -> list[NDArray[np.float32]]:
        text = text.encode("utf-8", "replace").decode("utf-8")
        short = text[: self._spec.max_tokens * _MAX_CHARS_PER_TOKEN]
        try:
            ids = self._tokenizer.encode(short).ids
        except Exception as error:  # as above
            raise PlugError(
                f"{self._where}: the tokenizer cannot read {short[:20]!r}: {one_line(error)}"
            ) from None
        feeds = {"ids": np.array([ids], np.int64)}
        if "bytes" in graph.inputs:
            # A convolution needs something to see, also in an empty prompt.
            data = text.encode("utf-8")[: self._spec.max_bytes] or b" "
            feeds["bytes"] = np.frombuffer(data, np.uint8).astype(np.int64)[None]
        return graph.run(feeds, wanted)
