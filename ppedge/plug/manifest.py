"""`plug.json`: what a plug says of itself, read as hostile input."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from ppedge.errors import ModelError, PlugError
from ppedge.llm.fingerprint import Fingerprint
from ppedge.llm.ngram_cache import Gate, NgramCacheConfig
from ppedge.plug.manifest_fields import Fields, load_json
from ppedge.plug.template import Part, list_parts

SCHEMA = 1
MANIFEST_NAME = "plug.json"
MAX_FILE_BYTES = 1 << 30
# A plain name: no folder, no drive, nothing hidden, nothing that leads out of the plug.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_WIDTH = 1 << 16
_MAX_SOFT = 1024
_NOTE_FIELDS = ("input", "output", "both")
MAX_GOLDEN_TEXTS = 16
MAX_GOLDEN_CHARS = 2000
MAX_NGRAM_NOTES = 4096
MAX_GATES = 8
MAX_GATE = 100.0
GATE_TERMS = tuple(field.name for field in dataclasses.fields(Gate))


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the plug: its size in bytes and its SHA-256 (hex)."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """The note and prompt encoder.

    Attributes:
        file: ONNX; int64 ``ids`` [1, L] (and int64 ``bytes`` [1, B], if ``max_bytes``) ->
            float32 ``key`` [d_key], ``value`` [d_value], ``query`` [d_key].
        tokenizer: a tokenizer.json.
        max_tokens: texts are cut to this many tokens, the special ones included.
        max_bytes: length that the UTF-8 bytes of a text are cut to; 0: the graph takes none.
        d_key: width of keys and queries.
        d_value: width of values.
        key_fields: note fields for the key, the first that is not empty ("input", "output", or
            "both": input and output joined by a newline, whichever is not empty).
        value_fields: likewise for the value.
        query_file: ONNX; int64 ``ids`` [1, L] -> float32 ``query`` [d_key]. None: ``file`` gives
            the query too.
    """

    file: str
    tokenizer: str
    max_tokens: int
    max_bytes: int
    d_key: int
    d_value: int
    key_fields: tuple[str, ...]
    value_fields: tuple[str, ...]
    query_file: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectorSpec:
    """The projector: ONNX, float32 ``pooled`` [d_value] -> ``soft`` [n_soft, n_embd].

    With ``n_control``, it also gives a ``control`` vector, float32 [n_control, n_embd].

    Attributes:
        file: the graph.
        n_soft: number of soft tokens.
        n_instruction: how many of them, the first ones, are the instruction's and so the same
            for everybody; fewer than ``n_soft``.
        n_control: layers that the control vector is added to, all of the model's but the first;
            0: there is none.
    """

    file: str
    n_soft: int
    n_instruction: int = 0
    n_control: int = 0


@dataclass(frozen=True, slots=True)
class KeptSpec:
    """The graph of kept soft tokens: ONNX, float32 ``pooled`` [d_value] -> ``soft`` [n, n_embd].

    They stand behind a person's turns and before the prompt, and what the model makes of them is
    kept with the turns. What they are made from is pooled for what the turns ask.

    Attributes:
        file: the graph.
        n_soft: number of kept soft tokens.
    """

    file: str
    n_soft: int


@dataclass(frozen=True, slots=True)
class GoldenSpec:
    """What the graphs gave where the plug was made, for `ppedge doctor` to compute again.

    Attributes:
        file: float32 LE; for each text its key [d_key], value [d_value] and query [d_key], then
            the soft tokens [n_soft, n_embd], the control vector [n_control, n_embd] if there is
            one, and the kept soft tokens [n, n_embd] if there are any, that are made of that value.
        texts: 1 to 16 texts of at most 2,000 characters.
    """

    file: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything in `plug.json`.

    Attributes:
        name: what the plug is called.
        licence: SPDX expression of the plug's files.
        files: every file of the plug but the manifest.
        llm: fingerprint of the language model that it was trained for.
        llm_name: what that model is called, for messages.
        encoder: the note and prompt encoder.
        null_note: file with the null note: float32 LE key [d_key], then value [d_value].
        attention_scale: factor of the scores q . k before the softmax.
        projector: pooled value to soft tokens.
        template: the prompt template.
        about: training data, command, scores; free-form JSON, for people.
        null_note_competes: whether the null note is attended to beside the notes; False: it
            stands in for a history in which every note is muted, and only there.
        recency: 0 or more; a note's score falls by this times log(1 + number of notes after it).
        golden: golden vectors, or None.
        ngram_cache: how notes' wording is remembered beside the soft tokens; None: not at all.
        kept: soft tokens that are kept with a person's turns; None: the plug has none.
    """

    name: str
    licence: str
    files: dict[str, FileEntry]
    llm: Fingerprint
    llm_name: str
    encoder: EncoderSpec
    null_note: str
    attention_scale: float
    projector: ProjectorSpec
    template: tuple[Part, ...]
    about: dict[str, Any]
    null_note_competes: bool = True
    recency: float = 0.0
    golden: GoldenSpec | None = None
    ngram_cache: NgramCacheConfig | None = None
    kept: KeptSpec | None = None


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read and check a manifest.

    Args:
        data: the bytes of `plug.json`.
        where: named in every error.

    Raises:
        PlugError: it is too large, not JSON, of another schema, or a field is missing or wrong.
    """
    top = Fields(load_json(data, where), where)
    schema = top.get("schema", int)
    if schema != SCHEMA:
        raise PlugError(
            f"{where}: schema {schema}, but this ppedge reads schema {SCHEMA}; "
            "install the ppedge that the plug was made for"
        )
    files = {name: _file_entry(top.inside("files"), name) for name in top.inside("files").raw}
    llm = top.inside("llm")
    return Manifest(
        name=top.text("name"),
        licence=top.text("licence"),
        files=files,
        llm=_fingerprint(llm.inside("fingerprint")),
        llm_name=llm.text("name"),
        encoder=_encoder_spec(top.inside("encoder"), files),
        null_note=top.file("null_note", files),
        attention_scale=top.number("attention_scale", above_0=True),
        projector=_projector_spec(top.inside("projector"), files),
        template=_template(top.get("template", list), where),
        about=top.inside("about").raw,
        null_note_competes=top.get("null_note_competes", bool, True),
        recency=top.number("recency", above_0=False, default=0.0),
        golden=_golden_spec(top.inside("golden"), files) if "golden" in top.raw else None,
        ngram_cache=_ngram_cache(top.inside("literal")) if "literal" in top.raw else None,
        kept=_kept_spec(top.inside("kept"), files) if "kept" in top.raw else None,
    )


def _file_entry(files: Fields, name: str) -> FileEntry:
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
        raise PlugError(f"{files.where}: {name[:60]!r} is not a plain file name")
    entry = files.inside(name)
    return FileEntry(entry.count("bytes", 0, MAX_FILE_BYTES), entry.sha256("sha256"))


def _fingerprint(fields: Fields) -> Fingerprint:
    # Their values come back in messages, and n_embd sizes what the projector may return.
    fields.text("architecture")
    fields.count("n_embd", 1, _MAX_WIDTH)
    fields.count("n_vocab", 1, 1 << 31)
    fields.sha256("tokenizer_sha256")
    fields.sha256("embedding_sha256")
    try:
        return Fingerprint.from_json(fields.raw)
    except ModelError as error:
        raise PlugError(f"{fields.where}: {error}") from None


def _encoder_spec(encoder: Fields, files: dict[str, FileEntry]) -> EncoderSpec:
    def note_fields(name: str) -> tuple[str, ...]:
        value = encoder.get(name, list)
        if not value or any(field not in _NOTE_FIELDS for field in value):
            raise encoder.wrong(name, f"a list of {' or '.join(_NOTE_FIELDS)}")
        return tuple(value)

    file = encoder.file("file", files)
    query_file = encoder.file("query_file", files) if "query_file" in encoder.raw else file
    return EncoderSpec(
        file=file,
        tokenizer=encoder.file("tokenizer", files),
        max_tokens=encoder.count("max_tokens", 3, 8192),
        max_bytes=encoder.count("max_bytes", 0, 1 << 16),
        d_key=encoder.count("d_key", 1, _MAX_WIDTH),
        d_value=encoder.count("d_value", 1, _MAX_WIDTH),
        key_fields=note_fields("key_fields"),
        value_fields=note_fields("value_fields"),
        query_file=None if query_file == file else query_file,
    )


def _projector_spec(projector: Fields, files: dict[str, FileEntry]) -> ProjectorSpec:
    n_soft = projector.count("n_soft", 1, _MAX_SOFT)
    return ProjectorSpec(
        file=projector.file("file", files),
        n_soft=n_soft,
        n_instruction=projector.count("n_instruction", 0, n_soft - 1, 0),
        n_control=projector.count("n_control", 0, 1024, 0),
    )


def _kept_spec(kept: Fields, files: dict[str, FileEntry]) -> KeptSpec:
    return KeptSpec(kept.file("file", files), kept.count("n_soft", 1, _MAX_SOFT))


def _golden_spec(golden: Fields, files: dict[str, FileEntry]) -> GoldenSpec:
    texts = golden.get("texts", list)
    if not 1 <= len(texts) <= MAX_GOLDEN_TEXTS or not all(
        isinstance(text, str) and len(text) <= MAX_GOLDEN_CHARS for text in texts
    ):
        raise golden.wrong(
            "texts", f"1 to {MAX_GOLDEN_TEXTS} texts of at most {MAX_GOLDEN_CHARS} characters"
        )
    return GoldenSpec(golden.file("file", files), tuple(texts))


def _ngram_cache(literal: Fields) -> NgramCacheConfig:
    gates = literal.get("gates", list)
    if not 1 <= len(gates) <= MAX_GATES:
        raise literal.wrong("gates", f"a list of 1 to {MAX_GATES} gates")
    return NgramCacheConfig(
        max_notes=literal.count("max_notes", 1, MAX_NGRAM_NOTES),
        gates=tuple(
            _gate(Fields(gate, f"{literal.where}: gates[{order}]"))
            for order, gate in enumerate(gates)
        ),
    )


def _gate(gate: Fields) -> Gate:
    return Gate(*(gate.signed(name, MAX_GATE) for name in GATE_TERMS))


def _template(parts: list[Any], where: str) -> tuple[Part, ...]:
    template: list[Part] = []
    for number, part in enumerate(parts):
        fields = Fields(part, f"{where}: template[{number}]")
        if set(fields.raw) == {"text"}:
            template.append(Part(text=fields.get("text", str)))
        elif set(fields.raw) == {"slot"} and fields.raw["slot"] in ("prompt", "soft"):
            template.append(Part(slot=fields.raw["slot"]))
        else:
            raise PlugError(
                f'{fields.where}: must be {{"text": ...}}, {{"slot": "prompt"}} or '
                '{"slot": "soft"}'
            )
    slots = [part.slot for part in template if part.slot]
    if sorted(slots) != ["prompt", "soft"]:
        raise PlugError(f"{where}: template must hold the slots prompt and soft once each")
    return tuple(template)


def manifest_json(manifest: Manifest) -> str:
    """Write a manifest as `parse_manifest` reads it."""
    told = _told(manifest)
    parts = {"kept": manifest.kept, "golden": manifest.golden}
    optional = {name: _told(part) for name, part in parts.items() if part}
    literal = {"literal": dataclasses.asdict(manifest.ngram_cache)} if manifest.ngram_cache else {}
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "name": manifest.name,
        "licence": manifest.licence,
        "llm": {"name": manifest.llm_name, "fingerprint": manifest.llm.to_json()},
        "encoder": _told(manifest.encoder),
        "null_note": manifest.null_note,
        "attention_scale": manifest.attention_scale,
        **{name: told[name] for name in ("null_note_competes", "recency") if name in told},
        "projector": _told(manifest.projector),
        "template": list_parts(manifest.template),
        **literal,
        **optional,
        "about": manifest.about,
        "files": {
            name: {"bytes": entry.bytes, "sha256": entry.sha256}
            for name, entry in sorted(manifest.files.items())
        },
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _told(part: Manifest | EncoderSpec | ProjectorSpec | KeptSpec | GoldenSpec) -> dict[str, Any]:
    """The fields of ``part`` that are not as they are by default."""
    return {
        field.name: value
        for field in dataclasses.fields(part)
        if (value := getattr(part, field.name)) != field.default
    }
