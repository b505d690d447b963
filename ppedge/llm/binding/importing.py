"""Imports llama-cpp-python's ctypes binding, which is all of it that ppedge calls."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from typing import Any, Final

from ppedge.errors import ModelError

_PACKAGE: Final = "llama_cpp"
_BINDING: Final = f"{_PACKAGE}.llama_cpp"
_VERSION: Final = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)


def binding() -> Any:
    """Import llama_cpp's ctypes binding, with OpenMP told to be polite.

    ggml's threads meet at a thousand barriers a token. GNU OpenMP spins there for milliseconds,
    and on a machine with other work that spinning holds the core which the awaited thread needs
    (docs/training.md). It reads its settings once, when it is loaded; a setting of the user's own
    stays.

    Raises:
        ModelError: it cannot be imported.
    """
    polite = not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    if polite:
        os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        return importlib.import_module(_BINDING)
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"llama-cpp-python cannot be imported ({error}); pip install llama-cpp-python"
        ) from error
    finally:
        if polite:
            del os.environ["GOMP_SPINCOUNT"]


def binding_alone() -> None:
    """Do as `binding`, without what the package itself imports; for a process that is ppedge's own.

    That is a chat format for each of many models, jinja2 and a cache, and a third of all imports'
    time. `binding` finds it done; ``import llama_cpp`` brings the rest, as ever. Another thread
    must not import it meanwhile: it would find an empty package.

    Raises:
        ModelError: as `binding`.
    """
    spec = None if _PACKAGE in sys.modules else find_spec(_PACKAGE)
    if spec and _version_in(spec):
        with _not_executed(spec):
            binding()


@cache
def version() -> str:
    """llama-cpp-python's version; of a package that is not imported, what its source says."""
    spec = None if _PACKAGE in sys.modules else find_spec(_PACKAGE)
    return (spec and _version_in(spec)) or str(importlib.import_module(_PACKAGE).__version__)


def _version_in(spec: ModuleSpec) -> str | None:
    """The version that a package's source names; None of one that has no source, or names none."""
    read = getattr(spec.loader, "get_source", None)
    found = _VERSION.search((read and read(spec.name)) or "")
    return found[1] if found else None


@contextmanager
def _not_executed(spec: ModuleSpec) -> Iterator[None]:
    """Have modules of a package imported as if the package were, and forget it at the end."""
    sys.modules[spec.name] = module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[spec.name]
