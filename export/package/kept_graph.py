"""A plug's graph of kept soft tokens: read into torch, and written beside a plug's others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from export.models.kept import KeptHead
from export.package.golden_vectors import file_entry, write_manifest
from export.package.graph_file import write_graph
from ppedge.plug.golden import pack_golden, shapes
from ppedge.plug.manifest import KeptSpec, Manifest
from ppedge.plug.plug import Plug

FILE = "kept.onnx"


def read_head(plug: Plug) -> KeptHead:
    """The trained part of an unpacked plug's kept soft tokens.

    Raises:
        ValueError: it has none, or none of this form.
    """
    folder, kept = plug.path, plug.manifest.kept
    if kept is None:
        raise ValueError(f"{folder}: has no kept soft tokens to begin from (export.kept)")
    d_value = plug.manifest.encoder.d_value
    graph = onnx.load(folder / kept.file).graph
    tensors = [torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer]
    try:
        # The exporter names them as it likes, and turns matrices that are small.
        bias = next(t for t in tensors if t.ndim == 1 and t.is_floating_point())
        up = next(t for t in tensors if t.ndim == 2 and len(bias) in t.shape)
        down = next(t for t in tensors if t.ndim == 2 and t is not up)
        up = up if len(up) == len(bias) else up.T
        down = down if down.shape[1] == d_value else down.T
        head = KeptHead(d_value, bias.view(kept.n_soft, -1), len(down))
        head.load_state_dict({"down.weight": down, "up.weight": up, "up.bias": bias})
    except (StopIteration, RuntimeError) as error:
        raise ValueError(f"{folder}: {kept.file} is not of export.kept: {error!r}"[:300]) from None
    pooled = np.linspace(-1, 1, d_value, dtype=np.float32)
    wanted = plug.project_kept(pooled)
    with torch.inference_mode():
        off = float(np.abs(head(torch.from_numpy(pooled)).numpy() - wanted).max())
    if off > 1e-3 * float(np.abs(wanted).max()):
        raise ValueError(f"{folder}: {kept.file} computes something else than its weights say")
    return head


def ensure_writable(folder: Path, out: Path) -> None:
    """Refuse, before hours of training, what `write_plug` could not do after them.

    Raises:
        ValueError: the plug is packed, or ``out`` exists.
    """
    if folder.is_file():
        raise ValueError(f"{folder}: a packed plug cannot be copied; unpack it first")
    if out.exists():
        raise ValueError(f"{out} exists already; name another folder, or remove it first")


def write_plug(folder: Path, head: KeptHead, out: Path, about: dict[str, Any]) -> None:
    """Write a copy of a plug with kept soft tokens, whole or not at all.

    Args:
        folder: the plug's.
        head: makes them.
        out: a new folder.
        about: of the training, for people.

    Raises:
        ValueError: as `ensure_writable`.
    """
    ensure_writable(folder, out)
    plug = Plug(folder)
    before = plug.manifest
    beside = out.with_name(f".{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(folder, beside)
    head = head.cpu().eval()
    pooled = torch.zeros(before.encoder.d_value)
    write_graph(head, (pooled,), beside / FILE, ["pooled"], ["soft"])
    manifest = replace(
        before,
        kept=KeptSpec(FILE, head.shape[0]),
        files={**before.files, FILE: file_entry(beside / FILE)},
        about={**before.about, "kept soft tokens": about},
    )
    write_manifest(beside, with_golden(beside, plug, manifest, head))
    worst = Plug(beside).golden_differences()
    print("torch against onnxruntime, share of the largest number:", json.dumps(worst))
    beside.rename(out)


@torch.inference_mode()
def with_golden(folder: Path, plug: Plug, manifest: Manifest, head: KeptHead) -> Manifest:
    """The manifest, and beside its golden vectors those of the new graph, computed in torch."""
    if manifest.golden is None:
        return manifest
    golden = plug.golden_vectors()
    names = shapes(replace(plug.manifest, kept=None))  # Those that it has are replaced.
    assert golden is not None  # The manifest says that there are some.
    kept = head(torch.from_numpy(golden["value"])).numpy()
    texts = zip(*(golden[name] for name in names), kept, strict=True)
    path = folder / manifest.golden.file
    path.write_bytes(pack_golden(texts))
    return replace(manifest, files={**manifest.files, path.name: file_entry(path)})
