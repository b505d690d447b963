"""What the pooling benchmark compares: ppedge, its peers, and the read floor."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppedge.attention.pooling import pool

Call = Callable[[], object]
D_K = 384
SCALE = float(np.float32(1 / np.sqrt(D_K)))


@dataclass
class Data:
    """One problem in every storage format; rows repeat after the first ``BLOCK``."""

    query: np.ndarray
    keys: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    key_scales: np.ndarray
    value_scales: np.ndarray


BLOCK = 50_000


def repeated(block: np.ndarray, n: int) -> np.ndarray:
    rows = np.empty((n, *block.shape[1:]), block.dtype)
    for start in range(0, n, len(block)):
        rows[start : start + len(block)] = block[: n - start]
    return rows


def quantized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scales = (np.abs(x).max(axis=1) / 127).astype(np.float32)
    return np.rint(x / scales[:, None]).astype(np.int8), scales


def make_data(n: int, d_v: int) -> Data:
    rng = np.random.default_rng(0)
    query = rng.standard_normal(D_K).astype(np.float32)
    formats: list[dict[str, np.ndarray]] = []
    scales: list[np.ndarray] = []
    for width in (D_K, d_v):
        block = rng.standard_normal((min(n, BLOCK), width), np.float32)
        int8, row_scales = quantized(block)
        stored = {
            "f32": block,
            "f16": block.astype(np.float16),
            "bf16": (block.view(np.uint32) >> 16).astype(np.uint16),
            "int8": int8,
        }
        formats.append({name: repeated(rows, n) for name, rows in stored.items()})
        scales.append(repeated(row_scales, n))
    return Data(query, formats[0], formats[1], scales[0], scales[1])


def decoded(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return what stored rows mean, in float64."""
    if rows.dtype == np.uint16:
        rows = (rows.astype(np.uint32) << 16).view(np.float32)
    exact = rows.astype("f8")
    return exact * scales[:, None] if rows.dtype == np.int8 else exact


def truth(data: Data, name: str) -> np.ndarray:
    """Return the formula in float64 on the rows of format ``name``."""
    keys, values = data.keys[name], data.values[name]
    chunks = [slice(i, i + 20_000) for i in range(0, len(keys), 20_000)]
    query = data.query.astype("f8")
    scores = [decoded(keys[rows], data.key_scales[rows]) @ query * SCALE for rows in chunks]
    highest = max(part.max() for part in scores)
    weights = [np.exp(part - highest) for part in scores]
    pooled = sum(
        part @ decoded(values[rows], data.value_scales[rows])
        for part, rows in zip(weights, chunks, strict=True)
    )
    return np.asarray(pooled / sum(part.sum() for part in weights))


# --- ppedge ---------------------------------------------------------------------------------------


def ppedge_calls(data: Data, threads: int) -> dict[str, Call]:
    def subject(name: str) -> Call:
        options = {"dtype": "bfloat16"} if name == "bf16" else {}
        if name == "int8":
            options = {"key_scales": data.key_scales, "value_scales": data.value_scales}
        keys, values = data.keys[name], data.values[name]
        return lambda: (
            pool(data.query, keys, values, scale=SCALE, n_threads=threads, **options).value
        )

    return {f"ppedge {name}": subject(name) for name in data.keys}


# --- peers ----------------------------------------------------------------------------------------


def numpy_call(data: Data) -> Call:
    query, keys, values = data.query, data.keys["f32"], data.values["f32"]

    def call() -> np.ndarray:
        scores = (keys @ query) * np.float32(SCALE)
        weights = np.exp(scores - scores.max())
        return (weights @ values) / weights.sum()

    return call


def torch_calls(data: Data, threads: int) -> dict[str, Call]:
    import torch

    torch.set_num_threads(threads)
    attend = torch.nn.functional.scaled_dot_product_attention

    def subject(name: str, dtype: torch.dtype) -> Call:
        def rows(array: np.ndarray) -> torch.Tensor:
            if dtype == torch.bfloat16:
                array = array.view(np.int16)
            return torch.from_numpy(array).view(dtype)[None, None]

        keys, values = rows(data.keys[name]), rows(data.values[name])
        query = torch.from_numpy(data.query)[None, None, None].to(dtype)

        def call() -> np.ndarray:
            with torch.inference_mode():
                pooled = attend(query, keys, values, scale=SCALE)
            return pooled.float().numpy()[0, 0, 0]

        return call

    return {
        "torch SDPA f32": subject("f32", torch.float32),
        "torch SDPA f16": subject("f16", torch.float16),
        "torch SDPA bf16": subject("bf16", torch.bfloat16),
    }


def onnxruntime_model() -> bytes:
    """MatMul - Softmax - MatMul with the query already scaled; keys [n, d_k], values [n, d_v]."""
    from onnx import TensorProto, helper

    def tensor(name: str, shape: list[object]) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("MatMul", ["keys", "query"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=0),
        helper.make_node("Transpose", ["weights"], ["row"]),
        helper.make_node("MatMul", ["row", "values"], ["pooled"]),
    ]
    inputs = [
        tensor("query", [D_K, 1]),
        tensor("keys", ["n", D_K]),
        tensor("values", ["n", "d_v"]),
    ]
    graph = helper.make_graph(nodes, "pool", inputs, [tensor("pooled", [1, "d_v"])])
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def onnxruntime_call(data: Data, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        onnxruntime_model(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {
        "query": (data.query * np.float32(SCALE))[:, None],
        "keys": data.keys["f32"],
        "values": data.values["f32"],
    }
    return lambda: session.run(None, feeds)[0][0]


def peer_calls(data: Data, threads: int) -> tuple[dict[str, Call], list[str]]:
    """Return the peers that are installed, and the names of those that are not."""
    calls: dict[str, Call] = {"numpy f32": numpy_call(data)}
    missing: list[str] = []
    try:
        calls |= torch_calls(data, threads)
    except ImportError:
        missing.append("torch SDPA")
    try:
        calls["onnxruntime f32"] = onnxruntime_call(data, threads)
    except ImportError:
        missing.append("onnxruntime (needs onnxruntime and onnx)")
    return calls, missing


# --- the floor ------------------------------------------------------------------------------------


def build_floor() -> ctypes.CDLL:
    source = Path(__file__).with_name("read_floor.c")
    target = Path(tempfile.mkdtemp()) / "read_floor.so"
    subprocess.run(
        ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", target, source], check=True
    )
    library = ctypes.CDLL(str(target))
    for name in ("read_plain", "read_prefetched"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        getattr(library, name).restype = ctypes.c_uint64
    return library


def floor_calls(
    library: ctypes.CDLL, data: Data, threads: int, executor: ThreadPoolExecutor
) -> dict[str, list[Call]]:
    """For each format, the ways to read its bytes; the floor is the fastest of them."""

    def subject(name: str, read: Callable[[int, int], int]) -> Call:
        spans = []
        for rows in (data.keys[name], data.values[name]):
            step = -(-rows.nbytes // threads // 256) * 256
            for start in range(0, rows.nbytes, step):
                spans.append((rows.ctypes.data + start, min(step, rows.nbytes - start)))
        if threads == 1:
            return lambda: [read(*span) for span in spans]
        # thread t reads the t-th part of the keys, then that of the values
        parts = [spans[t::threads] for t in range(threads)]
        return lambda: list(executor.map(lambda part: [read(*span) for span in part], parts))

    return {
        name: [subject(name, library.read_plain), subject(name, library.read_prefetched)]
        for name in data.keys
    }
