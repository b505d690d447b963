"""ppedge: a small language model on this machine writes like its owner, offline."""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from ppedge.version import __version__ as __version__

if TYPE_CHECKING:
    from ppedge.answer import Answer
    from ppedge.attention.pooling import pool
    from ppedge.blend import Blend
    from ppedge.errors import HistoryError, ModelError, PlugError, PpedgeError, StoreError
    from ppedge.explanation import Explanation
    from ppedge.llm.beam_search import Beam
    from ppedge.llm.llm import LLM
    from ppedge.llm.sampling import Sampling
    from ppedge.notes.reader import Note, read_notes
    from ppedge.personalizer import Personalizer
    from ppedge.plug.conditioning import Conditioning
    from ppedge.plug.plug import Plug
    from ppedge.store.persona import Persona
    from ppedge.store.scope import Scope

# Nothing leaves the machine. Official onnxruntime builds report to their maker since 1.29
# (microsoft/onnxruntime#27379), and only this, set before their import, stops all of it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__all__ = [
    "LLM",
    "Answer",
    "Beam",
    "Blend",
    "Conditioning",
    "Explanation",
    "HistoryError",
    "ModelError",
    "Note",
    "Persona",
    "Personalizer",
    "Plug",
    "PlugError",
    "PpedgeError",
    "Sampling",
    "Scope",
    "StoreError",
    "pool",
    "read_notes",
]

_MODULES = {
    "answer": ("Answer",),
    "attention.pooling": ("pool",),
    "blend": ("Blend",),
    "errors": ("HistoryError", "ModelError", "PlugError", "PpedgeError", "StoreError"),
    "explanation": ("Explanation",),
    "llm.beam_search": ("Beam",),
    "llm.llm": ("LLM",),
    "llm.sampling": ("Sampling",),
    "notes.reader": ("Note", "read_notes"),
    "personalizer": ("Personalizer",),
    "plug.conditioning": ("Conditioning",),
    "plug.plug": ("Plug",),
    "store.persona": ("Persona",),
    "store.scope": ("Scope",),
}
_HOME = {name: f"ppedge.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: a reader of notes needs no llama.cpp."""
    if name not in _HOME:
        raise AttributeError(f"module 'ppedge' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
