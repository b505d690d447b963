"""Several processes train as one does: run for real, by ``accelerate launch``."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.train import parse, train

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "--tasks",
    "6",
    "--steps",
    "4",
    "--batch",
    "5",
    "--eval-every",
    "1",
    "--eval-limit",
    "2",
]
SETTINGS += ["--style", "8", "--dtype", "float32", "--lr", "0.005", "--warmup", "2"]
SETTINGS += ["--contrast", "1", "--contrast-from", "2"]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch(*words):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command += ["--main_process_port", str(free_port()), *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    env["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def losses(out):
    """Mean loss up to each step, which only agrees if every step's does."""
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def two(lamp_folder, tiny_gguf, tmp_path_factory):
    """A run by one process, the same by two, and what the two printed."""
    root = tmp_path_factory.mktemp("accelerate")
    # Text vectors are float16: encoded beside other texts, one may be rounded the other way.
    words = ["--data", lamp_folder, "--llm", tiny_gguf, "--features", root / "features.pt"]
    words = [*map(str, words), *SETTINGS]
    train(parse([*words, "--out", str(root / "one")]))
    done = launch("--multi_gpu", "-m", "export.train", *words, "--out", root / "two")
    assert done.returncode == 0, done.stderr
    return root / "one", root / "two", done.stdout


def test_two_processes_have_the_loss_curve_of_one(two):
    one, two, _ = two
    assert len(losses(one)) == 4
    assert losses(two) == pytest.approx(losses(one), rel=2e-6)


def test_two_processes_end_at_the_plug_of_one(two):
    one, two, _ = (torch.load(out / "plug.pt", weights_only=True) for out in (*two[:2], two[0]))
    assert one["step"] == two["step"] == 4
    for name, value in one["plug"].items():
        assert torch.allclose(two["plug"][name], value, atol=2e-4), name


def test_only_the_main_process_prints(two):
    printed = [json.loads(line) for line in two[2].splitlines() if line.startswith("{")]
    assert [line["step"] for line in printed] == [1, 2, 3, 4]


def test_the_share_of_each_process_is_its_own(tmp_path):
    """Sums over the processes, gradients that some lack among them."""
    (tmp_path / "shares.py").write_text(
        """
import torch
from torch import nn
from export.training.distributed import Distributed
distributed = Distributed()
parameters = [nn.Parameter(torch.zeros(2)) for _ in range(4)]
parameters[3].requires_grad_(False)
parameters[0].grad = torch.full((2,), 1.0 + distributed.index)
if distributed.index == 1:
    parameters[1].grad = torch.ones(2)
distributed.sum_gradients(parameters)
assert parameters[0].grad.tolist() == [3.0, 3.0]
assert parameters[1].grad.tolist() == [1.0, 1.0]
assert parameters[2].grad is None and parameters[3].grad is None
assert distributed.sum(torch.tensor(distributed.index + 5.0)) == 11
assert distributed.size == 2 and not distributed.note
distributed.wait()
distributed.close()
"""
    )
    done = launch("--multi_gpu", tmp_path / "shares.py")
    assert done.returncode == 0, done.stderr


def test_a_launch_on_cpus_that_starts_one_process_says_so(tmp_path):
    (tmp_path / "alone.py").write_text(
        "from export.training.distributed import Distributed\nprint(Distributed().note)"
    )
    done = launch("--cpu", tmp_path / "alone.py")
    assert "this is one process" in done.stdout
