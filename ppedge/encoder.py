"""Text to vectors: a tokenizer and an ONNX graph, one text a run, one thread a text.

That is a choice: a vector's bits then depend on its text alone, so a store built in any order, in
any batches and by any number of threads is the same store. (onnxruntime splits its sums by the
threads of a run: two give other last bits than one.) Unpadded single texts cost 8 to 15 % of the
speed of batches of like length (onnxruntime 1.31, 128 tokens).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ppedge.errors import PlugError
from ppedge.history import Note
from ppedge.manifest import EncoderSpec
from ppedge.prompt import note_text

# For programs that had imported onnxruntime before ppedge could set ORT_DISABLE_TELEMETRY.
ort.disable_telemetry_events()

# Longer texts are cut before the tokenizer sees them: no token is longer than this on average,
# and a tokenizer reads all it is given.
_MAX_CHARS_PER_TOKEN = 64


def open_session(
    graph: bytes,
    where: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> ort.InferenceSession:
    """Open an ONNX graph for the CPU, each run of it on one thread.

    Args:
        graph: the ONNX file; its weights must lie in it, not in files beside it.
        where: named in every error.
        inputs: exactly these it must take.
        outputs: these float32 tensors it must give.

    Raises:
        PlugError: onnxruntime cannot load it, or it has other inputs or outputs.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The arena never gives memory back.
    options.enable_cpu_mem_arena = False
    # Weights outside the graph are outside the manifest's hashes: look for them where none can be.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", f"{os.devnull}/none"
    )
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise PlugError(f"{where}: onnxruntime cannot load the graph: {_line(error)}") from None
    takes = sorted(tensor.name for tensor in session.get_inputs())
    if takes != sorted(inputs):
        raise PlugError(f"{where}: the graph takes {takes}, not {sorted(inputs)}")
    gives = {tensor.name: tensor.type for tensor in session.get_outputs()}
    for name in outputs:
        if gives.get(name) != "tensor(float)":
            raise PlugError(
                f"{where}: output {name} is {gives.get(name, 'missing')}, not tensor(float)"
            )
    return session


def run(
    session: ort.InferenceSession,
    feeds: Mapping[str, NDArray[Any]],
    wanted: Mapping[str, tuple[int, ...]],
    where: str,
) -> list[NDArray[np.float32]]:
    """Run a graph and check what it returns.

    Args:
        session: from `open_session`.
        feeds: inputs by name.
        wanted: the shape of each wanted output, by name.
        where: named in every error.

    Raises:
        PlugError: the run fails, or an output has another shape or is not finite.
    """
    try:
        outputs = session.run(list(wanted), dict(feeds))
    except Exception as error:  # as above
        raise PlugError(f"{where}: the graph cannot be run: {_line(error)}") from None
    for (name, shape), output in zip(wanted.items(), outputs, strict=True):
        if output.shape != shape:
            raise PlugError(
                f"{where}: output {name} is {list(output.shape)}, "
                f"not {list(shape)} as the manifest says"
            )
        if not np.isfinite(output).all():
            raise PlugError(f"{where}: output {name} holds a number that is not finite")
    return list(outputs)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


class TextEncoder:
    """Encodes notes to keys and values, and prompts to queries."""

    def __init__(
        self, graph: bytes, tokenizer: bytes, spec: EncoderSpec, where: str, n_threads: int | None
    ) -> None:
        """Load the tokenizer and the graph.

        Args:
            graph: the ONNX file.
            tokenizer: the tokenizer.json.
            spec: what the manifest says of both.
            where: named in every error.
            n_threads: how many texts are encoded at once; None takes half of the processors.

        Raises:
            PlugError: either cannot be loaded.
        """
        self._spec = spec
        self._where = f"{where}: {spec.file}"
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.decode("utf-8"))
        except Exception as error:  # tokenizers raises plain Exception
            raise PlugError(f"{where}: {spec.tokenizer} is no tokenizer: {_line(error)}") from None
        # A tokenizer.json may carry padding and truncation of its own.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.max_tokens)
        inputs = ["ids", "bytes"] if spec.max_bytes else ["ids"]
        outputs = ["key", "value", "query"]
        self._session = open_session(graph, self._where, inputs, outputs)
        self._n_threads = n_threads or max(1, (os.cpu_count() or 2) // 2)

    def notes(
        self, notes: Sequence[Note]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Encode notes, several at once; yields what `note` returns of each, in order."""
        with ThreadPoolExecutor(self._n_threads) as workers:
            yield from workers.map(self.note, notes)

    def note(self, note: Note) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode a note: key float32 [d_key], value float32 [d_value]."""
        spec = self._spec
        key_text = note_text(note, spec.key_fields)
        value_text = note_text(note, spec.value_fields)
        if key_text == value_text:
            key, value = self._run(key_text, key=(spec.d_key,), value=(spec.d_value,))
        else:
            [key] = self._run(key_text, key=(spec.d_key,))
            [value] = self._run(value_text, value=(spec.d_value,))
        return key, value

    def query(self, prompt: str) -> NDArray[np.float32]:
        """Encode a prompt: query float32 [d_key]."""
        [query] = self._run(prompt, query=(self._spec.d_key,))
        return query

    def _run(self, text: str, **wanted: tuple[int, ...]) -> list[NDArray[np.float32]]:
        text = text.encode("utf-8", "replace").decode("utf-8")
        short = text[: self._spec.max_tokens * _MAX_CHARS_PER_TOKEN]
        try:
            ids = self._tokenizer.encode(short).ids
        except Exception as error:  # as above
            raise PlugError(
                f"{self._where}: the tokenizer cannot read {short[:20]!r}: {_line(error)}"
            ) from None
        feeds = {"ids": np.array([ids], np.int64)}
        if self._spec.max_bytes:
            # A convolution needs something to see, also in an empty prompt.
            data = text.encode("utf-8")[: self._spec.max_bytes] or b" "
            feeds["bytes"] = np.frombuffer(data, np.uint8).astype(np.int64)[None]
        return run(self._session, feeds, wanted, self._where)
