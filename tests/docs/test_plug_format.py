"""The page on the format of plugs: it names every field, and quotes the messages as they are."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppedge.defaults import DEFAULT_PLUG, find_model
from ppedge.plug.manifest import Manifest, manifest_json, parse_manifest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plug-format.md").read_text(encoding="utf-8")
SHIPPED: dict[str, Any] = json.loads((DEFAULT_PLUG / "plug.json").read_text(encoding="utf-8"))
# A message of the page, in its table: what is written in capitals is filled in.
MESSAGE = re.compile(r"^\| [^|]+ \| (`{1,2})((?:PATH|WHERE|plug NAME|MODEL|STORE).*?)\1 \|$", re.M)
FILLED = re.compile(r"\(…\)|\b(?:[A-Z][A-Z_]*|[0-9]+|plug\.json)\b|'")
# Where messages about plugs come from.
SOURCES = ("plug", "llm/fingerprint.py", "llm/loaded.py", "llm/llm.py", "store/opening.py")


def keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inside in value.items():
            yield key
            yield from keys(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from keys(inside)


def every_key() -> set[str]:
    named = {**SHIPPED, "about": {}, "files": {"": next(iter(SHIPPED["files"].values()))}}
    return set(keys(named)) - {""}


@pytest.mark.parametrize("key", sorted(every_key()))
def test_every_field_of_the_shipped_plug_is_described(key: str) -> None:
    if key in ("text", "slot"):
        assert f'{{"{key}": ' in PAGE
    else:
        assert f"\n| `{key}` | " in PAGE


def test_every_field_that_a_manifest_can_have_is_described() -> None:
    manifest = parse_manifest(json.dumps(SHIPPED).encode(), "shipped")
    optional = {"null_note_competes", "recency", "query_file"}
    assert not optional & every_key()
    for key in optional:
        assert f"\n| `{key}` | " in PAGE
    # A field that is added to the code must be added to the shipped plug or to this list.
    renamed = {"llm_name": "name", "ngram_cache": "literal"}
    known = every_key() | optional
    fields: dict[str, type] = {name: type(value) for name, value in parts(manifest)}
    assert {renamed.get(name, name) for name in fields} <= known


def parts(manifest: Manifest) -> Iterator[tuple[str, object]]:
    specs = (manifest.encoder, manifest.projector, manifest.kept, manifest.golden)
    for part in (manifest, *specs, manifest.llm):
        for name in getattr(part, "__dataclass_fields__", {}):
            yield name, getattr(part, name)


def test_the_manifest_is_written_as_it_is_read() -> None:
    manifest = parse_manifest(json.dumps(SHIPPED).encode(), "shipped")
    assert json.loads(manifest_json(manifest)) == SHIPPED


def written_texts() -> str:
    """Every string of the code behind the page, what is filled in taken out."""
    texts = []
    for source in SOURCES:
        path = ROOT / "ppedge" / source
        for file in [path] if path.is_file() else sorted(path.glob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (getattr(part, "value", None) for part in node.values)
                    texts.append("".join(p if isinstance(p, str) else "\0" for p in parts))
    return "\n".join(texts)


def test_the_messages_are_quoted_as_the_code_has_them() -> None:
    found = [match[2] for match in MESSAGE.finditer(PAGE)]
    assert len(found) >= 30
    texts = written_texts()
    for message in found:
        fragments = [part.strip(" :") for part in FILLED.split(message)]
        told = [part for part in fragments if len(part) > 5]
        assert told, message
        for part in told:
            assert part in texts, f"{message!r} is not what the code says: {part!r}"


def test_the_command_for_a_fingerprint_is_right(tmp_path: Path) -> None:
    [command] = re.findall(r"^python -c .* MODEL\.gguf$", PAGE, re.M)
    words = shlex.split(command)
    run = subprocess.run(
        [sys.executable, *words[1:-1], str(find_model())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == SHIPPED["llm"]["fingerprint"]
