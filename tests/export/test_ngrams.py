"""Fitting the n-gram cache: what is gathered, what is fitted, and what the plug then says."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from export.evaluation.methods import Asked, Bench, parse_method
from export.ngrams import main, probe
from export.training.ngram_weights import START, Places, fit, held_out_nats, nats, offset
from ppedge.llm.llm import LLM
from ppedge.llm.ngram_cache import Gate, NgramCache, NgramCacheConfig
from ppedge.personalizer import Personalizer
from ppedge.plug.manifest import MANIFEST_NAME, manifest_json
from ppedge.plug.plug import Plug
from tests import tiny_gguf, tiny_plug
from tests.export import lamp
from tests.export.test_methods import ANN, QUESTION

GATES = (Gate(-1.0, 0.4, -0.6, 0.8), Gate(0.2, 0.5, -0.5, 0.5), Gate(1.0, 0.1, -0.3, -0.2))


def places_of(rng, users=8, each=60, gates=GATES, task=4, trusted=True):
    """Places whose gold tokens follow the gates: the memory is right as often as they trust it."""
    n = users * each
    total = np.exp(rng.uniform(0, 3, (n, 3)))
    kinds = np.ceil(total ** rng.uniform(0, 1, (n, 3)))
    total[:, 2] *= rng.random(n) < 0.5  # Order 2 often has no say.
    places = Places(
        task=np.full(n, task),
        user=np.repeat([f"{task}-{u}" for u in range(users)], each),
        logprob=rng.uniform(-6, -3, n),
        entropy=rng.uniform(0, 4, n),
        total=total,
        kinds=kinds * (total > 0),
        count=np.zeros((n, 3)),
    )
    for order, gate in enumerate(gates):
        for i in np.flatnonzero(total[:, order]):
            trust = gate.trust(total[i, order], int(kinds[i, order]), places.entropy[i])
            places.count[i, order] = total[i, order] * (trusted and rng.random() < trust)
    return places


def joined(*parts):
    columns = zip(*(dataclasses.astuple(part) for part in parts), strict=True)
    return Places(*(np.concatenate(column) for column in columns))


# --- the fit --------------------------------------------------------------------------------------


def test_nats_are_those_of_the_run_time_s_memory():
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 5, 12).tolist() for _ in range(6)]
    memory = NgramCache(texts, rng.uniform(0.1, 1, 6), GATES)
    logits = rng.normal(0, 2, 7).astype(np.float32)
    model = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    entropy = np.full(7, -(np.exp(model) * model).sum())
    for written in ([], texts[0][:3], texts[1][:1], [6, 6]):
        mixed = memory.process(logits, written)
        counts = [*memory.counts(written)]
        rows = np.zeros((3, 7, 3))
        for order, each in enumerate(counts):
            rows[0, :, order], rows[1, :, order] = each.sum(), np.count_nonzero(each)
            rows[2, memory.types, order] = each
        places = Places(np.zeros(7, int), np.array(["u"] * 7), model, entropy, *rows)
        np.testing.assert_allclose(nats(places, GATES), -mixed, rtol=1e-5)


def test_gates_are_found_again_from_what_they_drew():
    places = places_of(np.random.default_rng(1), users=20, each=100)
    found = fit(places, 3)
    alone = -places.logprob.mean()
    by_truth, by_fit = nats(places, GATES).mean(), nats(places, found).mean()
    assert by_fit <= by_truth + 1e-3
    assert by_fit < alone - 0.3


def test_where_the_memory_is_always_wrong_every_gate_closes():
    places = places_of(np.random.default_rng(2), trusted=False)
    found = fit(places, 3)
    assert nats(places, found).mean() < nats(places, [START] * 3).mean()
    assert nats(places, found).mean() == pytest.approx(-places.logprob.mean(), abs=0.02)


def test_an_order_that_never_has_a_say_stays_as_it_began():
    places = places_of(np.random.default_rng(3))
    places.total[:, 1], places.kinds[:, 1], places.count[:, 1] = 0, 0, 0
    assert fit(places, 3)[1] == START


def test_the_fit_is_the_same_again_and_rounded():
    places = places_of(np.random.default_rng(4))
    assert fit(places, 3) == fit(places, 3)
    for gate in fit(places, 2):
        assert all(term == round(term, 4) for term in dataclasses.astuple(gate))


def test_a_task_with_many_tokens_weighs_no_more_than_one_with_few():
    rng = np.random.default_rng(5)
    few, wrong = places_of(rng, task=4), places_of(rng, task=5, trusted=False)
    once = fit(joined(few, wrong), 3)
    often = fit(joined(few, *[wrong] * 8), 3)
    # The prior, a bit weaker beside more places, is all that differs.
    assert nats(few, often).mean() == pytest.approx(nats(few, once).mean(), abs=0.01)


def test_held_out_nats_of_a_user_do_not_hang_on_that_user():
    rng = np.random.default_rng(6)
    own = places_of(rng, users=6)
    [before] = held_out_nats(own, [own], 3, seed=0)
    count = own.count.copy()
    mine = own.user == "4-0"
    count[mine] = own.total[mine]
    # Only what is fitted to changes; what is measured stays.
    [after] = held_out_nats(dataclasses.replace(own, count=count), [own], 3, seed=0)
    same = {user for user in np.unique(own.user) if (before == after)[own.user == user].all()}
    assert "4-0" in same
    assert len(same) == 3


def test_caution_comes_off_every_bias_and_held_out_nats_tell_its_price():
    own = places_of(np.random.default_rng(7))
    gates = fit(own, 3)
    careful = offset(gates, 1.5)
    assert [gate.bias for gate in careful] == pytest.approx([gate.bias - 1.5 for gate in gates])
    assert [dataclasses.replace(gate, bias=0) for gate in careful] == [
        dataclasses.replace(gate, bias=0) for gate in gates
    ]
    [usual], [paid] = (held_out_nats(own, [own], 3, seed=0, gate_offset=c) for c in (0, 30))
    without = -own.logprob
    assert usual.mean() < without.mean()
    assert paid == pytest.approx(without, rel=1e-3)


# --- what is gathered -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny model and a plug for it."""
    folder = tmp_path_factory.mktemp("literal")
    model = tiny_gguf.write(folder / "tiny.gguf", n_ctx=2048)
    return model, tiny_plug.write(folder / "plug", model)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tasks 4 and 6, train: six users, each with a manner."""
    root = tmp_path_factory.mktemp("data")
    for task in (4, 6):
        lamp.write(root, task, split="train", users=6, each=1, notes=8)
    return root


def test_what_a_probe_notes_gives_the_run_time_s_likelihood(files):
    model, plug = files
    opened = Plug(plug)
    opened.manifest = dataclasses.replace(opened.manifest, ngram_cache=NgramCacheConfig(5, GATES))
    with LLM(model, n_threads=1) as llm:
        bench, asked = Bench(llm, opened), Asked(QUESTION, ANN)
        composed = bench.compose(parse_method("persona"), asked)
        # Then all that follow find the prompt there: another batch would have other last bits.
        llm.score(composed.segments, [QUESTION.output])
        rows = probe(llm, composed, QUESTION.output, 3)
        [alone] = llm.score(composed.segments, [QUESTION.output], end=True)
        [mixed] = llm.score(
            composed.segments, [QUESTION.output], end=True, processor=composed.processor
        )
        assert len(rows) == alone.tokens
        assert rows[:, 0].sum() == pytest.approx(alone.logprob, rel=1e-6)
        columns = [rows[:, 0], rows[:, 1], *(rows[:, 2 + i :: 3] for i in range(3))]
        places = Places(np.zeros(len(rows), int), np.array(["u"] * len(rows)), *columns)
        assert -nats(places, GATES).sum() == pytest.approx(mixed.logprob, rel=1e-5)
        nobody = Asked(dataclasses.replace(QUESTION, history=()))
        rows = probe(llm, bench.compose(parse_method("persona"), nobody), QUESTION.output, 3)
        assert not rows[:, 2:].any()
        assert rows[:, :2].all()


# --- the command ----------------------------------------------------------------------------------


def words(plug, files, data, *more):
    return [str(plug), "--data", str(data), "--llm", str(files[0]), "--tasks", "4", "6",
            "--threads", "1", "--context", "512", *more]  # fmt: skip


def test_the_command_fits_gates_that_help_and_writes_them_into_the_plug(
    files, data, tmp_path, capsys
):
    plug = shutil.copytree(files[1], tmp_path / "plug")
    tiny_plug.add_golden(plug, ["a text", "another"])
    before = Plug(plug).manifest
    out = tmp_path / "fit.json"
    main(words(plug, files, data, "--orders", "3", "--notes", "6", "--json", str(out)))
    printed = capsys.readouterr().out
    fitted = Plug(plug)
    spec = fitted.manifest.ngram_cache
    assert (spec.max_notes, len(spec.gates)) == (6, 3)
    about = {k: v for k, v in fitted.manifest.about.items() if k != "n-gram cache"}
    again = dataclasses.replace(fitted.manifest, ngram_cache=None, about=about)
    assert again == before
    assert max(fitted.golden_differences().values()) == 0
    whole = json.loads(out.read_text())
    assert whole["ngram_cache"] == dataclasses.asdict(spec) | {
        "gates": [dataclasses.asdict(gate) for gate in spec.gates]
    }
    for gain in whole["gains"]:
        # Every user has a manner, which the model, random as it is, cannot know.
        assert gain["after"]["own"] < gain["before"]["own"] - 0.5
        assert gain["after"]["own"] < gain["after"]["swapped"]
        assert f"{gain['before']['own']:.3f} -> {gain['after']['own']:.3f}" in printed
        assert (gain["users"], gain["tokens"] > 100) == (6, True)
    assert [gain["task"] for gain in whole["gains"]] == [4, 6]
    assert "order 2: bias" in printed
    assert fitted.manifest.about["n-gram cache"]["fitted on"]["LaMP_6_style"] == "6 train users"


def test_what_was_fitted_is_what_the_run_time_then_uses(files, data, tmp_path):
    plug = shutil.copytree(files[1], tmp_path / "plug")
    main(words(plug, files, data, "--orders", "2"))
    with (
        Personalizer.open(files[0], plug, n_threads=1) as opened,
        opened.persona(tmp_path / "p") as persona,
    ):
        persona.add(ANN, opened.plug.encode_notes)
        assert opened.condition("rain", persona).memory is not None


def test_the_same_command_writes_the_same_bytes_and_a_dry_run_none(files, data, tmp_path):
    told = []
    for name in ("one", "two"):
        plug = shutil.copytree(files[1], tmp_path / name)
        main(words(plug, files, data, "--limit", "4"))
        # A second fit replaces the first: it does not hang on the gates that were there.
        told.append((plug / MANIFEST_NAME).read_bytes())
        main(words(plug, files, data, "--limit", "4"))
        told.append((plug / MANIFEST_NAME).read_bytes())
        assert sorted(p.name for p in plug.iterdir()) == sorted(p.name for p in files[1].iterdir())
    assert len(set(told)) == 1
    assert manifest_json(Plug(plug).manifest).encode() == told[0]
    plug = shutil.copytree(files[1], tmp_path / "dry")
    main(words(plug, files, data, "--limit", "4", "--dry-run"))
    assert (plug / MANIFEST_NAME).read_bytes() == (files[1] / MANIFEST_NAME).read_bytes()


def refused(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    message = str(caught.value)
    assert message.startswith("export.ngrams: ")
    assert "\n" not in message
    return message


def test_what_cannot_be_fitted_is_refused_in_one_line(files, data, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", files[1])
    assert "unpack it first" in refused(words(packed, files, data))
    assert "no such plug" in refused(words(tmp_path / "none", files, data))
    assert "train_questions.json" in refused(words(files[1], files, tmp_path))
    alone = lamp.write(tmp_path / "alone", 4, split="train", users=1).parent
    assert "nobody to swap with" in refused([*words(files[1], files, alone), "--tasks", "4"])
    other = tiny_gguf.write(tmp_path / "other.gguf", "gemma", seed=3)
    assert "was made for" in refused(words(files[1], (other,), data))


@pytest.mark.parametrize(
    "wrong",
    [["--orders", "9"], ["--gate-offset", "-1"], ["--notes", "0"], ["--limit", "0"],
     ["--seed", "-1"], ["--tasks", "8"], ["--tasks", "4", "4"], ["--json", "nowhere/fit.json"]],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_name(files, data, wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*words(files[1], files, data), *wrong])
    assert caught.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert wrong[0] in told or "nowhere/fit.json" in told
