"""An ONNX graph of a plug: opened for the CPU, and every run of it checked."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import PlugError


class Graph:
    """A graph with named inputs and float32 outputs; each run of it takes one thread.

    Attributes:
        inputs: names of what it takes.
    """

    def __init__(
        self, graph: bytes, where: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        """Open a graph.

        Args:
            graph: the ONNX file; its weights must lie in it, not in files beside it.
            where: named in every error.
            inputs: exactly these it must take.
            outputs: these float32 tensors it must give.

        Raises:
            PlugError: onnxruntime cannot load it, or it has other inputs or outputs.
        """
        # Late: a plug is opened on a thread of its own, while llama.cpp reads its model.
        import onnxruntime as ort

        # For programs that had imported it before ppedge could set ORT_DISABLE_TELEMETRY.
        ort.disable_telemetry_events()
        self.inputs = tuple(inputs)
        self._where = where
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # The arena never gives memory back.
        options.enable_cpu_mem_arena = False
        # Weights outside the graph are outside the manifest's hashes: look where none can be.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", f"{os.devnull}/none"
        )
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise PlugError(
                f"{where}: onnxruntime cannot load the graph: {one_line(error)}"
            ) from None
        # Kept by onnxruntime for a change of providers; here it would only be a second copy.
        self._session._model_bytes = None
        takes = sorted(tensor.name for tensor in self._session.get_inputs())
        if takes != sorted(inputs):
            raise PlugError(f"{where}: the graph takes {takes}, not {sorted(inputs)}")
        gives = {tensor.name: tensor.type for tensor in self._session.get_outputs()}
        for name in outputs:
            if gives.get(name) != "tensor(float)":
                raise PlugError(
                    f"{where}: output {name} is {gives.get(name, 'missing')}, not tensor(float)"
                )

    def run(
        self, feeds: Mapping[str, NDArray[Any]], wanted: Mapping[str, tuple[int, ...]]
    ) -> list[NDArray[np.float32]]:
        """Run the graph and check what it returns.

        Args:
            feeds: inputs by name.
            wanted: the shape of each wanted output, by name.

        Raises:
            PlugError: the run fails, or an output has another shape or is not finite.
        """
        try:
            outputs = self._session.run(list(wanted), dict(feeds))
        except Exception as error:  # as above
            raise PlugError(f"{self._where}: the graph cannot be run: {one_line(error)}") from None
        for (name, shape), output in zip(wanted.items(), outputs, strict=True):
            if output.shape != shape:
                raise PlugError(
                    f"{self._where}: output {name} is {list(output.shape)}, "
                    f"not {list(shape)} as the manifest says"
                )
            if not np.isfinite(output).all():
                raise PlugError(f"{self._where}: output {name} holds a number that is not finite")
        return list(outputs)


def one_line(error: Exception) -> str:
    """The message of a library's error, on one line of bounded length."""
    return " ".join(str(error).split())[:300]


def return_free_memory() -> None:
    """Have the C library give back what loading graphs took and freed: tens of megabytes.

    glibc alone keeps as much to itself; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # Another C library than glibc.
            ctypes.CDLL(None).malloc_trim(0)
