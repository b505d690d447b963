"""The evaluation command on small LaMP folders: what it answers, keeps, resumes and writes."""

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from export.data.lamp import choose, with_swaps
from export.evaluate import main, parse
from export.evaluation.methods import Asked, Bench, parse_method
from export.evaluation.records import Journal, Record, Run
from export.evaluation.runner import open_setup
from ppedge.defaults import find_model, find_plug
from ppedge.llm.llm import Sampling
from ppedge.plug.plug import Plug
from tests import tiny_gguf, tiny_plug
from tests.export import lamp
from tests.tiny_plug import N_SOFT

METHODS = "none,instruction,bm25-1,persona,swapped"


def files(folder):
    """The command's words that name a LaMP folder's dev files."""
    return ["--questions", str(folder / "dev_questions.json"),
            "--outputs", str(folder / "dev_outputs.json")]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model, its plug and an instruction, as words of the command."""
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_gguf.write(folder / "tiny.gguf", n_ctx=2048)
    plug = tiny_plug.write(folder / "plug", model)
    rows = np.random.default_rng(0).normal(0, 1, (2, Plug(plug).manifest.llm.n_embd))
    np.save(folder / "instruction.npy", rows.astype(np.float32))
    return ["--plug", str(plug), "--llm", str(model), "--threads", "1",
            "--instruction", str(folder / "instruction.npy")]  # fmt: skip


@pytest.fixture(scope="module")
def headlines(tmp_path_factory):
    return lamp.write(tmp_path_factory.mktemp("lamp"), task=4, users=3, each=2, notes=4)


def without_seconds(run: Run) -> dict:
    whole = dataclasses.asdict(run)
    for record in whole["records"]:
        del record["first_s"], record["answer_s"]
    return whole


# --- end to end -----------------------------------------------------------------------------------


def test_the_default_model_and_plug_answer_a_folder(tmp_path, capsys):
    folder = lamp.write(tmp_path, task=6, users=2, each=1, notes=3)
    np.save(tmp_path / "i.npy", np.zeros((2, 576), np.float32))
    out = tmp_path / "out.json"
    words = [*files(folder), "--methods", METHODS, "--json", str(out), "--html",
             str(tmp_path / "out.html"), "--instruction", str(tmp_path / "i.npy"),
             "--threads", "1"]  # fmt: skip
    main(words)
    printed = capsys.readouterr().out
    run = Run.load(out)
    assert run.methods == METHODS.split(",")
    assert Counter(r.method for r in run.records) == dict.fromkeys(run.methods, 2)
    for method in run.methods:
        assert f"| {method} | 2 | 2 |" in printed
    by_method = {m: [r for r in run.records if r.method == m] for m in run.methods}
    tokens = {m: np.array([r.prompt_tokens for r in records]) for m, records in by_method.items()}
    assert (tokens["instruction"] - tokens["none"] == 2).all()
    assert (tokens["persona"] - tokens["none"] == 8).all()
    assert (tokens["bm25-1"] > tokens["none"] + 20).all()
    for record in run.records:
        assert 0 < record.first_s <= record.answer_s
        assert record.prediction.strip() == record.prediction
        assert record.beam is None
        assert record.history == 3
        # The mean of a model that knows nothing would be log 49152 = 10.8 nats.
        assert 0 < record.nats / record.target_tokens < 9
    assert "<table" in (tmp_path / "out.html").read_text()
    assert run.golds.keys() == run.inputs.keys() == {r.id for r in run.records}


def test_an_open_answer_is_greedy_and_the_gold_is_scored_with_its_end(tiny, headlines, tmp_path):
    words = [*files(headlines), *tiny, "--methods", "none,persona,swapped", "--json",
             str(tmp_path / "o.json"), "--decode", "both", "--limit", "3"]  # fmt: skip
    main(words)
    args = parse(words)
    records = {(r.id, r.method): r for r in Run.load(tmp_path / "o.json").records}
    asked = [Asked(*pair) for pair in with_swaps(choose(args.questions, args.outputs, 3, 0), 0)]
    with open_setup(args) as setup:
        bench = Bench(setup.llm, setup.plug, instruction=setup.instruction)
        for a in asked:
            for method in args.methods:
                record = records[a.question.id, method.name]
                segments = bench.compose(method, a).segments
                sampling = Sampling(temperature=0, max_tokens=48)
                assert record.prediction == setup.llm.generate(segments, sampling).read().strip()
                [score] = setup.llm.score(segments, [a.question.output], end=True)
                # Float weights: another past of the context shows in the last bits.
                assert record.nats == pytest.approx(-score.logprob, rel=1e-4)
                assert record.target_tokens == score.tokens
                assert score.tokens == len(setup.llm.tokenize(a.question.output)) + 1
                beam = setup.llm.beam_search(segments, width=4, max_tokens=48)
                assert record.beam == beam.text.strip()


def test_the_history_that_swapped_sees_is_another_user_s(tiny, headlines, tmp_path):
    out = tmp_path / "o.json"
    main([*files(headlines), *tiny, "--methods", "persona,swapped", "--json", str(out)])
    run = Run.load(out)
    args = parse([*files(headlines), *tiny, "--methods", "swapped", "--json", str(out)])
    histories = {}
    for question in choose(args.questions, args.outputs, None, 0):
        histories[question.user] = question.history
    pairs = list(with_swaps(choose(args.questions, args.outputs, None, 0), 0))
    with open_setup(args) as setup:
        bench = Bench(setup.llm, setup.plug)
        persona = parse_method("persona")
        for question, swap in pairs:
            assert swap != question.history
            assert swap in histories.values()
            given = Asked(dataclasses.replace(question, history=swap))
            [score] = setup.llm.score(
                bench.compose(persona, given).segments, [question.output], end=True
            )
            [record] = [r for r in run.records if (r.id, r.method) == (question.id, "swapped")]
            assert record.nats == pytest.approx(-score.logprob, rel=1e-4)
    nats = {m: [r.nats for r in run.records if r.method == m] for m in run.methods}
    assert nats["persona"] != nats["swapped"]


@pytest.mark.parametrize("task", [1, 2, 3])
def test_closed_tasks_are_answered_by_their_most_likely_option(tiny, tmp_path, task):
    folder = lamp.write(tmp_path, task=task, users=2, each=2, notes=3)
    out = tmp_path / "o.json"
    words = [*files(folder), *tiny, "--methods", "none,recency-1", "--json", str(out)]
    main([*words, "--decode", "both"])
    run = Run.load(out)
    args = parse(words)
    offered = {1: ("[1]", "[2]"), 2: lamp.MOVIE_TAGS, 3: ("1", "2", "3", "4", "5")}[task]
    with open_setup(args) as setup:
        bench = Bench(setup.llm, setup.plug)
        for question in choose(args.questions, args.outputs, None, 0):
            segments = bench.compose(parse_method("recency-1"), Asked(question)).segments
            scores = setup.llm.score(segments, offered, end=True)
            [record] = [r for r in run.records if (r.id, r.method) == (question.id, "recency-1")]
            assert record.prediction == max(scores, key=lambda s: s.logprob).option
            [gold] = [s for s in scores if s.option == question.output]
            assert record.nats == pytest.approx(-gold.logprob, rel=1e-4)
            assert record.target_tokens == gold.tokens
            assert record.beam is None


def test_a_gold_that_is_no_option_is_scored_all_the_same(tiny, tmp_path):
    folder = lamp.write(tmp_path, task=3, users=1, each=1, notes=3)
    lamp.write_json(
        folder / "dev_outputs.json",
        {"task": "LaMP_3_style", "golds": [{"id": "0003", "output": "4.5"}]},
    )
    main([*files(folder), *tiny, "--methods", "none", "--json", str(tmp_path / "o.json")])
    [record] = Run.load(tmp_path / "o.json").records
    assert record.prediction in ("1", "2", "3", "4", "5")
    assert record.target_tokens == 4


def test_what_is_trained_for_a_user_is_for_a_sample_of_them(tiny, tmp_path):
    folder = lamp.write(tmp_path, task=6, users=3, each=2, notes=3)
    out = tmp_path / "o.json"
    words = [*files(folder), *tiny, "--json", str(out), "--sample-users", "1"]
    main([*words, "--methods", "none,usertuned,instruction+usertuned,lora"])
    run = Run.load(out)
    sampled = [r for r in run.records if r.method != "none"]
    tuned = ["usertuned", "instruction+usertuned", "lora"]
    assert [r.method for r in sampled] == [name for name in tuned for _ in range(2)]
    [user] = {r.user for r in sampled}
    none = {r.id: r for r in run.records if r.method == "none"}
    assert {r.id for r in sampled} == {id_ for id_, r in none.items() if r.user == user}
    extra = {"usertuned": N_SOFT, "instruction+usertuned": 2, "lora": 0}
    for record in sampled:
        plain = none[record.id]
        assert record.prompt_tokens == plain.prompt_tokens + extra[record.method]
        assert record.target_tokens == plain.target_tokens
        assert record.nats != plain.nats
    nats = {m: sum(r.nats for r in sampled if r.method == m) for m in tuned}
    # Three notes in one manner are easy to learn from, even for a model of random weights.
    assert nats["usertuned"] < sum(none[r.id].nats for r in sampled if r.method == "usertuned")
    # The same users the next time, and none of them trained for again.
    main([*words, "--methods", "usertuned"])
    assert Run.load(out).records == sampled[:2]


def test_torch_is_loaded_for_those_who_need_it_only(tiny, headlines, tmp_path):
    words = [*files(headlines), *tiny, "--methods", "none,bm25-1,persona,swapped", "--limit", "2"]
    code = (
        "import sys; from export.evaluate import main; main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code, *words, "--json", str(tmp_path / "o.json")],
        check=True,
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )


# --- stopping and going on ------------------------------------------------------------------------


class Stopped(Journal):
    """A journal during whose fifth record somebody presses Ctrl-C."""

    def add(self, record: Record) -> None:
        super().add(record)
        if len(self.records) == 5:
            raise KeyboardInterrupt


def test_a_stopped_run_goes_on_to_the_run_that_a_straight_one_gives(
    tiny, headlines, tmp_path, monkeypatch, capsys
):
    words = [*files(headlines), *tiny, "--methods", METHODS]
    straight, stopped = tmp_path / "straight.json", tmp_path / "stopped.json"
    main([*words, "--json", str(straight)])
    with monkeypatch.context() as patch:
        patch.setattr("export.evaluation.runner.Journal", Stopped)
        with pytest.raises(SystemExit) as caught:
            main([*words, "--json", str(stopped)])
    assert caught.value.code == 130
    assert f"goes on from {stopped}l" in capsys.readouterr().err
    assert not stopped.exists()
    with open(f"{stopped}l", "ab") as journal:  # A power cut in the middle of a line.
        journal.write(b'{"id": "0004", "us')
    main([*words, "--json", str(stopped)])
    assert without_seconds(Run.load(stopped)) == without_seconds(Run.load(straight))
    # Seconds too, of what had been answered before.
    lines = (tmp_path / "stopped.jsonl").read_text().splitlines()
    first = [json.loads(line) for line in lines[1:6]]
    kept = [dataclasses.asdict(r) for r in Run.load(stopped).records]
    assert all(record in kept for record in first)


def test_more_methods_are_added_to_a_finished_run_and_fewer_are_shown(tiny, headlines, tmp_path):
    out = tmp_path / "o.json"
    words = [*files(headlines), *tiny, "--json", str(out), "--limit", "2"]
    main([*words, "--methods", "none"])
    first = Run.load(out).records
    main([*words, "--methods", "instruction,none"])
    both = Run.load(out)
    assert both.methods == ["instruction", "none"]
    assert both.records[2:] == first  # not asked again: the very seconds are the same
    main([*words, "--methods", "instruction"])
    assert Run.load(out).records == both.records[:2]


def test_other_settings_are_not_mixed_in(tiny, headlines, tmp_path):
    words = [*files(headlines), *tiny, "--methods", "none", "--json", str(tmp_path / "o.json")]
    main([*words, "--limit", "1"])
    with pytest.raises(SystemExit, match=r"^export.evaluate: .*other settings \(limit, seed\)"):
        main([*words, "--limit", "2", "--seed", "1"])
    with pytest.raises(SystemExit, match=r"other settings \(dry_multiplier\)"):
        main([*words, "--limit", "1", "--dry-multiplier", "0"])


def test_the_guard_against_loops_reaches_greedy_answers(tiny, headlines, tmp_path):
    words = [*files(headlines), *tiny, "--methods", "none", "--limit", "2", "--json"]
    written = {}
    for dry in ("0", "5"):
        out = tmp_path / f"{dry}.json"
        main([*words, str(out), "--dry-multiplier", dry])
        written[dry] = Run.load(out).records
    free, held = ([r.prediction for r in written[dry]] for dry in ("0", "5"))
    assert free != held
    assert [r.nats for r in written["0"]] == [r.nats for r in written["5"]]


def test_cut_prompts_are_counted_and_so_they_are_when_a_run_goes_on(
    tiny, headlines, tmp_path, capsys
):
    words = [*files(headlines), *tiny, "--methods", "none,bm25-4", "--context", "300"]
    for _ in range(2):
        main([*words, "--json", str(tmp_path / "o.json"), "--limit", "2"])
        assert Run.load(tmp_path / "o.json").settings["shortened"] == {"bm25-4": 2}
        assert "bm25-4: 2 prompts were cut to fit 300 tokens" in capsys.readouterr().out


# --- predictions ----------------------------------------------------------------------------------


def test_predictions_are_official_files_one_a_method(tiny, headlines, tmp_path, capsys):
    folder = tmp_path / "predictions"
    words = [*files(headlines), *tiny, "--methods", "none,persona", "--decode", "both"]
    main([*words, "--json", str(tmp_path / "o.json"), "--predictions", str(folder)])
    run = Run.load(tmp_path / "o.json")
    names = {"none.json", "none.beam.json", "persona.json", "persona.beam.json"}
    assert {path.name for path in folder.iterdir()} == names
    for name in names:
        value = json.loads((folder / name).read_text())
        assert list(value) == ["task", "golds"]
        assert value["task"] == "LaMP_4_style"
        field = "beam" if ".beam" in name else "prediction"
        assert value["golds"] == [
            {"id": r.id, "output": getattr(r, field)}
            for r in run.records
            if r.method == name.split(".")[0]
        ]
    assert not capsys.readouterr().err


def test_a_beam_alone_is_the_answer_and_a_partial_file_is_warned_of(
    tiny, headlines, tmp_path, capsys
):
    folder = tmp_path / "predictions"
    words = [*files(headlines), *tiny, "--methods", "none", "--limit", "1"]
    main([*words, "--decode", "both", "--json", str(tmp_path / "a.json")])
    main([*words, "--decode", "beam", "--json", str(tmp_path / "b.json"),
          "--predictions", str(folder)])  # fmt: skip
    [both], [alone] = (Run.load(tmp_path / f"{name}.json").records for name in "ab")
    assert (alone.prediction, alone.beam) == (both.beam, None)
    assert [path.name for path in folder.iterdir()] == ["none.beam.json"]
    assert "have 1 of 6 ids" in capsys.readouterr().err


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "none,persons"], "no method 'persons'"),
        (["--methods", "none,bm25-0"], "no method 'bm25-0'"),
        (["--methods", "none,none"], "--methods names 'none' twice"),
        (["--methods", "instruction+bm25-1"], "instruction+bm25-1 needs --instruction"),
        (["--methods", "none", "--against", "persona"], "--against persona: not among"),
        (["--methods", "none", "--limit", "0"], "must be a whole number above 0, not '0'"),
        (["--methods", "none", "--seed", "-1"], "--seed must be 0 to"),
        (["--methods", "none", "--html", "nowhere/x.html"], "there is no folder nowhere"),
        (["--methods", "none", "--decode", "wide"], "invalid choice"),
        (["--methods", "none", "--dry-multiplier", "-1"], "must be a number, 0 or more, not '-1'"),
        (["--methods", "none", "--dry-multiplier", "nan"], "must be a number, 0 or more"),
    ],
)
def test_a_bad_command_is_refused_before_anything_is_opened(words, said, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        parse(["--questions", "q", "--outputs", "o", "--json", str(tmp_path / "o.json"), *words])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def refused(words, tmp_path) -> str:
    """The one line that a run ends with that cannot begin."""
    with pytest.raises(SystemExit) as caught:
        main([*words, "--json", str(tmp_path / "o.json")])
    said = str(caught.value.code)
    assert re.fullmatch(r"export\.evaluate: .+", said)
    assert not list(tmp_path.glob("o.json*"))
    return said


def test_what_does_not_fit_together_is_refused_in_one_line(tiny, headlines, tmp_path):
    default = ["--plug", str(find_plug()), "--llm", str(find_model())]
    open_task, none = files(headlines), ["--methods", "none"]
    assert "another model" in refused([*open_task, *tiny, *none, *default[:2]], tmp_path)
    np.save(tmp_path / "i.npy", np.zeros((2, 5), np.float32))
    wrong = ["--instruction", str(tmp_path / "i.npy")]
    assert "not float32 [2, 5]" in refused([*open_task, *tiny, *none, *wrong], tmp_path)
    np.savez(tmp_path / "i.npz", np.zeros((2, 5), np.float32))
    archive = ["--instruction", str(tmp_path / "i.npz")]
    assert "i.npz: holds arr_0; an instruction's archive holds soft" in refused(
        [*open_task, *tiny, *none, *archive], tmp_path
    )
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    pickled = ["--instruction", str(tmp_path / "o.npy")]
    assert "o.npy: not an array that" in refused([*open_task, *tiny, *none, *pickled], tmp_path)
    nothing = ["--instruction", str(tmp_path / "none.npy")]
    assert "none.npy" in refused([*open_task, *tiny, *none, *nothing], tmp_path)
    titles = files(lamp.write(tmp_path, task=1))
    assert "lora: the notes of LaMP_1_style are titles" in refused(
        [*titles, *tiny, "--methods", "none,lora"], tmp_path
    )
    missing = ["--questions", "nowhere.json", "--outputs", str(headlines / "dev_outputs.json")]
    assert "nowhere.json" in refused([*missing, *tiny, *none], tmp_path)
    alone = files(lamp.write(tmp_path / "alone", task=4, users=1))
    assert "nobody to swap with" in refused([*alone, *tiny, "--methods", "swapped"], tmp_path)
    plain = [*open_task, *tiny, "--methods", "persona-noinstruction"]
    assert "n_instruction" in refused(plain, tmp_path)
    memory = [*open_task, *tiny, "--methods", "none,literal"]
    assert "no n-gram cache" in refused(memory, tmp_path)


def test_a_context_that_holds_no_prompt_at_all_is_refused(tiny, headlines, tmp_path):
    words = [*files(headlines), *tiny, "--methods", "none", "--context", "8"]
    assert "larger context" in refused(words, tmp_path)
