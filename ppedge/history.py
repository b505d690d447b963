"""Notes, and the readers that turn files into notes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """One item of a person's history.

    Attributes:
        output: what the person wrote; never empty.
        input: what it answered or was written from ("" when there was nothing).
        id: the caller's id; "" means that the note is known by its content hash.
        time: when it was written, Unix seconds (UTC), or None.
    """

    output: str
    input: str = ""
    id: str = ""
    time: float | None = None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the encoder sees: ``input`` and ``output``."""
        framed = f"{len(self.input)}:{self.input}{self.output}"
        return hashlib.sha256(framed.encode("utf-8", "surrogatepass")).hexdigest()
