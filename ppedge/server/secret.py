"""The token that a client must show: made at the first start, and kept for its owner alone."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Final

from ppedge.errors import StoreError
from ppedge.store.files import FILE_MODE, disk_errors, make_private_directory

FILE_NAME: Final = "server.token"
_FORM: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
WANTED: Final = "16 to 512 letters, digits or any of . _ ~ + / = -"


def is_token(text: str) -> bool:
    """Whether a text can be a token, of a form that needs no quoting in a header or an address."""
    return _FORM.fullmatch(text) is not None


def kept_token(home: Path) -> str:
    """The token kept in a folder, made if there is none.

    Args:
        home: ppedge's data folder.

    Raises:
        StoreError: it cannot be read or written, or what is there is no token.
    """
    path = home / FILE_NAME
    with disk_errors(path):
        make_private_directory(home)
        _make(path)
        path.chmod(FILE_MODE)
        text = path.read_bytes()[:1000].decode("ascii", "replace").strip()
    if not is_token(text):
        raise StoreError(f"{path}: holds no token ({WANTED}); remove it, and a new one is made")
    return text


def _make(path: Path) -> None:
    """Write a new token, unless one is there; whole or not at all, also if two servers start."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(file, "w", encoding="ascii") as out:
            out.write(secrets.token_urlsafe(32) + "\n")
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            pass  # Another server was quicker, and has read its own by now.
        except OSError:
            draft.replace(path)  # A file system without links.
    finally:
        draft.unlink(missing_ok=True)


def is_same(given: bytes, token: str) -> bool:
    """Compare in a time that says nothing about how much of it was right."""
    return hmac.compare_digest(given, token.encode("ascii"))
