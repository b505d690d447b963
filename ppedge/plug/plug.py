"""A plug: a folder or .zip of graphs and a manifest, verified before anything in it is opened."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import PlugError
from ppedge.llm.fingerprint import Fingerprint
from ppedge.llm.segments import Soft
from ppedge.notes.reader import Note
from ppedge.plug.encoder import TextEncoder
from ppedge.plug.golden import Vectors, difference, unpack_golden
from ppedge.plug.graph import Graph, return_free_memory
from ppedge.plug.manifest import (
    MANIFEST_NAME,
    MAX_FILE_BYTES,
    Manifest,
    parse_manifest,
)
from ppedge.plug.manifest_fields import MAX_MANIFEST_BYTES
from ppedge.plug.quantised import is_requantised
from ppedge.store.rows import Space


class PlugFiles:
    """The files of a plug, in a folder or a .zip of it, read with bounds."""

    def __init__(self, path: Path) -> None:
        """Look at ``path``; nothing is read yet.

        Raises:
            PlugError: there is no folder or .zip there.
        """
        self.path = path
        try:
            self._is_folder = path.is_dir()
            if not self._is_folder and not path.exists():
                raise PlugError(f"{path}: no such plug (give a folder or a .zip)")
            # Only a regular file is looked into: a pipe would never answer.
            if not self._is_folder and not (path.is_file() and zipfile.is_zipfile(path)):
                raise PlugError(f"{path}: neither a folder nor a .zip")
        except OSError as error:
            raise PlugError(f"{path}: {error.strerror}; give a folder or a .zip") from None

    def read(self, name: str, limit: int) -> bytes:
        """Return the bytes of one file of at most ``limit`` bytes.

        Raises:
            PlugError: it is missing, too large, or unreadable.
        """
        try:
            data = (self._from_folder if self._is_folder else self._from_zip)(name, limit + 1)
        except PlugError:
            raise
        except Exception as error:  # of zipfile, zlib, lzma and the disk: a dozen kinds
            raise PlugError(f"{self.path}: cannot read {name}: {error}") from None
        if len(data) > limit:
            raise PlugError(f"{self.path}: {name} is larger than {limit} bytes")
        return data

    def _from_folder(self, name: str, limit: int) -> bytes:
        file = self.path / name
        if file.resolve().parent != self.path.resolve():
            raise PlugError(f"{self.path}: {name} is a link that leads out of the plug")
        if not file.is_file():
            raise PlugError(f"{self.path}: {name} is missing")
        with file.open("rb") as stream:
            return stream.read(limit)

    def _from_zip(self, name: str, limit: int) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            # A zip of a folder holds the files one folder down.
            found = {n for n in archive.namelist() if n == name or n.split("/")[1:] == [name]}
            if not found:
                raise PlugError(f"{self.path}: {name} is missing")
            if len(found) > 1:
                raise PlugError(f"{self.path}: holds {name} more than once; zip one plug alone")
            with archive.open(found.pop()) as stream:
                return stream.read(limit)


@dataclass(frozen=True, slots=True)
class _Graphs:
    """What a plug computes with."""

    encoder: TextEncoder
    projector: Graph
    kept: Graph | None
    golden: dict[str, NDArray[np.float32]] | None


class Plug:
    """An open plug: encodes notes and prompts, and projects pooled values to soft tokens.

    Attributes:
        path: where it was opened from.
        manifest: what it says of itself.
        sha256: hex; identifies the plug, over its manifest, which holds the hash of every file.
        space: what a persona store needs to know of it.
    """

    def __init__(
        self, path: str | Path, *, n_threads: int | None = None, late: bool = False
    ) -> None:
        """Open and verify a plug.

        Args:
            path: a folder, or a .zip of it.
            n_threads: how many notes are encoded at once; None takes what this process may use,
                half of it above four.
            late: of a plug with kept soft tokens, which may have nothing to compute, read the
                graphs when they are first used; what is wrong with them is said then.

        Raises:
            PlugError: a file is missing, damaged or unsafe, or not what the manifest says.
        """
        self.path = Path(path)
        self._files = files = PlugFiles(self.path)
        data = files.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.manifest: Manifest = parse_manifest(data, f"{self.path}: {MANIFEST_NAME}")
        self._n_threads = n_threads
        spec = self.manifest.encoder
        self.name = self.manifest.name
        null_key, null_value = self._null_note(self._verified(self.manifest.null_note))
        self._opened: _Graphs | None = None
        self._opening = threading.Lock()
        if not (late and self.manifest.kept):
            self._graphs()
        self.space = Space(
            d_key=spec.d_key,
            d_value=spec.d_value,
            encoder_sha256=self.manifest.files[spec.file].sha256,
            plug_sha256=_meaning(self.manifest),
            null_key=null_key,
            null_value=null_value,
            formerly=self.sha256,
        )

    def encode_notes(
        self, notes: Sequence[Note]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield (key float32 [d_key], value float32 [d_value]) for each note, in order.

        A note's bits do not depend on the notes beside it, nor on the number of threads.
        """
        return self._graphs().encoder.notes(notes)

    def encode_prompt(self, prompt: str) -> NDArray[np.float32]:
        """Encode a prompt to the query float32 [d_key]."""
        return self._graphs().encoder.query(prompt)

    def project(self, pooled: NDArray[np.float32]) -> Soft:
        """Project a pooled value float32 [d_value] to what the model is given.

        Returns:
            Soft tokens float32 [n_soft, n_embd], with a control vector float32 [n_control, n_embd]
            where the plug has one.

        Raises:
            PlugError: the graph fails or its output is not what the manifest says.
        """
        n_embd, spec = self.manifest.llm.n_embd, self.manifest.projector
        shapes = {"soft": (spec.n_soft, n_embd)}
        if spec.n_control:
            shapes["control"] = (spec.n_control, n_embd)
        return Soft(*self._graphs().projector.run({"pooled": pooled}, shapes))

    def project_kept(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project a pooled value float32 [d_value] to what is kept with a person's turns.

        Returns:
            Soft tokens, float32 [manifest.kept.n_soft, n_embd].

        Raises:
            PlugError: the graph fails or its output is not what the manifest says, or the plug has
                no kept soft tokens.
        """
        spec, graph = self.manifest.kept, self._graphs().kept
        if spec is None or graph is None:
            raise PlugError(f"{self.path}: this plug has no kept soft tokens")
        [soft] = graph.run({"pooled": pooled}, {"soft": (spec.n_soft, self.manifest.llm.n_embd)})
        return soft

    def vectors(self, text: str) -> Vectors:
        """All that the graphs make of one text, itself taken for key, value and query.

        Returns:
            Key float32 [d_key], value float32 [d_value], query float32 [d_key], and projected
            from that value the soft tokens float32 [n_soft, n_embd], the control vector float32
            [n_control, n_embd] where the plug has one, and the kept soft tokens where it has some.

        Raises:
            PlugError: a graph fails, or its output is not what the manifest says.
        """
        encoder = self._graphs().encoder
        key, value = encoder.key_and_value(text)
        said = self.project(value)
        steering = () if said.control is None else (said.control,)
        kept = (self.project_kept(value),) if self.manifest.kept else ()
        return key, value, encoder.query(text), said.vectors, *steering, *kept

    def golden_vectors(self) -> dict[str, NDArray[np.float32]] | None:
        """What the graphs gave where the plug was made, by name; None if it does not say.

        Returns:
            Float32 [n_texts, *shape] each, in the order of `vectors`; of ``manifest.golden.texts``.

        Raises:
            PlugError: a file is damaged, or a graph cannot be loaded.
        """
        return self._graphs().golden

    def golden_differences(self) -> dict[str, float] | None:
        """Compute the golden vectors again; see `ppedge.plug.golden.TOLERANCE`.

        Returns:
            For each of `vectors`, by name, the largest difference as a share of the largest golden
            number. None if the plug holds no golden vectors.

        Raises:
            PlugError: as `vectors`.
        """
        vectors = self.golden_vectors()
        if self.manifest.golden is None or vectors is None:
            return None
        here = zip(*map(self.vectors, self.manifest.golden.texts), strict=True)
        return {
            name: difference(golden, np.stack(arrays))
            for (name, golden), arrays in zip(vectors.items(), here, strict=True)
        }

    def check_model(
        self, found: Fingerprint, model: str | Path, rows: NDArray[np.float32] | None = None
    ) -> None:
        """Refuse a language model that this plug was not trained for.

        Args:
            found: of the model.
            model: its file.
            rows: ``ppedge.llm.fingerprint.sampled_rows`` of it, by which another quantisation of
                the right model is known; None takes the very same rows only.

        Raises:
            PlugError: naming both sides.
        """
        wanted = self.manifest.llm
        differences = wanted.mismatches(found)
        if differences and rows is not None:
            rounded = replace(found, embedding_sha256=wanted.embedding_sha256)
            same = is_requantised(wanted.embedding_sha256, rows)
            differences = wanted.mismatches(rounded) if same else differences
        if differences:
            raise PlugError(
                f"plug {self.manifest.name} was made for {self.manifest.llm_name}, and {model} is "
                f"another model ({'; '.join(differences)}); give the right one with --model, or a "
                "plug made for this model with --plug"
            )

    def _graphs(self) -> _Graphs:
        """What the plug computes with, opened once; errors are those of opening the plug."""
        with self._opening:
            if self._opened is None:
                self._opened = self._open_graphs()
            return self._opened

    def _open_graphs(self) -> _Graphs:
        manifest = self.manifest
        spec, projector, kept = manifest.encoder, manifest.projector, manifest.kept
        unread = set(self.manifest.files)

        def verified(name: str) -> bytes:
            unread.discard(name)
            return self._verified(name)

        def projecting(name: str, gives: Sequence[str]) -> Graph:
            return Graph(verified(name), f"{self.path}: {name}", ["pooled"], gives)

        encoder = TextEncoder(verified, spec, str(self.path), self._n_threads)
        gives = ["soft", "control"] if projector.n_control else ["soft"]
        golden = None
        if self.manifest.golden:
            name = self.manifest.golden.file
            golden = unpack_golden(verified(name), self.manifest, f"{self.path}: {name}")
        graphs = _Graphs(
            encoder,
            projecting(projector.file, gives),
            projecting(kept.file, ["soft"]) if kept else None,
            golden,
        )
        for name in sorted(unread):
            self._verified(name)
        return_free_memory()
        return graphs

    def _verified(self, name: str) -> bytes:
        entry = self.manifest.files[name]
        data = self._files.read(name, min(entry.bytes, MAX_FILE_BYTES))
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise PlugError(
                f"{self.path}: {name} is not the file that {MANIFEST_NAME} describes "
                "(damaged or changed); get the plug anew"
            )
        return data

    def _null_note(self, data: bytes) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        spec = self.manifest.encoder
        if len(data) != 4 * (spec.d_key + spec.d_value):
            raise PlugError(
                f"{self.path}: {self.manifest.null_note} has {len(data)} bytes, not "
                f"4 x ({spec.d_key} + {spec.d_value})"
            )
        with np.errstate(over="ignore"):
            half = np.frombuffer(data, "<f4").astype(np.float16)
        if not np.isfinite(half).all():
            raise PlugError(f"{self.path}: {self.manifest.null_note} does not fit float16")
        return half[: spec.d_key], half[spec.d_key :]


def _meaning(manifest: Manifest) -> str:
    """SHA-256 (hex) of all that keys and values hang on; not of names, scores, gates or prompts."""
    spec = manifest.encoder
    names = (spec.file, spec.tokenizer, manifest.null_note)
    files = [manifest.files[name].sha256 for name in names]
    cuts = (spec.max_tokens, spec.max_bytes, spec.d_key, spec.d_value)
    told = json.dumps([files, cuts, spec.key_fields, spec.value_fields])
    return hashlib.sha256(told.encode()).hexdigest()
