"""Golden vectors of a plug: what ``ppedge doctor`` computes again on a user's machine.

    python -m export.package.golden_vectors PLUG_DIR

``export.onnx`` stores what *torch* made of ``TEXTS``. This command is for a plug whose torch
checkpoint is lost: it stores what onnxruntime makes of them here and now, so doctor will find a
machine that differs from this one, but not a mistake that was made in the export.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

from export.tools.commands import one_line_errors, replacing
from ppedge.plug.golden import Vectors, pack_golden
from ppedge.plug.manifest import MANIFEST_NAME, FileEntry, GoldenSpec, Manifest, manifest_json
from ppedge.plug.plug import Plug

FILE = "golden.f32"
# Short, long (cut, in tokens and in bytes), cased, emoji, another script: what a graph traced on
# one text might get wrong, or another version of the tokenizer.
TEXTS = (
    "Fix a leak",
    "lib: refuse an empty name, since the caller would only trip over it later on. " * 8,
    "Happy birthday, Ann! \N{PARTY POPPER} #party",
    "A",
    "the rain kept on. so did we -- wet socks and all.",
    "Crème brûlée at 7? ПОЗЖЕ; 雨が降る",
)


def file_entry(path: Path) -> FileEntry:
    """What a manifest says of a file."""
    data = path.read_bytes()
    return FileEntry(len(data), hashlib.sha256(data).hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a plug's folder, whole or not at all."""
    with replacing(folder / MANIFEST_NAME) as file:
        file.write(manifest_json(manifest))


def write_golden(folder: Path, manifest: Manifest, vectors: list[Vectors]) -> Manifest:
    """Write the golden file of a plug's folder, and its manifest with it.

    Args:
        folder: the plug's.
        manifest: what the folder holds but for the golden file.
        vectors: of each of ``TEXTS``.

    Returns:
        The manifest as written.
    """
    (folder / FILE).write_bytes(pack_golden(vectors))
    manifest = replace(
        manifest,
        golden=GoldenSpec(FILE, TEXTS),
        files={**manifest.files, FILE: file_entry(folder / FILE)},
    )
    write_manifest(folder, manifest)
    return manifest


def add_golden(folder: Path) -> None:
    """Give the plug in ``folder`` the golden vectors that onnxruntime computes on this machine.

    Raises:
        ValueError, PpedgeError: it is no folder of a sound plug.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a plug's folder; unpack a .zip first")
    plug = Plug(folder)
    write_golden(folder, plug.manifest, [plug.vectors(text) for text in TEXTS])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="PLUG_DIR")
    folder = parser.parse_args().folder
    with one_line_errors("export.package.golden_vectors"):
        add_golden(folder)


if __name__ == "__main__":
    main()
