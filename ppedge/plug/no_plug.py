"""What stands in a plug's place for a model that has none: notes are kept, vectors are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.notes.reader import Note
from ppedge.store.rows import Space

NONE: Final = "none"
"""What a person writes in a plug's place to have none."""

_NOBODY: Final = "0" * 64


class NoPlug:
    """Encodes every note to nothing, so that a store of notes works as it does with a plug.

    Attributes:
        name: "none".
        manifest: None.
        space: one zero wide, key and value.
    """

    name = NONE
    manifest = None
    space = Space(
        d_key=1,
        d_value=1,
        encoder_sha256=_NOBODY,
        plug_sha256=_NOBODY,
        null_key=np.zeros(1, np.float16),
        null_value=np.zeros(1, np.float16),
    )

    def encode_notes(
        self, notes: Sequence[Note]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield a zero for each note, in order: key float32 [1], value float32 [1]."""
        nothing = np.zeros(1, np.float32)
        for _ in notes:
            yield nothing, nothing
