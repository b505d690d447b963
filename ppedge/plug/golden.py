"""Golden vectors: what a plug's graphs gave where it was made, to be computed again elsewhere.

Every file of a plug is hashed, so a difference is not the plug's: it comes from the onnxruntime,
or the processor, that computes it here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import PlugError
from ppedge.plug.manifest import Manifest

TOLERANCE = 1e-3
"""Largest difference allowed, as a share of the largest golden number of the same output.

Other processors sum in another order, and other versions fuse other operations; torch, and
onnxruntime at its three levels of optimisation, differ by 4e-7 to 1.2e-6 on the default plug. A
store rounds keys and values to float16, up to 5e-4 of each number, so much less than this does not
matter to an answer. Wrong kernels and garbled weights lie far above, and an encoder computed in
bfloat16 still does (5.6e-3 and 6.5e-3).
"""

Vectors = tuple[NDArray[np.float32], ...]
"""Of one text: key [d_key], value [d_value], query [d_key], soft tokens [n_soft, n_embd], the
control vector [n_control, n_embd] of a plug that has one, and the kept soft tokens [n, n_embd] of
one that has some."""


def pack_golden(vectors: Iterable[Vectors]) -> bytes:
    """The contents of a golden file: `Vectors` one after another, float32 LE."""
    return b"".join(array.astype("<f4").tobytes() for each in vectors for array in each)


def shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """The shape of each of a text's vectors, by name, in the order of `Vectors`."""
    spec, projector, n_embd = manifest.encoder, manifest.projector, manifest.llm.n_embd
    steering = {"control vector": (projector.n_control, n_embd)} if projector.n_control else {}
    kept = {"kept soft tokens": (manifest.kept.n_soft, n_embd)} if manifest.kept else {}
    return {
        "key": (spec.d_key,),
        "value": (spec.d_value,),
        "query": (spec.d_key,),
        "soft tokens": (projector.n_soft, n_embd),
        **steering,
        **kept,
    }


def unpack_golden(data: bytes, manifest: Manifest, where: str) -> dict[str, NDArray[np.float32]]:
    """Read a golden file.

    Args:
        data: its contents.
        manifest: the plug's, with golden texts.
        where: named in every error.

    Returns:
        float32 [n_texts, *shape] by the names of `shapes`.

    Raises:
        PlugError: another size than texts and widths say, or a number that is not finite.
    """
    assert manifest.golden is not None
    sizes = {name: int(np.prod(shape)) for name, shape in shapes(manifest).items()}
    n_texts, width = len(manifest.golden.texts), sum(sizes.values())
    if len(data) != 4 * n_texts * width:
        raise PlugError(f"{where} has {len(data)} bytes, not 4 x {n_texts} texts x {width}")
    rows = np.frombuffer(data, "<f4").astype(np.float32).reshape(n_texts, width)
    if not np.isfinite(rows).all():
        raise PlugError(f"{where} holds a number that is not finite")
    parts = np.split(rows, np.cumsum([*sizes.values()])[:-1], axis=1)
    return {
        name: part.reshape(n_texts, *shape)
        for (name, shape), part in zip(shapes(manifest).items(), parts, strict=True)
    }


def difference(golden: NDArray[np.float32], here: NDArray[np.float32]) -> float:
    """Largest |golden - here|, as a share of the largest |golden| (see `TOLERANCE`)."""
    largest = float(np.abs(golden).max())
    return float(np.abs(golden - here).max()) / (largest or 1.0)
