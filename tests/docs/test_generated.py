"""docs/api.md and docs/cli.md are what docs/generate.py writes now, wherever it is run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

import ppedge
from ppedge.cli.main import main as ppedge_command

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "generate.py"
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_fresh(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    code = generate.main(["--check"])
    assert (code, capsys.readouterr().err) == (0, ""), "run `python docs/generate.py`"


def test_a_stale_page_is_named(
    generate: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "api.md").write_text(API + "more\n", encoding="utf-8")
    (tmp_path / "cli.md").write_text(CLI, encoding="utf-8")
    assert generate.stale(tmp_path) == ["api.md"]
    (tmp_path / "cli.md").unlink()
    assert generate.stale(tmp_path) == ["api.md", "cli.md"]
    monkeypatch.setattr(generate, "stale", lambda: ["api.md"])
    assert generate.main(["--check"]) == 1
    assert "docs/api.md" in capsys.readouterr().err
    assert generate.main(["--chekc"]) == 2


def test_the_script_says_the_same_in_another_place(tmp_path: Path) -> None:
    odd = {"COLUMNS": "40", "LINES": "5", "LC_ALL": "C", "NO_COLOR": "1", "PYTHONHASHSEED": "7"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PPEDGE_")}
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"],
        cwd=tmp_path,
        env={**kept, **odd, "HOME": str(tmp_path), "PPEDGE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ppedge.__all__)
def test_every_public_name_is_described(name: str) -> None:
    assert f"\n### {name}\n" in API
    assert f"`from ppedge import {name}`" in API


@pytest.mark.parametrize("name", ["ChangeReport", "Receipt", "Stats", "Problem", "Generation"])
def test_what_they_return_is_described(name: str) -> None:
    assert API.index(f"\n### {name}\n") > API.index("\n## Types that these return\n")


@pytest.mark.parametrize(
    "name", ["Persona.notes", "Persona.close", "LLM.tokenize", "Answer.conditioning"]
)
def test_inherited_methods_and_properties_are_described(name: str) -> None:
    assert f"\n#### {name}\n" in API


def command_names(command: click.Command, name: str = "ppedge") -> list[str]:
    if not isinstance(command, click.Group):
        return [name]
    context = click.Context(command)
    inside = {sub: command.get_command(context, sub) for sub in command.list_commands(context)}
    assert all(inside.values())
    found = [command_names(sub, f"{name} {word}") for word, sub in inside.items() if sub]
    return [name, *(each for names in found for each in names)]


@pytest.mark.parametrize("name", command_names(ppedge_command))
def test_every_command_is_described(name: str) -> None:
    assert f"\n## {name}\n\n```text\nUsage: {name} " in CLI


def test_nothing_of_this_machine_is_in_the_pages() -> None:
    for page in (API, CLI):
        assert str(ROOT) not in page
        assert str(Path.home()) not in page.replace("~", "")
        assert " at 0x" not in page


def test_every_variable_that_the_code_reads_is_named() -> None:
    sources = [*(ROOT / "ppedge").rglob("*.py"), *(ROOT / "native").rglob("*.c")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    read = set(re.findall(r"\bPPEDGE_(?:HOME|MODEL|PLUG|SIMD)\b", text))
    read |= set(re.findall(r"(?:environ\.get\(|environ\[|getenv\()\"(\w+)\"", text))
    assert {"PPEDGE_HOME", "PPEDGE_SIMD", "XDG_DATA_HOME"} <= read
    assert not {name for name in read if f"`{name}`" not in CLI}
