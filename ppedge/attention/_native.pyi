from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
Floats = NDArray[np.float32]

def pool(
    query: Rows,
    keys: Rows,
    values: Rows,
    bias: Rows | None,
    key_scales: Rows | None,
    value_scales: Rows | None,
    out: Floats,
    weights: Floats | None,
    log_sum_exp: Floats | None,
    scale: float,
    heads: int,
    n_threads: int,
    dtype: str | None,
    backend: str | None,
    /,
) -> None: ...
def backend() -> str: ...
def backends() -> list[str]: ...
