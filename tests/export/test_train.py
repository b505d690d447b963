import json

import numpy as np
import pytest
import torch

from export.data.lamp import read_questions
from export.data.template import TEMPLATE
from export.models.features import Features
from export.models.plug import PersonaPlug, PlugConfig
from export.models.text_encoder import find_minilm
from export.train import learning_rate, parameter_groups, parse, train
from export.training.sampler import Sampler
from export.training.trainer import Trainer
from ppedge.defaults import find_plug
from ppedge.llm.binding import context
from ppedge.plug.template import list_parts
from tests import tiny_gguf as tiny_models


@pytest.fixture(scope="module")
def questions(lamp_folder):
    return list(read_questions(lamp_folder / "LaMP_6_style", "train"))


@pytest.fixture(scope="module")
def features_file(tmp_path_factory):
    return tmp_path_factory.mktemp("features") / "features.pt"


@pytest.fixture
def run(lamp_folder, tmp_path, tiny_gguf, tiny_encoder, features_file):
    """Train a few steps on a tiny model; returns the checkpoint."""

    def run(out, *more):
        words = ["--data", lamp_folder, "--llm", tiny_gguf, "--out", tmp_path / out]
        words += ["--tasks", 6, "--steps", 4, "--batch", 2, "--eval-every", 3]
        words += [
            "--encoder",
            tiny_encoder,
            "--features",
            features_file,
            "--lr",
            0.01,
            "--warmup",
            1,
        ]
        train(parse([str(word) for word in (*words, *more)]))
        return torch.load(tmp_path / out / "plug.pt", weights_only=True)

    return run


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


def dev_losses(tmp_path, out):
    lines = (tmp_path / out / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["dev"]["task 6"] for line in lines]


@pytest.mark.parametrize(
    "form",
    [
        ("--style", 8),
        ("--paper",),
        ("--persona-tokens", 0, "--instruction-tokens", 3, "--lr", 0.1),
        ("--recency", "--no-null-note", "--scale", 2, "--fixed-scale", "--soft", "before"),
        ("--query-encoder", "separate", "--encoder-lr", 0.001),
        ("--contrast", 1, "--contrast-from", 1, "--contrast-margin", 0.2),
        ("--style-transfer", 0.3, "--notes-in-prompt", 0.5),
        ("--key-fields", "both", "--value-fields", "both", "--raw-vectors", "--dtype", "float32"),
    ],
    ids=lambda form: form[0],
)
def test_every_form_of_plug_lowers_the_loss_and_comes_back_from_its_checkpoint(run, tmp_path, form):
    state = run("a", "--eval-every", 1, "--steps", 6, *form)
    losses = dev_losses(tmp_path, "a")
    assert losses[-1]["own"] < losses[0]["own"] - 0.05
    assert losses[-1]["none"] == losses[0]["none"]
    config = PlugConfig(**state["config"])
    plug = PersonaPlug(config, torch.zeros(config.n_instruction + config.n_persona, 64))
    plug.load_state_dict(state["plug"])


def test_options_end_in_the_config(run):
    config = PlugConfig(**run("a", "--steps", 1, "--paper", "--persona-tokens", 3)["config"])
    shape = config.query_shape
    assert config == PlugConfig.paper(64, 24, n_persona=3, query_shape=shape)
    assert (shape.layers, shape.width, shape.pooling) == (2, 24, "mean")
    config = run("b", "--steps", 1, "--scale", 2, "--fixed-scale", "--no-null-note")["config"]
    assert (config["initial_scale"], config["learn_scale"], config["null_note"]) == (
        2,
        False,
        False,
    )
    assert config["d_value"] == 512


def test_a_query_encoder_of_its_own_is_trained_and_the_notes_one_is_not(run):
    before = run("a", "--query-encoder", "separate", "--steps", 1, "--lr", 0, "--encoder-lr", 0)
    after = run("b", "--query-encoder", "separate", "--steps", 3, "--encoder-lr", 0.001)
    assert before["inputs"]["encoder"] == after["inputs"]["encoder"]
    name = "query_encoder.layers.1.query.weight"
    assert not torch.equal(before["plug"][name], after["plug"][name])


def test_a_control_vector_is_trained_and_begins_as_nothing(run):
    none = run("none", "--control", 4, "--steps", 1, "--lr", 0)["plug"]
    assert none["control_up.weight"].shape == ((tiny_models.N_LAYER - 1) * 64, 4)
    assert not none["control_up.weight"].any()
    state = run("some", "--control", 4)
    assert state["plug"]["control_up.weight"].any()
    assert state["config"]["n_control"] == tiny_models.N_LAYER - 1


def test_a_gguf_that_llama_cpp_would_not_steer_is_refused_before_training(run, monkeypatch):
    monkeypatch.setattr(context.C, "llama_set_adapter_cvec", lambda *_: 0)
    with pytest.raises(SystemExit, match="does not steer models of architecture 'llama'"):
        run("a", "--control", 4)
    run("b")


def test_an_instruction_alone_is_written_as_rows(run, tmp_path):
    state = run("a", "--persona-tokens", 0, "--instruction-tokens", 3)
    rows = np.load(tmp_path / "a" / "instruction.npy")
    assert (rows.dtype, rows.shape) == (np.float32, (3, 64))
    assert np.array_equal(rows, state["plug"]["instruction"].numpy())
    last = dev_losses(tmp_path, "a")[-1]
    assert last["own"] == last["swapped"] == last["cold"]
    run("b")
    assert not (tmp_path / "b" / "instruction.npy").exists()


def test_an_interrupted_run_resumes_to_the_same_plug(run, tmp_path):
    more = ("--style", 8, "--contrast", 1, "--contrast-from", 1)
    straight = run("straight", *more)
    assert run("halves", *more, "--stop-at", 2)["step"] == 2
    resumed = run("halves", *more, "--eval-limit", 2)
    assert resumed["step"] == straight["step"] == 4
    for name, value in straight["plug"].items():
        assert torch.equal(value, resumed["plug"][name]), name
    assert set(dev_losses(tmp_path, "straight")[0]) == {"own", "swapped", "cold", "none"}
    assert straight["template"] == list_parts(TEMPLATE)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("--persona-tokens", 3), "--persona-tokens was 6, not 3"),
        (("--paper",), "--value-width was 512, not 64"),
        (("--soft", "before"), "--soft was after, not before"),
        (("--no-null-note",), "--no-null-note was True, not False"),
        (("--seed", 5), "--seed was 0, not 5"),
        (("--batch", 3), "--batch was 2, not 3"),
        (("--lr", 0.5), r"--lr was 0\.01, not 0\.5"),
        (("--contrast", 2), r"--contrast was 0\.0, not 2\.0"),
        (("--shares", "6=2"), "--shares was None"),
        (("--dtype", "float32"), "--dtype was bfloat16, not float32"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_a_checkpoint_of_other_settings_is_refused_by_name(begun, run, tmp_path, other, message):
    begun("a")
    with pytest.raises(SystemExit, match=f"was trained with other settings: {message}"):
        run("a", *other)


@pytest.fixture
def begun(run, tmp_path):
    """Begin a run, with one step done."""
    return lambda out: run(out, "--steps", 1, "--eval-limit", 2)


def test_other_data_or_another_model_is_refused_and_another_path_is_not(
    begun, run, tmp_path, lamp_folder, tiny_gguf
):
    begun("a")
    (tmp_path / "moved").symlink_to(lamp_folder)
    (tmp_path / "same.gguf").write_bytes(tiny_gguf.read_bytes())
    moved = ("--data", tmp_path / "moved", "--llm", tmp_path / "same.gguf")
    assert run("a", *moved, "--steps", 2)["step"] == 2
    other = tiny_models.write(tmp_path / "other.gguf", n_ctx=2048, seed=1)
    with pytest.raises(SystemExit, match="the model has other contents"):
        run("a", "--llm", other)
    state = torch.load(tmp_path / "a" / "plug.pt", weights_only=True)
    state["inputs"]["training questions"] = "another"
    torch.save(state, tmp_path / "a" / "plug.pt")
    with pytest.raises(SystemExit, match="the training questions has other contents"):
        run("a")


def test_a_checkpoint_of_the_first_version_goes_on(run, tmp_path):
    """It names no template and no inputs, and fewer settings."""
    run("a", "--stop-at", 2)
    state = torch.load(tmp_path / "a" / "plug.pt", weights_only=True)
    first = ("d_text", "d_key", "d_value", "n_embd", "n_instruction", "n_persona", "d_style")
    state["config"] = {name: state["config"][name] for name in (*first, "initial_scale")}
    kept = ("data", "tasks", "steps", "batch", "lr", "style_lr", "warmup", "seed")
    state["settings"] = {name: state["settings"][name] for name in kept}
    del state["template"], state["inputs"]
    torch.save(state, tmp_path / "a" / "plug.pt")
    assert run("a")["step"] == 4


def test_what_cannot_be_read_ends_in_one_line(run, tmp_path, lamp_folder):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "plug.pt").write_bytes(b"noise")
    for out, more, message in (
        ("a", ("--llm", tmp_path / "none.gguf"), "none.gguf"),
        ("a", ("--encoder", tmp_path), "config.json: not a readable JSON file"),
        ("a", ("--template", tmp_path / "t.json"), "t.json: not a readable JSON file"),
        ("a", ("--data", tmp_path), "LaMP_6_style"),
        ("a", ("--eval-limit", 1), "has one user only: nobody to swap with"),
        ("a", ("--scale", -1), "must be above 0, not -1.0"),
        ("c", (), "not a checkpoint of export.train"),
    ):
        with pytest.raises(SystemExit, match=message) as caught:
            run(out, *more)
        assert "\n" not in str(caught.value)


def test_synthetic_personas_are_trained_and_evaluated_beside_the_tasks(run, tmp_path, corpus):
    more = ("--corpus", corpus, "--shares", "0=1", "--style", 8)
    assert run("a", *more, "--stop-at", 2, "--eval-limit", 2)["step"] == 2
    [line] = (tmp_path / "a" / "log.jsonl").read_text().splitlines()
    assert set(json.loads(line)["dev"]) == {"task 0", "task 6"}
    corpus.rename(tmp_path / "moved.json")
    moved = ("--corpus", tmp_path / "moved.json", *more[2:])
    assert run("a", *moved, "--stop-at", 3, "--eval-limit", 2)["step"] == 3
    texts = json.loads((tmp_path / "moved.json").read_text())["texts"]
    corpus.write_text(json.dumps({"texts": texts[:-1] + texts[:1]}))
    with pytest.raises(SystemExit, match="plain texts has other contents"):
        run("a", *more)


def test_a_plug_of_another_form_cannot_be_started_from(run):
    with pytest.raises(SystemExit, match=r"--start: .* has another form than the options give"):
        run("a", "--start", find_plug(None))


@pytest.mark.parametrize("shares", ["9=1", "6", "6=x", "6=-1", "6=nan"])
def test_shares_that_are_none_are_refused(shares, capsys):
    with pytest.raises(SystemExit):
        parse(["--data", ".", "--llm", ".", "--out", ".", "--shares", shares])
    assert "--shares" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--style-transfer", "--choices", "--notes-in-prompt"])
@pytest.mark.parametrize("share", ["-0.1", "1.1", "x", "nan"])
def test_a_share_is_a_number_from_0_to_1(option, share, capsys):
    words = ["--data", ".", "--llm", "x", "--out", "y", f"{option}={share}"]
    with pytest.raises(SystemExit) as found:
        parse(words)
    assert found.value.code == 2
    assert f"'{share}' is not a share" in capsys.readouterr().err


def test_people_who_choose_are_synthetic_ones(capsys):
    with pytest.raises(SystemExit) as found:
        parse(["--data", ".", "--llm", "x", "--out", "y", "--choices", "0.2"])
    assert found.value.code == 2
    assert "--choices: there are no synthetic people without --corpus" in capsys.readouterr().err


def test_a_base_model_s_template_is_trained_with(run, tmp_path):
    (tmp_path / "t.json").write_text('[{"slot": "prompt"}, {"text": "\\n"}]')
    state = run("a", "--template", tmp_path / "t.json")
    assert state["template"] == [{"slot": "prompt"}, {"text": "\n"}, {"slot": "soft"}]
    state = run("b", "--template", tmp_path / "t.json", "--soft", "before")
    assert state["template"] == [{"slot": "soft"}, {"slot": "prompt"}, {"text": "\n"}]
    assert state["config"]["soft"] == "before"


def test_style_and_query_encoder_learn_at_rates_of_their_own(run):
    groups = run("a", "--query-encoder", "separate", "--style", 8, "--steps", 1)["optimizer"]
    assert [group["lr"] for group in groups["param_groups"]] == [0.01, 0.001, 0.0001]
    plug = PersonaPlug(PlugConfig(), torch.zeros(64, 576))
    [only] = parameter_groups(plug, 0.5, 0.1)
    assert only["params"] == list(plug.parameters())


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    assert learning_rate(0, 100, 10) == pytest.approx(0.1)
    assert learning_rate(10, 100, 10) == pytest.approx(1)
    assert learning_rate(100, 100, 10) == pytest.approx(0.1)
