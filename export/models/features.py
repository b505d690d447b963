"""Text vectors of the frozen encoder, computed once a text and kept on disk."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from export.models.text_encoder import TextEncoder

# Texts are cut here; the manifest carries both, so that the run time cuts at the same place.
MAX_TOKENS = 128
MAX_BYTES = 192
BUDGET = {"cpu": 4096, "cuda": 65536}  # tokens that are encoded together, about


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, cutting at ``MAX_TOKENS``, without padding."""
    tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def padded(rows: Sequence[Sequence[int] | bytes]) -> tuple[Tensor, Tensor]:
    """Rows of ids -> int64 [n, L], zeros behind the shorter ones, and mask bool [n, L]."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    mask = np.arange(max(lengths, default=0)) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return torch.from_numpy(ids), torch.from_numpy(mask)


class Features:
    """text -> float16 vector [d_text] and uint8 bytes; grows as texts are asked for."""

    def __init__(
        self,
        folder: Path,
        cache: Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Open an encoder and its vectors.

        Args:
            folder: the encoder's.
            cache: where vectors are loaded from, if it exists, and saved to.
            device: where to encode; vectors are kept in main memory.
            dtype: of the matrix products. In bfloat16 they take 0.6 times as long on two cores
                with AVX512-BF16, and 1,600 vectors had cosines of 0.99995 and more to float32's.

        Raises:
            ValueError: the folder holds no encoder, or the vectors are another encoder's.
        """
        self.encoder = TextEncoder.read(folder).eval().to(device)
        self.tokenizer = open_tokenizer(folder)
        self.cache, self.device, self.dtype = cache, torch.device(device), dtype
        self.vectors: dict[str, Tensor] = {}
        self.digest = self.encoder.digest()
        if cache is not None and cache.exists():
            stored = torch.load(cache)
            # Files of the first version name no encoder; their width must do.
            other = stored.get("encoder", self.digest) != self.digest
            if other or stored["vectors"].shape[1] != self.encoder.width:
                raise ValueError(f"{cache} holds vectors of another encoder than {folder}")
            self.vectors = dict(zip(stored["texts"], stored["vectors"], strict=True))
        self.saved = len(self.vectors)

    def encode(self, texts: Iterable[str], *, budget: int | None = None) -> None:
        """Compute what is missing, in batches of about ``budget`` tokens of like length."""
        budget = budget or BUDGET[self.device.type]
        missing = list(dict.fromkeys(t for t in texts if t not in self.vectors))
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(missing)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        start, begun, told = 0, time.time(), time.time()
        # One table up front: small tensors that outlive large temporaries, allocated in between
        # them, fragment the heap until memory runs out (22 GB for 70,000 texts, seen).
        table = torch.empty(len(missing), self.encoder.width, dtype=torch.float16)
        lower = self.dtype == torch.bfloat16
        while start < len(order):
            end = start
            while end < len(order) and (end - start + 1) * len(rows[order[end]]) <= budget:
                end += 1
            chunk = order[start : max(end, start + 1)]
            ids, mask = padded([rows[i] for i in chunk])
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, lower):
                vectors = self.encoder(ids.to(self.device), mask.to(self.device))
                table[chunk] = vectors.half().cpu()
            start += len(chunk)
            if time.time() - told > 15:
                told = time.time()
                print(f"encoded {start}/{len(order)} texts, {told - begun:.0f} s", file=sys.stderr)
        self.vectors.update(zip(missing, table, strict=True))

    def save(self) -> None:
        """Write all vectors to the cache file, if there is one and it lacks some."""
        if self.cache is None or len(self.vectors) == self.saved:
            return
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        stored = {
            "encoder": self.digest,
            "texts": list(self.vectors),
            "vectors": torch.stack(list(self.vectors.values())),
        }
        torch.save(stored, self.cache.with_suffix(".tmp"))
        self.cache.with_suffix(".tmp").replace(self.cache)
        self.saved = len(self.vectors)

    def vectors_of(self, texts: Sequence[str]) -> Tensor:
        """Float32 [n, d_text], computed where missing."""
        self.encode(texts)
        return torch.stack([self.vectors[t] for t in texts]).float().to(self.device)

    def tokens_of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids int64 [n, L] and mask bool [n, L], for an encoder that is being trained."""
        ids, mask = padded([encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))])
        return ids.to(self.device), mask.to(self.device)


def byte_rows(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """UTF-8 bytes of each text, cut at ``MAX_BYTES``: int64 [n, L] and mask bool [n, L]."""
    return padded([text.encode("utf-8", "surrogatepass")[:MAX_BYTES] for text in texts])
