"""Temporary folders: gone at the end, or after a kill at the next start; never anybody else's."""

import os
import signal
import time
from pathlib import Path

import pytest

from ppedge.store.temporary import sweep, temporary_folder


def test_it_is_there_for_the_block_and_gone_afterwards(tmp_path):
    with temporary_folder(tmp_path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "note").write_text("secret")
        assert folder.parent == tmp_path
        if os.name == "posix":
            assert folder.stat().st_mode & 0o777 == 0o700
        sweep(tmp_path)
        assert (folder / "deep" / "note").exists()
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_removes_it_too(tmp_path):
    def fail() -> None:
        with temporary_folder(tmp_path) as folder:
            (folder / "note").write_text("secret")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_its_own_stays(tmp_path):
    (tmp_path / "ppedge-others").mkdir()
    (tmp_path / "ppedge-others" / "file").write_text("x")
    (tmp_path / "ppedge-link").symlink_to(tmp_path / "ppedge-others")
    (tmp_path / "other").mkdir()
    os.utime(tmp_path / "ppedge-others", (0, 0))
    sweep(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "other",
        "ppedge-link",
        "ppedge-others",
    ]
    assert (tmp_path / "ppedge-others" / "file").exists()


def test_a_bare_folder_goes_when_it_is_old(tmp_path):
    for name, old in (("ppedge-young", False), ("ppedge-old", True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "alive.new").touch()
        if old:
            os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ppedge-young"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 wants POSIX")
def test_a_kill_at_any_time_leaves_nothing_that_a_sweep_does_not_find(tmp_path):
    """Also in the middle of the removal: what says whose it is goes last."""
    left = 0
    for i in range(60):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    with temporary_folder(tmp_path) as folder:
                        for name in range(20):
                            (folder / f"{name}").write_text("secret")
            finally:
                os._exit(1)
        time.sleep(0.002 + 0.0007 * i)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left += any(secrets(tmp_path))
        sweep(tmp_path)
        assert secrets(tmp_path) == []
    assert left


def secrets(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.read_text() == "secret"]
