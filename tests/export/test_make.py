"""One command from training data to a plug with scores, over a tiny model."""

import json
import subprocess
import sys

import pytest

from export.evaluation.records import Run
from export.evaluation.summary import series_of
from ppedge.plug.plug import Plug
from tests.export import lamp


@pytest.fixture
def make(tmp_path, tiny_gguf, tiny_encoder, corpus):
    """Run the command; returns its exit code and what it printed."""
    for split in ("train", "dev"):
        lamp.write(tmp_path / "data", 6, split=split, users=6, each=1, notes=4)

    def make(*more, steps=3, training=("--batch", "2", "--warmup", "1")):
        words = ["--data", tmp_path / "data", "--llm", tiny_gguf, "--out", tmp_path / "plug"]
        words += ["--tasks", 6, "--steps", steps, "--encoder", tiny_encoder, "--corpus", corpus]
        words += ["--limit", 6, *more, "--", *training]
        command = [sys.executable, "-m", "export.make", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return make


def test_one_command_makes_a_plug_with_memory_and_scores_and_goes_on_where_it_stopped(
    make, tmp_path, tiny_gguf
):
    stopped = make(training=("--batch", "2", "--warmup", "1", "--lr", "fast"))
    assert stopped.returncode == 2
    assert stopped.stderr.splitlines()[-1] == "export.make: stopped by export.train (exit 2)"
    made = make()
    assert made.returncode == 0, made.stderr
    shown = [line.split()[3] for line in made.stdout.splitlines() if line.startswith("$ ")]
    assert shown == [f"export.{n}" for n in ("train", "onnx", "ngrams", "population", "evaluate")]
    manifest = Plug(tmp_path / "plug").manifest
    assert manifest.ngram_cache is not None
    assert manifest.about["steps"] == 3
    assert manifest.about["command"].startswith("python -m export.make --data data --llm tiny.gguf")
    assert str(tmp_path) not in json.dumps(manifest.about)
    [told] = manifest.about["scores"]["tasks"]
    run = Run.load(tmp_path / "plug-work" / "task6.json")
    persona = series_of(run)["persona"].figure("nll", 0).value
    assert (told["task"], told["users"], told["questions"]) == (6, 6, 6)
    assert told["nll"]["persona"] == pytest.approx(persona, abs=1e-4)
    assert {"none", "instruction", "swapped", "persona-swapped 95%"} < set(told["nll"])

    before = (tmp_path / "plug" / "plug.json").read_bytes()
    again = make()
    assert again.returncode == 0, again.stderr
    assert "$ " not in again.stdout
    assert again.stdout.count("# done before: ") == 5
    assert (tmp_path / "plug" / "plug.json").read_bytes() == before
    other = make(steps=4)
    assert other.returncode == 1
    assert "holds a plug that another command made (python -m export.make" in other.stderr
    assert (tmp_path / "plug" / "plug.json").read_bytes() == before


def test_what_would_stop_it_late_stops_it_at_once(make, tmp_path):
    (tmp_path / "data" / "LaMP_6_style" / "dev_outputs.json.gz").unlink()
    stopped = make()
    assert stopped.returncode == 1
    [line] = stopped.stderr.splitlines()
    assert line.startswith("export.make: neither ")
    assert "dev_outputs.json" in line
    assert not (tmp_path / "plug-work").exists()
