"""GGUF files without llama.cpp: metadata, tensor extents, embedding rows.

llama.cpp aborts the process on some damaged files, so a model is read here first, in Python that
can only raise: every length, offset and type is checked against the file before it is followed.
Format source: the GGUF specification in ggml's ``docs/gguf.md`` (versions 2 and 3).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ppedge.closable import Closable
from ppedge.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: _U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: _U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING: Final = 8
_ARRAY: Final = 9
_MAX_NAME: Final = 65535
_MAX_DIMS: Final = 4

# ggml type id -> (name, weights in a block, bytes in a block), from ggml.h and ggml-common.h.
TENSOR_TYPES: Final = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    10: ("q2_K", 256, 84),
    11: ("q3_K", 256, 110),
    12: ("q4_K", 256, 144),
    13: ("q5_K", 256, 176),
    14: ("q6_K", 256, 210),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in the file.

    Attributes:
        shape: sizes as GGUF orders them, the contiguous dimension first.
        type: ggml type id; its blocks are in ``TENSOR_TYPES``.
        start: bytes from the start of the file.
    """

    shape: tuple[int, ...]
    type: int
    start: int


@dataclass(frozen=True, slots=True)
class _Span:
    """A metadata value that has been walked over but not decoded."""

    type: int
    start: int
    end: int


class Gguf(Closable):
    """A GGUF file, opened and checked; a context manager.

    Attributes:
        path: the file.
        tensors: every tensor by name; those of known type are known to lie inside the file.

    Args:
        path: the file to open.

    Raises:
        ModelError: the file is missing, is no GGUF, is damaged, or is cut short.
    """

    def __init__(self, path: str | Path) -> None:
        """Open and check the file."""
        self.path = Path(path)
        self._map = _map_file(self.path)
        self._spans: dict[str, _Span] = {}
        self.tensors: dict[str, Tensor] = {}
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the file go; reading afterwards raises ValueError."""
        self._map.close()

    @property
    def keys(self) -> tuple[str, ...]:
        """Every metadata key, in file order."""
        return tuple(self._spans)

    def get(self, key: str, default: Any = None) -> Any:
        """Return one metadata value: int, float, bool, str, or a list of them.

        Args:
            key: for example ``"general.architecture"``.
            default: returned when the file has no such key.
        """
        span = self._spans.get(key)
        return default if span is None else self._decode(span, key)

    def raw(self, key: str) -> bytes | None:
        """Return one metadata value as the bytes that the file holds, or None without the key."""
        span = self._spans.get(key)
        return None if span is None else self._map[span.start : span.end]

    def strings(self, key: str) -> list[bytes]:
        """Return an array of strings, undecoded; empty if the key is none."""
        span = self._spans.get(key)
        if span is None or span.type != _ARRAY or self._u32(span.start) != _STRING:
            return []
        values, at, data = [], span.start + 12, self._map
        for _ in range(self._u64(span.start + 4)):
            begin = at + 8
            at = begin + _U64.unpack_from(data, at)[0]
            values.append(data[begin:at])
        return values

    @property
    def architecture(self) -> str:
        """``general.architecture``."""
        name = self.get("general.architecture")
        if not isinstance(name, str) or not name:
            raise self._damaged("it does not name its general.architecture")
        return name

    @property
    def embedding(self) -> Tensor:
        """The token embedding matrix; shape (n_embd, n_vocab)."""
        tensor = self.tensors.get("token_embd.weight")
        if tensor is None and self.get("split.count", 0) not in (0, 1):
            raise ModelError(
                f"{self.path}: this part of a split model holds no token_embd.weight; "
                "join the parts first with llama-gguf-split --merge"
            )
        if tensor is None or len(tensor.shape) != 2:
            raise self._damaged("it has no token embedding matrix (token_embd.weight)")
        return tensor

    @property
    def n_vocab(self) -> int:
        """How many tokens the tokenizer of this file knows."""
        span = self._spans.get("tokenizer.ggml.tokens")
        if span is None or span.type != _ARRAY:
            raise self._damaged("it has no tokenizer.ggml.tokens")
        return self._u64(span.start + 4)

    def embedding_rows(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Return dequantised rows of the token embedding matrix.

        Args:
            ids: token ids, integers [n].

        Returns:
            float32 [n, n_embd], bit for bit what llama.cpp looks up for these tokens, before any
            scaling that the architecture applies.

        Raises:
            ModelError: an id is outside the vocabulary, or the tensor's type cannot be read.
        """
        import numpy as np  # Late: a file is checked without it.

        tensor = self.embedding
        n_embd, n_rows = tensor.shape
        index = np.asarray(ids, dtype=np.int64).reshape(-1)
        if index.size and (index.min() < 0 or index.max() >= n_rows):
            wrong = index[(index < 0) | (index >= n_rows)][0]
            raise ModelError(f"token id {wrong} is outside the model's 0..{n_rows - 1}")
        known = TENSOR_TYPES.get(tensor.type)
        if known is None:
            raise ModelError(f"{self.path}: token_embd.weight has unknown type {tensor.type}")
        name, block, size = known
        table = np.frombuffer(
            self._map, np.uint8, n_rows * (n_embd // block * size), offset=tensor.start
        )
        return _dequantize(table.reshape(n_rows, -1)[index], name, n_embd)

    # --- reading: each step checks that what it follows lies inside the file -----------------

    def _read(self) -> None:
        if self._map[:4] != b"GGUF":
            raise ModelError(f"{self.path}: not a GGUF file (it begins with {self._map[:4]!r})")
        version = self._u32(4)
        if version not in (2, 3):
            swapped = version & 0xFFFF == 0
            what = "big-endian" if swapped else f"version {version}"
            raise ModelError(f"{self.path}: {what} GGUF files are not supported (2 and 3 are)")
        n_tensors, n_keys = self._u64(8), self._u64(16)
        at = 24
        for _ in range(n_keys):
            at = self._read_key(at)
        self._read_tensors(at, n_tensors)

    def _read_key(self, at: int) -> int:
        key, at = self._name(at)
        if key in self._spans:
            raise self._damaged(f"metadata key {key!r} comes twice")
        kind = self._u32(at)
        end = self._skip(kind, at + 4, key)
        self._spans[key] = _Span(kind, at + 4, end)
        return end

    def _skip(self, kind: int, at: int, key: str) -> int:
        """Return where the value of type ``kind`` at ``at`` ends."""
        if kind in _SCALARS:
            return self._inside(at + _SCALARS[kind].size)
        if kind == _STRING:
            return self._inside(at + 8 + self._u64(at))
        if kind != _ARRAY:
            raise self._damaged(f"metadata key {key!r} has unknown type {kind}")
        item, count = self._u32(at), self._u64(at + 4)
        if item in _SCALARS:
            return self._inside(at + 12 + count * _SCALARS[item].size)
        if item != _STRING:
            raise self._damaged(f"metadata key {key!r} is an array of unknown type {item}")
        return self._skip_strings(at + 12, count)

    def _skip_strings(self, at: int, count: int) -> int:
        # A vocabulary has up to a million strings: this is the one loop where time counts.
        read, data = _U64.unpack_from, self._map
        try:
            for _ in range(count):
                at += 8 + read(data, at)[0]
        except (struct.error, OverflowError):
            raise self._short() from None
        return self._inside(at)

    def _read_tensors(self, at: int, count: int) -> None:
        found: list[tuple[str, Tensor]] = []
        for _ in range(count):
            name, at = self._name(at)
            n_dims = self._u32(at)
            if not 1 <= n_dims <= _MAX_DIMS:
                raise self._damaged(f"tensor {name!r} has {n_dims} dimensions (1 to 4 are allowed)")
            shape = tuple(self._u64(at + 4 + 8 * i) for i in range(n_dims))
            at += 4 + 8 * n_dims
            found.append((name, Tensor(shape, self._u32(at), self._u64(at + 4))))
            at += 12
        align = self.get("general.alignment", 32)
        if not isinstance(align, int) or align <= 0 or align & (align - 1):
            raise self._damaged(f"general.alignment is {align!r}, not a power of two")
        data = (at + align - 1) // align * align
        for name, tensor in found:
            if name in self.tensors:
                raise self._damaged(f"tensor {name!r} comes twice")
            self.tensors[name] = self._placed(name, tensor, data, align)

    def _placed(self, name: str, tensor: Tensor, data: int, align: int) -> Tensor:
        """Return ``tensor`` with its offset made absolute, once it is known to be in the file."""
        weights = 1
        for size in tensor.shape:
            weights *= size
        if weights == 0:
            raise self._damaged(f"tensor {name!r} is empty: shape {tensor.shape}")
        if tensor.start % align:
            raise self._damaged(f"tensor {name!r} does not begin at a multiple of {align} bytes")
        start, size = data + tensor.start, 1
        if tensor.type in TENSOR_TYPES:
            _, block, block_size = TENSOR_TYPES[tensor.type]
            if tensor.shape[0] % block:
                raise self._damaged(
                    f"tensor {name!r} has rows of {tensor.shape[0]} weights, "
                    f"which its type stores by {block}"
                )
            size = weights // block * block_size
        if start + size > len(self._map):
            raise ModelError(
                f"{self.path}: cut short: tensor {name!r} needs bytes up to {start + size}, "
                f"the file has {len(self._map)}; download it again"
            )
        return Tensor(tensor.shape, tensor.type, start)

    def _decode(self, span: _Span, key: str) -> Any:
        if span.type in _SCALARS:
            return _SCALARS[span.type].unpack_from(self._map, span.start)[0]
        if span.type == _STRING:
            return self._map[span.start + 8 : span.end].decode("utf-8", "replace")
        item = self._u32(span.start)
        if item in _SCALARS:
            scalar = _SCALARS[item]
            body = self._map[span.start + 12 : span.end]
            return [value for (value,) in scalar.iter_unpack(body)]
        return [value.decode("utf-8", "replace") for value in self.strings(key)]

    def _name(self, at: int) -> tuple[str, int]:
        size = self._u64(at)
        if size > _MAX_NAME:
            raise self._damaged(f"a name at byte {at} claims {size} bytes")
        end = self._inside(at + 8 + size)
        return self._map[at + 8 : end].decode("utf-8", "replace"), end

    def _u32(self, at: int) -> int:
        self._inside(at + 4)
        return int(_U32.unpack_from(self._map, at)[0])

    def _u64(self, at: int) -> int:
        self._inside(at + 8)
        return int(_U64.unpack_from(self._map, at)[0])

    def _inside(self, end: int) -> int:
        if end > len(self._map):
            raise self._short()
        return end

    def _short(self) -> ModelError:
        size = len(self._map)
        return self._damaged(f"its header runs past the end of the file ({size} bytes)")

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self.path}: damaged or incomplete GGUF: {what}; download it again")


def _dequantize(rows: NDArray[np.uint8], name: str, n_embd: int) -> NDArray[np.float32]:
    import numpy as np

    if name == "f32":
        return rows.view("<f4").astype(np.float32, copy=False)
    if name == "f16":
        return rows.view("<f2").astype(np.float32)
    if name == "bf16":
        return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)
    # Imported late: a plug can be checked against a float model without llama.cpp.
    from ppedge.llm.binding import ggml

    return ggml.dequantize(rows, name, n_embd)


def _map_file(path: Path) -> mmap.mmap:
    try:
        if path.is_fifo():
            raise ModelError(f"{path}: is a pipe; give the .gguf file itself")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelError(f"{path}: is a directory; give the .gguf file itself") from None
    except ValueError:
        raise ModelError(f"{path}: not a GGUF file (it is empty)") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
