"""Soft instructions in files: what the model is given where nobody is known.

An ``.npy`` holds soft tokens, float32 [n, n_embd], as a training with ``--persona-tokens 0`` leaves
them; an ``.npz``, as ``export.population`` writes it, holds them as ``soft`` and, of a plug with
control vectors, one of those as ``control``, float32 [n_layer - 1, n_embd].
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ppedge.llm.segments import Soft


def write_instruction(file: IO[bytes], soft: Soft) -> None:
    """Write an ``.npz``."""
    steering = {} if soft.control is None else {"control": soft.control}
    np.savez(file, soft=soft.vectors, **steering)


def read_instruction(path: Path, n_embd: int, n_layer: int) -> Soft:
    """A soft instruction for a model of that width and so many layers.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file; one line that says how.
    """
    try:
        found = np.load(path, allow_pickle=False)
        arrays = {"soft": found} if isinstance(found, np.ndarray) else dict(found)
    except OSError:
        raise
    except Exception as error:  # of numpy, zipfile and zlib: a dozen kinds
        raise ValueError(f"{path}: not an array that numpy saved: {error}") from None
    # What is no array in an archive comes as its bytes.
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{path}: not an array that numpy saved: {strange[0]}")
    if "soft" not in arrays or not arrays.keys() <= {"soft", "control"}:
        raise ValueError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; an instruction's archive "
            "holds soft, and control where there is one"
        )
    soft = Soft(arrays["soft"], arrays.get("control"))
    check_instruction(soft, n_embd, n_layer, str(path))
    return soft


def check_instruction(soft: Soft, n_embd: int, n_layer: int, where: str) -> None:
    """Refuse a soft instruction that does not fit the model.

    Raises:
        ValueError: one line that says how.
    """
    rows, control = soft.vectors, soft.control
    if rows.dtype != np.float32 or rows.ndim != 2 or not len(rows) or rows.shape[1] != n_embd:
        raise ValueError(
            f"{where}: a soft instruction for this model is float32 [n, {n_embd}], not "
            f"{rows.dtype} {list(rows.shape)}"
        )
    wanted = (n_layer - 1, n_embd)
    if control is not None and (control.dtype != np.float32 or control.shape != wanted):
        raise ValueError(
            f"{where}: a control vector for this model is float32 {list(wanted)}, not "
            f"{control.dtype} {list(control.shape)}"
        )
    if not all(np.isfinite(part).all() for part in (rows, control) if part is not None):
        raise ValueError(f"{where}: holds a number that is not finite")


def mean(said: list[Soft]) -> Soft:
    """The mean of what a plug says, float32; of one form, all with a control vector or none."""
    vectors = np.mean([each.vectors for each in said], 0, dtype=np.float32)
    steering: list[NDArray[np.float32]] = [s.control for s in said if s.control is not None]
    return Soft(vectors, np.mean(steering, 0, dtype=np.float32) if steering else None)


def digest(soft: Soft) -> str:
    """SHA-256 (hex) over every number of a soft instruction."""
    steering = b"" if soft.control is None else soft.control.tobytes()
    return hashlib.sha256(soft.vectors.tobytes() + steering).hexdigest()
