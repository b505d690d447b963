"""The rooms of both packages: imports go down, never round in a circle, and modules stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 400
# From the bottom up; a room imports from those before it and from itself.
PPEDGE = (
    ("errors", "version", "closable", "background", "processors"),
    ("notes", "attention"),
    ("store", "llm"),
    ("plug",),
    ("turns",),
    ("style",),
    ("defaults", "blend", "answer", "explanation"),
    ("fitting",),
    ("prompting",),
    ("personalizer",),
    ("server",),
    ("cli",),
    ("llm_plugin",),
)
EXPORT = (
    ("tools",),
    ("data",),
    ("models",),
    ("synthetic",),
    ("baselines",),
    ("training", "package"),
    ("evaluation",),
    ("experiments",),
)
MODULES = sorted(
    path for package in ("ppedge", "export") for path in (ROOT / package).rglob("*.py")
)


def module(path: Path) -> str:
    """ppedge/llm/llm.py -> ppedge.llm.llm"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, type imports and late ones too."""
    names = {module(each) for each in MODULES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found = inner if inner in names else node.module
                if found.split(".")[0] in ("ppedge", "export"):
                    yield found
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in ("ppedge", "export"))


def level(name: str, rooms: tuple[tuple[str, ...], ...]) -> int | None:
    """How far up a module stands; None for a package itself, or for a command of ``export``."""
    parts = name.split(".")
    return next((i for i, row in enumerate(rooms) if len(parts) > 1 and parts[1] in row), None)


@pytest.mark.parametrize("path", MODULES, ids=module)
def test_imports_go_down(path: Path) -> None:
    name = module(path)
    package = name.split(".")[0]
    rooms = PPEDGE if package == "ppedge" else EXPORT
    here = level(name, rooms)
    for found in imports(path):
        if package == "ppedge":
            assert found.split(".")[0] == "ppedge", f"{name} imports {found}"
        if here is None or found.split(".")[0] != package:
            continue
        there = level(found, rooms)
        if there is None:
            # `from ppedge import X` and `from export import X` reach up to the package.
            pytest.fail(f"{name} imports {found}, which stands above every room")
        same_room = name.split(".")[1] == found.split(".")[1]
        assert there < here or same_room, f"{name} imports {found}, which stands beside or above it"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module(path): set(imports(path)) for path in MODULES if path.name != "__init__.py"}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join((*way, name))}"
        if name in graph and name not in done:
            for found in graph[name]:
                walk(found, (*way, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("path", MODULES, ids=module)
def test_a_module_stays_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", sorted((ROOT / "native").rglob("*.[ch]")), ids=lambda p: p.name)
def test_a_c_file_stays_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


ROOMS = sorted({path.parent for path in MODULES} - {ROOT / "ppedge", ROOT / "export"})


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_room_says_what_it_is_for(room: Path) -> None:
    said = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert said is not None
    assert len(said.splitlines()) >= 3
    assert "may not" in said or "nothing else imports" in said
