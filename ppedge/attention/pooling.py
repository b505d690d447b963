"""Attention pooling of a history by a prompt: the Python face of the native kernel.

    value = softmax(scale * keys @ query + bias) @ values

One pass over the rows, without temporaries; ``native/include/ppedge/pool.h`` is the C side.
The environment variable ``PPEDGE_SIMD`` (scalar, avx2, avx512, neon) forces a backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ppedge.attention import _native
from ppedge.errors import PpedgeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Backend = Literal["auto", "scalar", "avx2", "avx512", "neon"]


class PoolingError(PpedgeError, ValueError):
    """The arguments of a pooling call do not fit, or hold a number that is not finite."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """What `pool` returns; the axis q is absent where the query was one row.

    Attributes:
        value: float32 [q, d_v], the pooled values; head h fills the h-th slice of a row.
        weights: float32 [q, heads, n], each row of n sums to one; the axis of heads is absent
            for one head. None unless asked for.
        log_sum_exp: float32 [q, heads], the log of the sum of exponentiated scores; the axis of
            heads is absent for one head. Two pools merge by it.
    """

    value: NDArray[np.float32]
    weights: NDArray[np.float32] | None
    log_sum_exp: NDArray[np.float32]


def pool(
    query: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    *,
    scale: float = 1.0,
    bias: ArrayLike | None = None,
    key_scales: ArrayLike | None = None,
    value_scales: ArrayLike | None = None,
    heads: int = 1,
    out: NDArray[np.float32] | None = None,
    weights: bool = False,
    n_threads: int = 1,
    dtype: Literal["bfloat16"] | None = None,
    backend: Backend | None = None,
) -> Pooled:
    """Pool the rows of ``values`` by how well ``query`` matches the rows of ``keys``.

    Rows are float32, float16, int8 (with scales) or bfloat16; keys and values may differ in
    dtype, may be any buffer (a memory map, unaligned, with any row stride), and may be the same
    rows. Accumulators are float32. For one backend the result's bits depend on the numbers and
    their order alone: not on ``n_threads``, alignment or strides.

    Args:
        query: float32 [d_k] or [q, d_k].
        keys: [n, d_k], n at least 1.
        values: [n, d_v].
        scale: factor of every score, before the bias.
        bias: float32 [n], added to every score; -inf masks a row, which is then not read.
        key_scales: float32 [n], for int8 keys: row i stands for ``key_scales[i] * keys[i]``.
        value_scales: float32 [n], likewise for int8 values.
        heads: divides d_k and d_v; head h uses the h-th slice of a query, key and value row.
        out: float32 [d_v] or [q, d_v], C-contiguous, to be filled and returned as the value.
        weights: whether to return the weights.
        n_threads: threads to use at most; small inputs use fewer.
        dtype: "bfloat16" says that uint16 rows hold the upper halves of float32.
        backend: forces an instruction set; None or "auto" takes `backend`'s.

    Returns:
        The pooled value, the weights (or None), and the log-sum-exp of the scores.

    Raises:
        PoolingError: shapes or dtypes do not fit, a number is NaN or infinite, every row is
            masked, or the backend does not run here. The message names the argument, and the
            row where one is to blame.
    """
    query = np.asarray(query)
    keys = np.asarray(keys)
    values = np.asarray(values)
    _check_shapes(query, keys, values, heads)
    lead = query.shape[:-1]
    per_head = lead if heads == 1 else (*lead, heads)
    value = _output(out, (*lead, values.shape[1]))
    row_weights = np.empty((*per_head, keys.shape[0]), np.float32) if weights else None
    log_sum_exp = np.empty(per_head, np.float32)
    try:
        _native.pool(
            query,
            keys,
            values,
            _optional(bias),
            _optional(key_scales),
            _optional(value_scales),
            value,
            row_weights,
            log_sum_exp,
            scale,
            heads,
            n_threads,
            dtype,
            backend,
        )
    except (ValueError, TypeError, BufferError, OverflowError) as error:
        raise PoolingError(str(error)) from None
    return Pooled(value, row_weights, log_sum_exp)


def heaviest_rows(
    weights: NDArray[np.float32], bias: NDArray[np.float32] | None, k: int
) -> NDArray[np.intp]:
    """Return up to ``k`` rows that weigh most, heaviest first, of two alike the first.

    Neither row 0, the null note's, nor one that is masked is among them.

    Args:
        weights: of the rows, float32 [n].
        bias: float32 [n] as of `pool`, or None.
        k: how many at most.
    """
    allowed = np.ones(len(weights), bool) if bias is None else bias > -np.inf
    allowed[0] = False
    rows = np.flatnonzero(allowed)
    if 0 < k < len(rows):
        # Sorting all of a hundred thousand takes as long as pooling them.
        found = weights[rows]
        rows = rows[found >= np.partition(found, len(found) - k)[len(found) - k]]
    return rows[np.argsort(-weights[rows], kind="stable")][:k]


def backend() -> str:
    """Name the backend in use: "scalar", "avx2", "avx512" or "neon".

    Raises:
        PoolingError: ``PPEDGE_SIMD`` names none that is built in and runs on this CPU.
    """
    try:
        return _native.backend()
    except ValueError as error:
        raise PoolingError(str(error)) from None


def backends() -> list[str]:
    """Name every backend that is built in and runs on this CPU."""
    return _native.backends()


def _check_shapes(
    query: NDArray[Any], keys: NDArray[Any], values: NDArray[Any], heads: int
) -> None:
    if keys.ndim != 2 or values.ndim != 2 or query.ndim not in (1, 2):
        raise PoolingError(
            f"`query` must have shape [d_k] or [q, d_k], `keys` [n, d_k] and `values` [n, d_v]; "
            f"got {list(query.shape)}, {list(keys.shape)} and {list(values.shape)}"
        )
    d_k, d_v = keys.shape[1], values.shape[1]
    if not isinstance(heads, int) or heads < 1 or d_k % heads != 0 or d_v % heads != 0:
        raise PoolingError(
            f"`heads` must be a positive integer that divides d_k {d_k} and d_v {d_v}, "
            f"got {heads!r}"
        )


def _output(out: NDArray[np.float32] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if out is None:
        return np.empty(shape, np.float32)
    if not isinstance(out, np.ndarray) or out.shape != shape:
        got = list(out.shape) if isinstance(out, np.ndarray) else type(out).__name__
        raise PoolingError(f"`out` must be an array of shape {list(shape)}, got {got}")
    return out


def _optional(array: ArrayLike | None) -> NDArray[Any] | None:
    return None if array is None else np.asarray(array)
