"""The weights of an exported plug, for a training that goes on from it.

    plug.load_state_dict(read_weights(folder, plug))

A plug's graphs hold every trained number as it was; only the optimizer's state is lost. A plug
with fewer persona rows may grow: the rows that it lacks begin as those of a new plug do, and stand
before its own, where they disturb it least. One without a control vector may grow one, which begins
as nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from export.models.plug import PersonaPlug
from ppedge.errors import PpedgeError
from ppedge.plug.plug import Plug

_OF_GRAPH = "plug."  # what its graphs call the trained part
_CONTROL = "control_"


def read_weights(folder: Path, plug: PersonaPlug) -> dict[str, Tensor]:
    """The weights of the plug in ``folder``, as ``plug`` names them.

    Args:
        folder: an unpacked plug.
        plug: for the same model and of the same form, or with what it lacks of persona rows and
            control vector.

    Raises:
        ValueError: there is no such plug, or its form is another.
    """
    try:
        shipped = Plug(folder)
    except PpedgeError as error:
        raise ValueError(f"--start: {error}") from None
    if not folder.is_dir():
        raise ValueError(f"--start: {folder} is packed; unpack it first")
    manifest = shipped.manifest
    found: dict[str, Tensor] = {}
    graphs = (manifest.encoder.file, manifest.encoder.query_file, manifest.projector.file)
    for name in filter(None, graphs):
        for tensor in onnx.load(folder / name).graph.initializer:
            if tensor.name.startswith(_OF_GRAPH):
                value = numpy_helper.to_array(tensor).copy()
                found[tensor.name.removeprefix(_OF_GRAPH)] = torch.from_numpy(value)
    null = np.fromfile(folder / manifest.null_note, "<f4")
    found["null_key"], found["null_value"] = (
        torch.from_numpy(part.copy()) for part in np.split(null, [manifest.encoder.d_key])
    )
    # The instruction's rows are constants of the projector, whose names an exporter makes up.
    rows = shipped.project(np.zeros(manifest.encoder.d_value, np.float32)).vectors
    found["instruction"] = torch.from_numpy(rows[: manifest.projector.n_instruction].copy())
    found["log_scale"] = torch.tensor(manifest.attention_scale).log()
    if plug.recency_bias is not None:
        found["recency_bias"] = torch.tensor(max(manifest.recency, 1e-6)).expm1().log()
    for name in ("project.weight", "project.bias"):
        found[name] = _grown(found[name], plug.state_dict()[name])
    if not any(name.startswith(_CONTROL) for name in found):
        found |= {n: new for n, new in plug.state_dict().items() if n.startswith(_CONTROL)}
    wanted = {name: tuple(tensor.shape) for name, tensor in plug.state_dict().items()}
    for name in sorted({*wanted, *found}):
        had = tuple(found[name].shape) if name in found else "not there"
        if wanted.get(name) != had:
            raise ValueError(
                f"--start: {folder} has another form than the options give: "
                f"{name} is {had} in it, and {wanted.get(name, 'not there')} here"
            )
    return found


def _grown(rows: Tensor, new: Tensor) -> Tensor:
    """``rows``, and before them the first of ``new`` that make them as many."""
    same_form = rows.shape[1:] == new.shape[1:]
    missing = max(0, len(new) - len(rows))
    return torch.cat([new[:missing], rows]) if same_form else rows
