"""The pooling kernel through its Python face, against the formula in float64."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppedge.attention.pooling import PoolingError, backend, backends, heaviest_rows, pool
from ppedge.errors import PpedgeError

BACKENDS = backends()
DTYPES = ("float32", "float16", "bfloat16", "int8")
# Of the sum of weights times |values|. The rows are taken as stored; int8 queries are rounded.
TOLERANCE = {"float32": 1e-5, "float16": 1e-5, "bfloat16": 1e-5, "int8": 1e-3}


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


@dataclass
class Rows:
    """Rows as the kernel takes them, and what they mean."""

    stored: np.ndarray
    scales: np.ndarray | None
    exact: np.ndarray


def make_rows(rng: np.random.Generator, n: int, width: int, dtype: str) -> Rows:
    x = rng.standard_normal((n, width)).astype(np.float32)
    if dtype == "bfloat16":
        stored = (x.view(np.uint32) >> 16).astype(np.uint16)
        return Rows(stored, None, (stored.astype(np.uint32) << 16).view(np.float32).astype("f8"))
    if dtype == "int8":
        scales = (np.abs(x).max(axis=1, initial=1e-3) / 127).astype(np.float32)
        stored = np.rint(x / scales[:, None]).astype(np.int8)
        return Rows(stored, scales, stored * scales[:, None].astype("f8"))
    stored = x.astype(dtype)
    return Rows(stored, None, stored.astype("f8"))


def unaligned(array: np.ndarray, offset: int, gap: int) -> np.ndarray:
    """Return a copy whose rows start at an odd address and lie ``gap`` bytes apart."""
    n, width = array.shape
    stride = width * array.itemsize + gap
    memory = np.zeros(offset + n * stride, np.uint8)
    copy = np.ndarray(array.shape, array.dtype, memory.data, offset, (stride, array.itemsize))
    copy[:] = array
    return copy


def formula(query, keys, values, scale, bias=None):
    """softmax(scale * keys @ query + bias) @ values in float64, with weights and log-sum-exp."""
    scores = scale * (keys @ query.astype("f8")) + (0 if bias is None else bias.astype("f8"))
    weights = np.exp(scores - scores.max())
    total = weights.sum()
    return weights @ values / total, weights / total, scores.max() + np.log(total)


def call(query, keys: Rows, values: Rows, **options):
    if keys.stored.dtype == np.uint16 or values.stored.dtype == np.uint16:
        options["dtype"] = "bfloat16"
    return pool(
        query,
        keys.stored,
        values.stored,
        key_scales=keys.scales,
        value_scales=values.scales,
        **options,
    )


sizes = st.one_of(st.integers(1, 70), st.integers(71, 1200), st.integers(1201, 5000))
widths = st.one_of(
    st.integers(1, 40), st.sampled_from([64, 384, 512, 576, 1024]), st.integers(1, 1025)
)


@bounded(300)
@given(
    n=sizes,
    d_k=widths,
    d_v=widths,
    key_dtype=st.sampled_from(DTYPES),
    value_dtype=st.sampled_from(DTYPES),
    offset=st.integers(0, 5),
    gap=st.integers(0, 5),
    biased=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_backend_agrees_with_the_formula(
    n, d_k, d_v, key_dtype, value_dtype, offset, gap, biased, seed
):
    rng = np.random.default_rng(seed)
    keys, values = make_rows(rng, n, d_k, key_dtype), make_rows(rng, n, d_v, value_dtype)
    query = rng.standard_normal(d_k).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32) if biased else None
    scale = float(np.float32(1 / np.sqrt(d_k)))
    expected, weights, log_sum_exp = formula(query, keys.exact, values.exact, scale, bias)
    size = weights @ np.abs(values.exact)
    keys.stored = unaligned(keys.stored, offset, gap)
    values.stored = unaligned(values.stored, offset, gap)
    tolerance = TOLERANCE[key_dtype]
    for name in BACKENDS:
        got = call(query, keys, values, scale=scale, bias=bias, weights=True, backend=name)
        assert np.all(np.abs(got.value - expected) <= tolerance * size), name
        assert np.abs(got.weights - weights).max() <= tolerance, name
        assert abs(float(got.log_sum_exp) - log_sum_exp) <= tolerance * max(1, abs(log_sum_exp))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_long_history_is_pooled_whole(name):
    query, keys, values = problem(n=150_001, d_k=3, d_v=2)
    expected, weights, _ = formula(query, keys.exact, values.exact, 0.5)
    got = call(query, keys, values, scale=0.5, weights=True, backend=name)
    assert np.allclose(got.value, expected, rtol=0, atol=1e-5)
    assert np.allclose(got.weights, weights, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_every_number_of_a_format_is_read_exactly(name, dtype):
    if dtype == "int8":
        stored = np.arange(-128, 128).astype(np.int8)
        exact = stored.astype(np.float32)
    else:
        stored = np.arange(65536).astype(np.uint16)
        wide = (stored.astype(np.uint32) << 16).view(np.float32)
        exact = wide if dtype == "bfloat16" else stored.view(np.float16).astype(np.float32)
        stored, exact = stored[np.isfinite(exact)], exact[np.isfinite(exact)]
    rows = stored.view(np.float16) if dtype == "float16" else stored
    one = np.ones((1, 1), np.float32)
    got = pool(
        one[0],
        one,
        rows[None],
        value_scales=one[0] if dtype == "int8" else None,
        dtype="bfloat16" if dtype == "bfloat16" else None,
        backend=name,
    )
    assert np.array_equal(got.value, exact)


@pytest.mark.parametrize("name", BACKENDS)
def test_weights_follow_the_exponential_to_float32_precision(name):
    bias = np.linspace(0, -80, 5000, dtype=np.float32)
    rows = np.zeros((5000, 1), np.float32)
    got = pool(rows[0], rows, rows, bias=bias, weights=True, backend=name)
    expected = np.exp(bias.astype("f8"))
    assert np.abs(got.weights / (expected / expected.sum()) - 1).max() < 5e-7


@bounded(60)
@given(
    n=st.integers(1, 400),
    queries=st.integers(1, 5),
    heads=st.integers(1, 6),
    d_k=st.integers(1, 40),
    d_v=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_heads_and_queries_pool_their_own_slices(n, queries, heads, d_k, d_v, dtype, seed):
    rng = np.random.default_rng(seed)
    keys, values = make_rows(rng, n, heads * d_k, dtype), make_rows(rng, n, heads * d_v, dtype)
    query = rng.standard_normal((queries, heads * d_k)).astype(np.float32)
    for name in BACKENDS:
        got = call(query, keys, values, scale=0.25, heads=heads, weights=True, backend=name)
        got_weights = got.weights.reshape(queries, heads, n)
        got_sums = got.log_sum_exp.reshape(queries, heads)
        for q in range(queries):
            for h in range(heads):
                k, v = slice(h * d_k, (h + 1) * d_k), slice(h * d_v, (h + 1) * d_v)
                expected, weights, log_sum_exp = formula(
                    query[q, k], keys.exact[:, k], values.exact[:, v], 0.25
                )
                size = weights @ np.abs(values.exact[:, v])
                assert np.all(np.abs(got.value[q, v] - expected) <= TOLERANCE[dtype] * size)
                assert np.abs(got_weights[q, h] - weights).max() <= TOLERANCE[dtype]
                assert abs(got_sums[q, h] - log_sum_exp) <= TOLERANCE[dtype] * 10


def problem(n=3000, d_k=48, d_v=40, dtype="float16", seed=0):
    rng = np.random.default_rng(seed)
    keys, values = make_rows(rng, n, d_k, dtype), make_rows(rng, n, d_v, dtype)
    return rng.standard_normal(d_k).astype(np.float32), keys, values


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query_shape", "heads", "value", "weights", "log_sum_exp"),
    [
        ((8,), 1, (6,), (9,), ()),
        ((8,), 2, (6,), (2, 9), (2,)),
        ((3, 8), 1, (3, 6), (3, 9), (3,)),
        ((3, 8), 2, (3, 6), (3, 2, 9), (3, 2)),
    ],
)
def test_result_shapes_follow_the_query(query_shape, heads, value, weights, log_sum_exp):
    keys, values = np.ones((9, 8), np.float16), np.ones((9, 6), np.float16)
    got = pool(np.ones(query_shape, np.float32), keys, values, heads=heads, weights=True)
    assert got.value.shape == value
    assert got.weights.shape == weights
    assert got.log_sum_exp.shape == log_sum_exp
    assert got.value.dtype == got.weights.dtype == got.log_sum_exp.dtype == np.float32


def test_weights_are_none_unless_asked_for():
    query, keys, values = problem()
    assert call(query, keys, values).weights is None


def test_out_is_filled_and_returned():
    query, keys, values = problem()
    out = np.zeros(40, np.float32)
    assert call(query, keys, values, out=out).value is out
    assert np.array_equal(out, call(query, keys, values).value)


def test_plain_buffers_need_no_numpy_array():
    keys = memoryview(np.eye(3, dtype=np.float32).tobytes()).cast("f", (3, 3))
    got = pool(memoryview(np.float32([9, 0, 0]).tobytes()).cast("f"), keys, keys, scale=10)
    assert got.value.tolist() == [1, 0, 0]


def test_a_read_only_memory_map_is_pooled_in_place(tmp_path):
    query, keys, values = problem()
    keys.stored.tofile(tmp_path / "keys.f16")
    mapped = np.memmap(tmp_path / "keys.f16", np.float16, "r", shape=keys.stored.shape)
    got = pool(query, mapped, values.stored)
    assert np.array_equal(got.value, call(query, keys, values).value)


def test_keys_may_be_the_values():
    query, keys, _ = problem()
    expected, *_ = formula(query, keys.exact, keys.exact, 0.1)
    assert np.allclose(pool(query, keys.stored, keys.stored, scale=0.1).value, expected, atol=1e-5)


def test_a_masked_row_weighs_nothing_and_may_hold_anything():
    query, keys, values = problem(dtype="float32", n=500)
    bias = np.zeros(500, np.float32)
    bias[[0, 77, 78, 499]] = -np.inf
    keep = np.isfinite(bias)
    expected, weights, _ = formula(query, keys.exact[keep], values.exact[keep], 0.1)
    keys.stored[77] = values.stored[78] = np.nan
    got = call(query, keys, values, scale=0.1, bias=bias, weights=True)
    assert np.allclose(got.value, expected, atol=1e-5)
    assert np.allclose(got.weights[keep], weights, atol=1e-6)
    assert np.all(got.weights[~keep] == 0)


def test_two_pools_merge_by_their_log_sum_exp():
    query, keys, values = problem()
    whole = call(query, keys, values, scale=0.1)
    parts = [
        pool(query, keys.stored[rows], values.stored[rows], scale=0.1)
        for rows in (slice(0, 1000), slice(1000, None))
    ]
    shares = np.exp([part.log_sum_exp - whole.log_sum_exp for part in parts])
    merged = sum(share * part.value for share, part in zip(shares, parts, strict=True))
    assert np.allclose(merged, whole.value, atol=1e-6)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_row_that_outweighs_all_takes_all(name):
    query, keys, values = problem(dtype="float32")
    bias = (np.arange(3000) * 1e34).astype(np.float32)
    got = call(query, keys, values, bias=bias, backend=name)
    assert np.array_equal(got.value, values.stored[-1])


# Below this size of the rows, one thread does all.
THREADED_BYTES = 8 << 20


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_threads_alignment_or_stride(name, dtype):
    query, keys, values = problem(n=9000, d_k=467, d_v=493, dtype=dtype)
    assert keys.stored.nbytes + values.stored.nbytes > THREADED_BYTES
    expected = call(query, keys, values, weights=True, backend=name)
    moved = [
        Rows(unaligned(rows.stored, 3, gap), rows.scales, rows.exact)
        for rows, gap in ((keys, 5), (values, 1))
    ]
    for n_threads in (1, 2, 3, 8):
        got = call(query, *moved, weights=True, backend=name, n_threads=n_threads)
        assert got.value.tobytes() == expected.value.tobytes()
        assert got.weights.tobytes() == expected.weights.tobytes()
        assert got.log_sum_exp.tobytes() == expected.log_sum_exp.tobytes()


def test_bits_do_not_depend_on_the_alignment_of_small_buffers():
    query, keys, values = problem(dtype="int8")
    bias = np.linspace(0, 1, 3000, dtype=np.float32)
    expected = call(query, keys, values, bias=bias)
    odd = [unaligned(x[None], 1, 0)[0] for x in (query, bias, keys.scales, values.scales)]
    got = pool(
        odd[0],
        keys.stored,
        values.stored,
        bias=odd[1],
        key_scales=odd[2],
        value_scales=odd[3],
    )
    assert got.value.tobytes() == expected.value.tobytes()


def test_eight_threads_pooling_at_once_get_the_same_bits():
    query, keys, values = problem(n=5000, d_k=450, d_v=450)
    assert keys.stored.nbytes + values.stored.nbytes > THREADED_BYTES
    expected = call(query, keys, values).value.tobytes()
    results: list[bytes] = []

    def work() -> None:
        for _ in range(10):
            results.append(call(query, keys, values, n_threads=2).value.tobytes())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 80


# --- errors ---------------------------------------------------------------------------------------

ROWS = np.ones((7, 4), np.float32)
QUERY = np.ones(4, np.float32)


def with_value(array, at, value):
    changed = array.copy()
    changed[at] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": ROWS[:0], "values": ROWS[:0]}, "`keys` has no rows"),
        ({"values": ROWS[:6]}, "`keys` has 7 rows, but `values` has 6"),
        ({"keys": ROWS[0]}, r"`keys` \[n, d_k\] .* got \[4\], \[4\] and \[7, 4\]"),
        ({"query": np.ones(3, np.float32)}, r"`query` must have shape \[4\] or \[q, 4\]"),
        ({"query": np.ones((0, 4), np.float32)}, "`query` has no rows"),
        ({"keys": ROWS[:, :0], "query": QUERY[:0]}, "`keys` has rows of width 0"),
        ({"values": ROWS[:, :0]}, "`values` has rows of width 0"),
        ({"heads": 3}, "`heads` must be a positive integer that divides d_k 4 and d_v 4, got 3"),
        ({"heads": 0}, "`heads` must be a positive integer .* got 0"),
        ({"heads": 2.0}, "`heads` must be a positive integer .* got 2.0"),
        ({"query": [1.0, 2, 3, 4]}, "`query` must be float32, got format 'd'"),
        ({"query": QUERY[::-1]}, "`query` must be C-contiguous"),
        ({"keys": ROWS.astype("f8")}, "`keys` must be float32, float16, int8.* got format 'd'"),
        ({"values": ROWS.astype(">f4")}, "`values` must be float32.* got format '>f'"),
        ({"values": ROWS.astype("u1")}, "`values` must be float32.* got format 'B'"),
        ({"keys": ROWS.astype("u2")}, '`keys` is uint16; pass dtype="bfloat16"'),
        ({"dtype": "bfloat16"}, "neither `keys` nor `values` is uint16"),
        ({"dtype": "float16"}, '`dtype` must be None or "bfloat16", got "float16"'),
        ({"keys": np.array([["a"] * 4] * 7)}, "`keys` must be float32"),
        ({"keys": np.array([[None] * 4] * 7)}, "`keys` must be float32"),
        ({"keys": np.ones((4, 7), np.float32).T}, "`keys` must have contiguous rows: .* 28 bytes"),
        ({"keys": ROWS[::-1]}, "`keys` must have rows one after another"),
        ({"keys": np.broadcast_to(ROWS[0], (7, 4))}, "16 bytes long and lie 0 bytes apart"),
        ({"keys": ROWS.astype("i1")}, "`key_scales` is required: `keys` is int8"),
        ({"values": ROWS.astype("i1")}, "`value_scales` is required: `values` is int8"),
        ({"key_scales": np.ones(7, np.float32)}, "`key_scales` is given, but `keys` is not int8"),
        ({"bias": np.ones(6, np.float32)}, "`bias` must hold 7 numbers, got 6"),
        ({"bias": np.ones(7)}, "`bias` must be float32"),
        ({"bias": np.full(7, -np.inf, np.float32)}, "`bias` is -inf for every row"),
        ({"bias": np.float32([0, 0, np.inf, 0, 0, 0, 0])}, "`bias`, row 2: is NaN or infinite"),
        ({"query": with_value(QUERY, 2, np.nan)}, "`queries`, row 0, column 2: is NaN"),
        ({"keys": with_value(ROWS, (5, 1), np.inf)}, "`keys`, row 5, column 1: is NaN"),
        ({"values": with_value(ROWS, (6, 3), np.nan)}, "`values`, row 6, column 3: is NaN"),
        ({"scale": float("nan")}, "`scale` is NaN or infinite"),
        ({"scale": 1e39}, "`scale` is NaN or infinite"),
        ({"keys": ROWS * np.float32(3e38)}, "`keys`, row 0: gives a result beyond float32"),
        ({"scale": "1"}, "must be real number, not str"),
        ({"out": np.ones(3, np.float32)}, r"`out` must be an array of shape \[4\], got \[3\]"),
        ({"out": [0.0] * 4}, "`out` must be an array of shape .* got list"),
        ({"out": np.ones(4)}, "`out` must be float32"),
        ({"out": np.ones(8, np.float32)[::2]}, "`out` must be C-contiguous"),
        ({"out": np.frombuffer(bytes(16), np.float32)}, "`out` must be a writable buffer"),
        ({"out": unaligned(ROWS[:1], 1, 0)[0]}, "`out` must be aligned to 4 bytes"),
        ({"backend": "sse9"}, '`backend` must be auto, scalar, .* got "sse9"'),
    ],
)
def test_a_call_that_cannot_be_answered_says_why(changes, message):
    arguments = {"query": QUERY, "keys": ROWS, "values": ROWS} | changes
    with pytest.raises(PoolingError, match=message) as caught:
        pool(**arguments)
    assert isinstance(caught.value, PpedgeError)
    assert "\n" not in str(caught.value)


def test_a_backend_of_another_cpu_is_refused():
    for name in {"avx2", "avx512", "neon"} - set(BACKENDS):
        with pytest.raises(PoolingError, match="`backend` names no backend that"):
            pool(QUERY, ROWS, ROWS, backend=name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("where", ["keys", "values"])
def test_a_number_that_is_not_finite_is_found_in_any_row(dtype, name, where):
    query, keys, values = problem(n=2100, d_k=21, d_v=18, dtype=dtype)
    bad = {"float32": np.nan, "float16": np.inf, "bfloat16": 0xFF80}[dtype]
    for row, column in ((0, 0), (63, 17), (2099, 16)):
        broken = {"keys": keys, "values": values}
        broken[where] = Rows(with_value(broken[where].stored, (row, column), bad), None, None)
        with pytest.raises(PoolingError, match=f"`{where}`, row {row}, column {column}: is NaN"):
            call(query, broken["keys"], broken["values"], backend=name)


def test_the_first_bad_row_is_named_whatever_the_threads():
    query, keys, values = problem(n=5000, d_k=450, d_v=450)
    keys.stored[[1500, 4100], 7] = np.nan
    assert keys.stored.nbytes + values.stored.nbytes > THREADED_BYTES
    for n_threads in (1, 2, 4):
        with pytest.raises(PoolingError, match="`keys`, row 1500, column 7"):
            call(query, keys, values, n_threads=n_threads)


# --- the process ----------------------------------------------------------------------------------


def run_python(code: str, simd: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PPEDGE_SIMD": simd}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_the_environment_forces_a_backend(name):
    code = "import ppedge.attention.pooling; print(ppedge.attention.pooling.backend())"
    assert run_python(code, name).stdout.strip() == name


def test_an_unknown_backend_in_the_environment_is_refused():
    code = (
        "import numpy, ppedge.attention.pooling as p\n"
        "x = numpy.ones((1, 1), numpy.float32)\n"
        "for call in (p.backend, lambda: p.pool(x[0], x, x)):\n"
        "    try: call()\n"
        "    except p.PoolingError as error: print(error)\n"
    )
    lines = run_python(code, "sse9").stdout.splitlines()
    assert lines == ["`PPEDGE_SIMD` names no backend that is built in and runs on this CPU"] * 2


def test_the_default_backend_runs_here():
    assert backend() in BACKENDS
    assert "scalar" in BACKENDS


def test_other_threads_run_during_a_long_call():
    query, keys, values = problem(n=2000, d_k=256, d_v=256)
    queries = np.tile(query, (200, 1))
    finished = threading.Event()
    interval = sys.getswitchinterval()

    def work() -> None:
        call(queries, keys, values)
        finished.set()

    turns = 0
    # no thread is made to yield: the main thread runs only where the call lets go of the lock
    sys.setswitchinterval(60)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        while not finished.is_set():
            turns += 1
            time.sleep(0)
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert turns > 10


def test_calls_leak_neither_references_nor_memory():
    query, keys, values = problem(n=300, dtype="int8")
    out = np.zeros(40, np.float32)
    broken = with_value(query, 0, np.nan)
    odd = unaligned(query[None], 1, 0)[0]
    objects = (query, keys.stored, values.stored, keys.scales, values.scales, out, broken, odd)

    def calls(times: int) -> None:
        for _ in range(times):
            call(query, keys, values, out=out, weights=True, n_threads=2)
            call(odd, keys, values)
            for bad in ({"query": broken}, {"query": QUERY}, {"bias": QUERY}, {"out": QUERY}):
                arguments = {"query": query} | bad
                with pytest.raises(PoolingError):
                    call(arguments.pop("query"), keys, values, **arguments)

    calls(20)
    references = [sys.getrefcount(x) for x in objects]
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    calls(300)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert [sys.getrefcount(x) for x in objects] == references
    assert grown < 20_000


# --- the heaviest rows ---


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5]), min_size=1, max_size=12).flatmap(
        lambda found: st.tuples(
            st.just(found), st.lists(st.booleans(), min_size=len(found), max_size=len(found))
        )
    ),
    st.integers(0, 14),
    st.booleans(),
)
def test_the_heaviest_rows_are_those_of_a_full_sort(found, k, masks):
    weights, masked = np.array(found[0], np.float32), np.array(found[1])
    bias = np.where(masked, -np.inf, 0).astype(np.float32) if masks else None
    wanted = [
        row
        for row in sorted(range(1, len(weights)), key=lambda row: -weights[row])
        if not masks or not masked[row]
    ]
    assert heaviest_rows(weights, bias, k).tolist() == wanted[:k]
