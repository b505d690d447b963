from _typeshed import ReadableBuffer, WriteableBuffer

def pool(
    query: ReadableBuffer,
    keys: ReadableBuffer,
    values: ReadableBuffer,
    bias: ReadableBuffer | None,
    key_scales: ReadableBuffer | None,
    value_scales: ReadableBuffer | None,
    out: WriteableBuffer,
    weights: WriteableBuffer | None,
    log_sum_exp: WriteableBuffer | None,
    scale: float,
    heads: int,
    n_threads: int,
    dtype: str | None,
    backend: str | None,
    /,
) -> None: ...
def backend() -> str: ...
def backends() -> list[str]: ...
