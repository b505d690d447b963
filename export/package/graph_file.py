"""A torch module written as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

OPSET = 18


def write_graph(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    takes: list[str],
    gives: list[str],
    lengths: dict[str, tuple[int, int | None]] | None = None,
) -> None:
    """Trace a graph and write it as ONNX.

    Args:
        graph: what to write.
        example: one input for each name in ``takes``.
        path: where to.
        takes: names of the inputs.
        gives: names of the outputs.
        lengths: by input, the least and the greatest size of its second axis; None: it is fixed.
    """
    dynamic = {
        name: {1: torch.export.Dim(f"n_{name}", min=low, max=high)}
        for name, (low, high) in (lengths or {}).items()
    }
    torch.onnx.export(
        graph,
        example,
        path,
        input_names=takes,
        output_names=gives,
        dynamic_shapes=dynamic or None,
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    strip(path)


def strip(path: Path) -> None:
    """Leave out what only a debugger reads: it holds the paths of the machine that exported."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    onnx.save(model, path)
