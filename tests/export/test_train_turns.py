"""A training with turns, start to end, in a tiny form; on a GPU too, where there is one."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from export.data.template import TEMPLATE
from export.models import tokenizer
from export.models.base_llm import FrozenLLM
from export.models.features import Features
from export.train import parse, train
from ppedge.plug.template import list_parts
from tests.export.test_turn_sampler import AUTHORS

SETTINGS = "--tasks 6 --steps 4 --batch 8 --eval-every 2 --eval-limit 2 --turns 3 --lr 0.01"
SETTINGS += " --warmup 1 --style 8 --dtype float32 --shares 0=0.4,6=0.2,8=0.4"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")


@pytest.fixture
def run(lamp_folder, tmp_path, tiny_gguf, tiny_encoder, corpus):
    """Train a few steps on a tiny model; returns the checkpoint and the log's lines."""
    authors = tmp_path / "authors.json"
    people = [{"source": a.source, "author": a.author, "notes": a.notes} for a in AUTHORS]
    authors.write_text(json.dumps({"people": people}))
    given = ["--data", lamp_folder, "--llm", tiny_gguf, "--encoder", tiny_encoder]
    given += ["--corpus", corpus, "--authors", authors, *SETTINGS.split()]

    def run(out, *more):
        train(parse([str(word) for word in (*given, "--out", tmp_path / out, *more)]))
        log = (tmp_path / out / "log.jsonl").read_text().splitlines()
        state = torch.load(tmp_path / out / "plug.pt", weights_only=True, map_location="cpu")
        return state, [json.loads(line) for line in log]

    return run


def test_a_training_with_turns_changes_the_plug_and_is_looked_at_with_turns(run):
    state, log = run("a", "--control", 4)
    assert state["plug"]["control_up.weight"].any()
    assert [line["step"] for line in log] == [2, 4]
    for task in ("task 0", "task 6", "task 8"):
        first, last = (line["dev"][task] for line in log)
        assert set(first) == {"own", "swapped", "cold", "none"}
        assert first["none"] == pytest.approx(last["none"], rel=1e-5)
    assert state["template"] == list_parts(TEMPLATE)


def test_an_interrupted_training_with_turns_resumes_to_the_same_plug(run):
    straight, _ = run("straight")
    run("halves", "--stop-at", 3)
    resumed, _ = run("halves")
    for name, value in straight["plug"].items():
        assert torch.allclose(value, resumed["plug"][name], atol=1e-6), name


def test_a_training_ends_when_its_minutes_are_over(run, capsys):
    state, log = run("a", "--minutes", 0.01, "--steps", 10_000, "--save-every", 1)
    assert state["step"] < 10_000
    assert log[-1]["step"] == state["step"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--turns", "2", "--style-transfer", "0.5"), "--turns goes with none of"),
        (("--authors", "a.json"), "--authors: their free text"),
        (("--turns", "-1"), "must be a whole number"),
        (("--turns", "2", "--template", "t.json"), "--turns knows ChatML alone"),
        (("--minutes", "0"), "not a number of minutes above 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(more, said, capsys):
    with pytest.raises(SystemExit) as refused:
        parse(["--data", ".", "--llm", "m.gguf", "--out", "o", *more])
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_refused_in_one_line(run):
    if torch.cuda.is_available():
        pytest.skip("torch finds a GPU here")
    with pytest.raises(SystemExit, match="--device cuda: torch finds no GPU here"):
        run("a", "--device", "cuda")


def test_without_llama_cpp_a_gguf_is_read_by_transformers_alone(tiny_gguf, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    find = tokenizer.importlib.util.find_spec
    monkeypatch.setattr(
        tokenizer.importlib.util,
        "find_spec",
        lambda name, *more: None if name == "llama_cpp" else find(name, *more),
    )
    llm = FrozenLLM(tiny_gguf, TEMPLATE, torch.float32)
    assert "no llama-cpp-python here" in capsys.readouterr().err
    before, after = llm.around_soft("Hi")
    assert before
    assert after == []
    llm.ensure_steerable(llm.n_layer - 1)


def test_what_closes_an_answer_is_said_by_the_gguf_and_not_by_transformers(tiny_gguf, tiny_llm):
    """transformers 5.17 names SmolLM2's beginning of a turn as its end."""
    wrong = copy.deepcopy(tiny_llm.tokenizer)
    wrong.eos_token = wrong.convert_ids_to_tokens(7)
    words = tokenizer.TransformersWords(wrong, str(tiny_gguf))
    assert words.end == tiny_llm.end != wrong.eos_token_id == 7


def test_the_training_s_code_is_imported_without_llama_cpp():
    """As on a rented GPU, where it is not there."""
    code = "import sys; sys.modules['llama_cpp'] = None; import export.train, export.corpus"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_gpu
def test_a_training_on_a_gpu_goes_as_on_the_cpu(run):
    cpu, gpu = run("cpu", "--device", "cpu")[1], run("gpu", "--device", "cuda")[1]
    for one, other in zip(cpu, gpu, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-2)


@needs_gpu
def test_bfloat16_trains_on_a_gpu(run):
    state, log = run("gpu", "--device", "cuda", "--dtype", "bfloat16")
    assert state["step"] == log[-1]["step"] == 4


def test_vectors_are_kept_in_main_memory_and_come_to_the_device(tiny_encoder):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = Features(tiny_encoder, device=device)
    assert features.vectors_of(["a", "b"]).device.type == device
    assert features.vectors["a"].device.type == "cpu"
