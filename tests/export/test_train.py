import json

import numpy as np
import pytest
import torch

from export.data import read_questions
from export.features import Features
from export.minilm import find_minilm
from export.model import PersonaPlug, PlugConfig
from export.sampler import MAX_NOTES, Sampler, keep_some
from export.train import learning_rate, parse, train
from export.trainer import Trainer
from ppedge.defaults import find_model
from ppedge.history import Note


@pytest.fixture(scope="module")
def questions(lamp_folder):
    return list(read_questions(lamp_folder / "LaMP_6_style", "train"))


def test_a_few_steps_lower_the_loss_and_tell_the_two_people_apart(frozen, lamp_folder, questions):
    torch.manual_seed(0)
    plug = PersonaPlug(PlugConfig(d_style=8, n_persona=2), frozen.table.float())
    trainer = Trainer(plug, frozen, Features(find_minilm()))
    dev = list(read_questions(lamp_folder / "LaMP_6_style", "dev"))
    before = trainer.evaluate(dev, seed=0)["task 6"]
    optimizer = torch.optim.AdamW(plug.parameters(), lr=5e-3)
    sampler = Sampler(questions, batch=6, seed=0)
    for step in range(24):
        loss = trainer.loss(sampler.step(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = trainer.evaluate(dev, seed=0)["task 6"]
    assert after["own"] < before["own"] - 1
    assert after["own"] < after["swapped"] - 0.2
    assert after["none"] == pytest.approx(before["none"])


def test_batches_depend_on_the_seed_and_the_step_alone(questions):
    first, second = Sampler(questions, 4, seed=3), Sampler(questions, 4, seed=3)
    second.step(0)
    assert first.step(11) == second.step(11)
    assert first.step(11) != first.step(12)
    assert first.step(11) != Sampler(questions, 4, seed=4).step(11)


def test_history_dropout_keeps_order_of_magnitude_and_sometimes_nothing():
    notes = [Note(f"note {i}") for i in range(100)]
    rng = np.random.default_rng(0)
    sizes = [len(keep_some(notes, rng)) for _ in range(300)]
    assert max(sizes) == MAX_NOTES
    assert 0 in sizes
    assert keep_some([], rng) == []


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    assert learning_rate(0, 100, 10) == pytest.approx(0.1)
    assert learning_rate(10, 100, 10) == pytest.approx(1)
    assert learning_rate(100, 100, 10) == pytest.approx(0.1)


def test_an_interrupted_run_resumes_to_the_same_plug(lamp_folder, tmp_path, frozen, monkeypatch):
    monkeypatch.setattr("export.train.FrozenLLM", lambda *_: frozen)

    def run(out, *more):
        words = ["--data", lamp_folder, "--llm", find_model(), "--out", tmp_path / out]
        words += ["--tasks", 6, "--steps", 4, "--batch", 2, "--eval-every", 3, "--style", 8]
        words += ["--features", tmp_path / "features.pt"]
        train(parse([str(word) for word in (*words, *more)]))
        return torch.load(tmp_path / out / "plug.pt", weights_only=True)

    straight = run("straight")
    assert run("halves", "--stop-at", 2)["step"] == 2
    resumed = run("halves")
    assert resumed["step"] == straight["step"] == 4
    for name, value in straight["plug"].items():
        assert torch.equal(value, resumed["plug"][name]), name
    log = [json.loads(line) for line in (tmp_path / "straight/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [3, 4]
    assert set(log[0]["dev"]["task 6"]) == {"own", "swapped", "cold", "none"}


def test_a_checkpoint_of_other_settings_is_refused(lamp_folder, tmp_path, frozen, monkeypatch):
    monkeypatch.setattr("export.train.FrozenLLM", lambda *_: frozen)
    words = ["--data", lamp_folder, "--llm", find_model(), "--out", tmp_path, "--tasks", 6]
    words += ["--steps", 1, "--batch", 2]
    train(parse([str(word) for word in words]))
    with pytest.raises(SystemExit, match="was trained with other settings"):
        train(parse([str(word) for word in (*words, "--persona-tokens", 3)]))
