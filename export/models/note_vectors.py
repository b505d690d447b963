"""A history as a store holds it, in memory: the vectors of notes, encoded once a text."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppedge.attention.bias import with_plug
from ppedge.attention.pooling import pool
from ppedge.notes.reader import Note
from ppedge.plug.plug import Plug
from ppedge.plug.template import note_text


@dataclass(frozen=True, eq=False)
class Rows:
    """A history as a store holds it, the null note in row 0.

    Attributes:
        keys: float16 [n + 1, d_key].
        values: float16 [n + 1, d_value].
    """

    keys: NDArray[np.float16]
    values: NDArray[np.float16]


class NoteVectors:
    """The vectors of notes by their text, encoded once and kept while there is room.

    Args:
        plug: what encodes them.
        keep: how many key texts, and how many value texts, are kept; the longest unused go.
    """

    def __init__(self, plug: Plug, keep: int = 20_000) -> None:
        self._plug = plug
        self._keep = keep
        self._keys: OrderedDict[bytes, NDArray[np.float16]] = OrderedDict()
        self._values: OrderedDict[bytes, NDArray[np.float16]] = OrderedDict()

    def rows(self, notes: Sequence[Note]) -> Rows:
        """The rows of a history, in its order.

        Raises:
            PlugError: the plug's graph fails.
        """
        spec, space = self._plug.manifest.encoder, self._plug.space
        key_names = [_name(note_text(note, spec.key_fields)) for note in notes]
        value_names = [_name(note_text(note, spec.value_fields)) for note in notes]
        # By text, not by note: a shuffled history's notes are new, its texts are not.
        missing = {
            (key_name, value_name): note
            for key_name, value_name, note in zip(key_names, value_names, notes, strict=True)
            if key_name not in self._keys or value_name not in self._values
        }
        encoded = self._plug.encode_notes(list(missing.values()))
        for (key_name, value_name), (key, value) in zip(missing, encoded, strict=True):
            self._keys[key_name] = key.astype(np.float16)
            self._values[value_name] = value.astype(np.float16)
        keys = [_used(self._keys, name) for name in key_names]
        values = [_used(self._values, name) for name in value_names]
        for kept in (self._keys, self._values):
            while len(kept) > self._keep:
                kept.popitem(last=False)
        return Rows(np.stack([space.null_key, *keys]), np.stack([space.null_value, *values]))

    def pooled(
        self, notes: Sequence[Note], queries: Sequence[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """A history pooled for each of some queries float32 [d_key], as a store does it.

        Returns:
            Values float32 [d_value].
        """
        rows, manifest = self.rows(notes), self._plug.manifest
        bias = with_plug(
            None,
            len(notes),
            recency=manifest.recency,
            null_competes=manifest.null_note_competes,
        )
        scale = manifest.attention_scale
        return [pool(q, rows.keys, rows.values, scale=scale, bias=bias).value for q in queries]


def _name(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _used(kept: OrderedDict[bytes, NDArray[np.float16]], name: bytes) -> NDArray[np.float16]:
    kept.move_to_end(name)
    return kept[name]
