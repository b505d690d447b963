"""`ppedge doctor`: what was found, what is missing, and the exact command that fixes it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ppedge.attention.pooling import backend
from ppedge.defaults import (
    MODEL_COMMAND,
    PIP_INSTALL,
    data_home,
    find_model,
    is_plug_named,
    open_plug,
)
from ppedge.errors import PlugError, PpedgeError

if TYPE_CHECKING:
    from ppedge.plug.plug import Plug

# Plug and LLM are imported late: they need the packages that are looked for here.

_NAME_THEM = "ppedge doctor --model PATH.gguf --plug PATH"
_REINSTALL = f"{PIP_INSTALL} --force-reinstall --no-deps ppedge"
_NEW_ONNXRUNTIME = f"{PIP_INSTALL} --force-reinstall --no-deps onnxruntime"
_RUNTIME_PACKAGES = ("llama-cpp-python", "onnxruntime", "numpy", "tokenizers", "click")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        ok: whether it is as it should be.
        detail: what was found.
        fix: the command or step that fixes it; "" where nothing is wrong.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


def diagnose(model: str | None = None, plug: str | None = None) -> list[Check]:
    """Look at everything that a personalised answer needs; changes nothing."""
    checks = [
        Check("python", True, f"{platform.python_version()} on {platform.platform()}"),
        *(_package(name) for name in _RUNTIME_PACKAGES),
        _guard("kernel", lambda: f"history pooling runs on {backend()}", "unset PPEDGE_SIMD"),
    ]
    opened: list[Plug] = []

    def look_at_plug() -> str:
        found = open_plug(plug)
        if found.manifest is None:
            return "none, as asked: answers come from notes as earlier turns and their wording"
        opened.append(found)
        return f"{found.name} at {found.path}, every file as its manifest says"

    named = is_plug_named(plug)
    checks.append(_guard("plug", look_at_plug, _NAME_THEM if named else _REINSTALL))
    if opened:
        checks.append(_guard("vectors", lambda: _vectors(opened[0]), _NEW_ONNXRUNTIME))
    checks.append(_model(model, opened[0] if opened else None, named))
    checks.append(_data_folder())
    return checks


def _guard(name: str, look: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, True, look())
    except PpedgeError as error:
        return Check(name, False, str(error), fix)
    except ImportError as error:
        return _not_importable(name, error)


def _not_importable(name: str, error: ImportError) -> Check:
    return Check(name, False, f"cannot be looked at: {error}", "fix the packages above first")


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "not installed", f"{PIP_INSTALL} {name}")


def _vectors(plug: Plug) -> str:
    """Compute the plug's golden vectors again, and compare."""
    from ppedge.plug.golden import TOLERANCE

    differences = plug.golden_differences()
    if differences is None:
        return "the plug holds no golden vectors to compare with"
    name = max(differences, key=differences.__getitem__)
    found = f"{differences[name]:.1e} of the largest number ({name}; {TOLERANCE:.0e} is allowed)"
    if differences[name] > TOLERANCE:
        raise PlugError(
            f"the vectors computed here differ from those computed where the plug was made by "
            f"{found}: onnxruntime, or this processor, computes wrongly"
        )
    return f"computed as where the plug was made, largest difference {found}"


def _model(model: str | None, plug: Plug | None, named: bool) -> Check:
    try:
        path = find_model(model)
    except PpedgeError as error:
        return Check("model", False, str(error), MODEL_COMMAND)
    try:
        from ppedge.fitting import does_fit, ensure_fits
        from ppedge.llm.llm import LLM

        with LLM(path, n_ctx=64) as llm:
            rows = f"{llm.architecture}, {llm.n_embd} wide, {llm.n_vocab} tokens"
            fits = ""
            if plug is not None and not named and not does_fit(plug, llm):
                fits = "; the default plug is for another model, so there is none"
            elif plug is not None:
                ensure_fits(plug, llm)
                if n_control := plug.manifest.projector.n_control:
                    llm.ensure_steerable(n_control)
                fits = "; fits the plug"
            return Check("model", True, f"{llm.path} ({rows}){fits}")
    except PpedgeError as error:
        return Check("model", False, str(error), _NAME_THEM)
    except ImportError as error:
        return _not_importable("model", error)


def _data_folder() -> Check:
    fix = "export PPEDGE_HOME=FOLDER"
    try:
        folder = data_home()
    except PpedgeError as error:
        return Check("data", False, str(error), fix)
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Check("data", True, f"stores go to {folder}")
    return Check("data", False, f"{nearest} cannot be written", fix)
