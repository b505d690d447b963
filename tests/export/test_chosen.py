"""Kept soft tokens that learn from answers which are better than others, in a tiny form."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export import chosen, kept, preferences
from export.models.base_llm import FrozenLLM
from export.package.kept_graph import read_head
from export.tools.json_files import DataError
from export.training.preference import (
    CUT,
    FAULT,
    Pair,
    Person,
    Preference,
    pair_of,
    quality,
    read_people,
)
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.plug.plug import Plug
from tests import tiny_plug
from tests.export import lamp

ASKED = "What do you like?"
ANSWER = {
    "text": "the tea is in the large red pot on the shelf",
    "tokens": [5, 6, 7],
    "end": 2,
    "style": 0.5,
    "relevance": 0.4,
    "logprob": -1.0,
    "bare": -2.0,
    "faults": 0,
    "is_cut": False,
}


@pytest.fixture
def plug(tmp_path, tiny_gguf, lamp_folder, corpus):
    """A plug whose kept soft tokens are of export.kept, taught one step."""
    bare = tiny_plug.write(tmp_path / "bare", tiny_gguf, template=tiny_plug.CHAT_TEMPLATE)
    folder = tmp_path / "plug"
    words = f"{bare} {folder} --data {lamp_folder} --llm {tiny_gguf} --corpus {corpus}"
    words += f" --out {tmp_path / 'kept.pt'} --tasks 6 --steps 1 --batch 8 --rows 2 --rank 3"
    kept.main([*words.split(), "--dtype", "float32", "--lr", "0.05", "--shares", "0=1,6=1"])
    return folder


def answer(**other):
    return {**ANSWER, **other}


def asking(**other):
    """A line of somebody with an answer that is not as it should be."""
    asked = {"prompt": ASKED, "answers": [answer(relevance=0.1), answer(**other)]}
    return json.dumps({"turns": [["?", "a"]], "notes": [["", "a"]], "asked": [asked]})


def people(path, n_people=3, n_pairs=2):
    """A file of people, each with so many pairs of a better and a worse answer."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(n_people):
            good = answer(relevance=0.9, tokens=[20 + number, 30, 31])
            bad = answer(relevance=0.1, tokens=[40 + number, 41])
            asked = [
                {"prompt": f"What of {number} and {i}?", "answers": [bad, answer(), good]}
                for i in range(n_pairs)
            ]
            notes = [["", f"note {i} of {number}"] for i in range(4)]
            turns = [["Tell me.", f"note 0 of {number}"], ["And?", f"note 1 of {number}"]]
            line = {"kind": "persona", "notes": notes, "turns": turns, "asked": asked}
            print(json.dumps(line), file=file)
    return path


# --- which answer is the better one ---


@pytest.mark.parametrize(
    "worse",
    [
        {"style": 0.1},
        {"relevance": 0.1},
        {"bare": -3.0},
        {"is_cut": True},
        {"faults": 1},
        {"text": "tea in the pot"},
        {"text": "the tea is in the pot and the tea is in the pot"},
        {"text": "tea and tea or tea with tea is tea for tea"},
    ],
)
def test_an_answer_is_worse_by_each_of_its_flaws(worse):
    assert quality(ASKED, answer(**worse)) < quality(ASKED, ANSWER)


def test_quality_is_its_formula():
    whole = quality(ASKED, ANSWER)
    assert whole == pytest.approx(0.5 * 0.5 + 0.4 - 0.4 * 2.0 - 0.06 * 3)
    assert whole - quality(ASKED, answer(is_cut=True)) == pytest.approx(CUT)
    assert whole - quality(ASKED, answer(faults=2)) == pytest.approx(2 * FAULT)
    assert quality(ASKED, answer(style=1.5)) == quality(ASKED, answer(style=9.0))
    assert whole - quality("Is tea in the large pot?", ANSWER) == pytest.approx(1.5 * 3 / 11)
    assert quality(ASKED, answer(bare=-1.2)) == quality(ASKED, answer(bare=-0.5))


def test_a_pair_is_the_best_and_the_worst_without_a_fault():
    best, worst = answer(relevance=0.9, tokens=[1]), answer(relevance=0.1, tokens=[2], end=None)
    faulty = answer(faults=1, tokens=[3])
    assert pair_of(ASKED, [worst, faulty, best, answer()]) == Pair(ASKED, (1, 2), (2,))
    assert pair_of(ASKED, [answer(), answer(relevance=0.5)]) is None
    assert pair_of(ASKED, [answer(), faulty]) is None
    bad = answer(relevance=0.0, tokens=[1])
    assert pair_of(ASKED, [bad, answer(relevance=-0.9, tokens=[2])]) is None


def test_people_without_a_pair_are_left_out(tmp_path):
    path = people(tmp_path / "people.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["turns"] = []
    lines[1]["asked"][0]["answers"] = [ANSWER, ANSWER]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert [len(person.pairs) for person in read_people(path)] == [1, 2]


def test_other_line_breaks_are_part_of_a_text(tmp_path):
    path = people(tmp_path / "people.jsonl", n_people=1)
    line = json.loads(path.read_text())
    line["notes"][0][1] = "one\u2028two\x85three"
    path.write_text(json.dumps(line, ensure_ascii=False) + "\n", "utf-8")
    assert read_people(path)[0].notes[0].output == "one\u2028two\x85three"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not of export.preferences"),
        ("{}", "line 1 is not of export.preferences: KeyError"),
        ('{"turns": [], "notes": [], "asked": []}', "nobody in it has turns and two answers"),
        ("5", "line 1 is not of export.preferences: TypeError"),
        (asking(text=5), "line 1 is not of export.preferences: AttributeError"),
        (asking(tokens=["a"], relevance=0.9), "line 1 is not of export.preferences: TypeError"),
        ("\x80", "people.jsonl: byte 1 is not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, line, message):
    (tmp_path / "people.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=message):
        read_people(tmp_path / "people.jsonl")


# --- the loss ---


def test_the_loss_is_its_formula(plug, tmp_path, tiny_gguf):
    given = Plug(plug)
    llm = FrozenLLM(tiny_gguf, given.manifest.template, torch.float32)
    head = read_head(given)
    turns = (Note("the tea is hot", "Tell me of tea."), Note("no rain", "And the rain?"))
    person = Person(turns, (*turns, Note("more")), (Pair("What of it?", (20, 30, 2), (40, 41)),))
    objective = Preference(
        given, llm, head, [person], [person], n_people=4, beta=0.7, anchor=0.25, seed=0
    )
    ((loss, told),) = objective.dev()
    nll = told[0, 2]
    assert float(loss) == pytest.approx(math.log(2) + 0.25 * nll, rel=1e-4)
    with torch.no_grad():
        head.up.bias.add_(0.3)
    ((loss, told),) = objective.step(0)

    def logprob(kept, answer):
        text = "".join(
            f"<|im_start|>user\n{turn.input}<|im_end|>\n<|im_start|>assistant\n"
            f"{turn.output}<|im_end|>\n"
            for turn in turns
        )
        ids = [*llm.words.start, *llm.tokens(text, special=True)]
        behind = "<|im_start|>user\nWhat of it?<|im_end|>\n<|im_start|>assistant\n"
        rest = [*llm.tokens(behind, special=True), *answer]
        rows = torch.cat([llm.table[ids], kept, llm.table[rest]])[None]
        logits = llm.model(inputs_embeds=rows).logits[0, -len(answer) - 1 : -1]
        return -float(F.cross_entropy(logits, torch.tensor(answer), reduction="sum"))

    pooled = objective._pooled_of(person)
    before = torch.from_numpy(given.project_kept(pooled))
    with torch.inference_mode():
        now = head(torch.from_numpy(pooled))
        pair = person.pairs[0]
        gained = [logprob(now, ids) - logprob(before, ids) for ids in (pair.better, pair.worse)]
        nll = -logprob(now, pair.better) / 3
    wanted = -math.log(1 / (1 + math.exp(-0.7 * (gained[0] - gained[1])))) + 0.25 * nll
    assert float(loss) == pytest.approx(wanted, rel=1e-3)
    assert told[0, 1] == (gained[0] > gained[1])


# --- the commands ---


@pytest.fixture
def run(plug, tmp_path, tiny_gguf, capsys):
    """Teach a few steps; returns the new plug's folder and what was printed."""
    given = [plug, tmp_path / "new", "--llm", tiny_gguf, "--out", tmp_path / "chosen.pt"]
    given += ["--preferences", people(tmp_path / "train.jsonl")]
    given += ["--dev", people(tmp_path / "dev.jsonl", 2)]
    settings = "--steps 6 --people 2 --save-every 3 --dtype float32 --lr 0.05 --beta 0.5"
    given += settings.split()

    def run(*more):
        capsys.readouterr()
        chosen.main([str(word) for word in (*given, *more)])
        return tmp_path / "new", capsys.readouterr().out

    return run


def test_the_better_answers_gain_on_the_worse(run, plug):
    folder, printed = run()
    told = [json.loads(line) for line in printed.splitlines() if line.startswith('{"step"')]
    assert [each["step"] for each in told] == [0, 3, 6]
    assert told[0]["dev"]["preference"] == pytest.approx(math.log(2), abs=1e-3)
    assert told[-1]["dev"]["preference"] < 0.6
    assert told[-1]["dev"]["preferred"] == 1.0
    found, before = Plug(folder), Plug(plug)
    assert found.space.layout == before.space.layout
    about = found.manifest.about["kept soft tokens"]
    assert about["steps"] == 1  # What they were before is still told.
    assert [each["dev people"] for each in about["chosen"]] == [told[-1]["dev"]]
    pooled = np.linspace(-1, 1, tiny_plug.D_VALUE, dtype=np.float32)
    assert np.abs(found.project_kept(pooled) - before.project_kept(pooled)).max() > 1e-3


def test_a_share_of_the_way_is_between(run, plug, tmp_path):
    before, whole = read_head(Plug(plug)), read_head(Plug(run()[0]))
    shutil.rmtree(tmp_path / "new")
    folder, printed = run("--share", "0.25")
    assert "resumed at step 6" in printed
    assert Plug(folder).manifest.about["kept soft tokens"]["chosen"][-1]["share"] == 0.25
    half = read_head(Plug(folder)).state_dict()
    for name, value in before.state_dict().items():
        wanted = 0.75 * value + 0.25 * whole.state_dict()[name]
        torch.testing.assert_close(half[name], wanted, atol=1e-6, rtol=1e-5)


def test_a_second_round_is_told_beside_the_first(run, plug, tmp_path):
    first, _ = run()
    shutil.rmtree(plug)
    shutil.move(first, plug)
    (tmp_path / "chosen.pt").unlink()
    second, _ = run("--share", "0.5")
    rounds = Plug(second).manifest.about["kept soft tokens"]["chosen"]
    assert [each["share"] for each in rounds] == [1.0, 0.5]
    assert [each["plug"] for each in rounds][1] == Plug(plug).sha256


def test_a_run_goes_on_where_it_stopped(run, tmp_path):
    whole, _ = run()
    shutil.move(whole, tmp_path / "whole")
    (tmp_path / "chosen.pt").unlink()
    with pytest.MonkeyPatch.context() as patch:
        step = chosen.Run.take_step

        def stopped(self):
            if self.step == 4:
                raise KeyboardInterrupt
            return step(self)

        patch.setattr(chosen.Run, "take_step", stopped)
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == 130
    halves, printed = run()
    assert "resumed at step 3" in printed
    one, other = (Plug(each).project_kept(np.ones(tiny_plug.D_VALUE, np.float32))
                  for each in (tmp_path / "whole", halves))  # fmt: skip
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_plug_without_kept_soft_tokens_is_refused(run, plug, tmp_path, tiny_gguf):
    shutil.rmtree(plug)
    tiny_plug.write(plug, tiny_gguf, template=tiny_plug.CHAT_TEMPLATE)
    with pytest.raises(SystemExit, match=r"has no kept soft tokens to begin from \(export.kept\)"):
        run()


def test_kept_soft_tokens_of_another_make_are_refused(run, plug, tiny_gguf):
    shutil.rmtree(plug)
    tiny_plug.write(plug, tiny_gguf, template=tiny_plug.CHAT_TEMPLATE, n_kept=2)
    with pytest.raises(SystemExit, match=r"kept\.onnx is not of export.kept"):
        run()


def test_answers_of_another_model_are_refused(run, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(path.read_text().replace("[20, 30, 31]", "[20, 30, 49000]"))
    with pytest.raises(SystemExit, match="answers have tokens that the model has not"):
        run()


@pytest.fixture
def ask(plug, tmp_path, tiny_gguf, corpus):
    """Ask a few people."""
    for split in ("train", "dev"):
        lamp.write(tmp_path, 6, split=split, notes=9)
    given = f"--plug {plug} --llm {tiny_gguf} --data {tmp_path} --corpus {corpus} --tasks 6"
    given += " --people 3 --prompts 2 --answers 2 --threads 1"

    def ask(name, *more):
        path = tmp_path / name
        preferences.main([*given.split(), "--out", str(path), *more])
        return path.read_text("utf-8")

    return ask


def test_people_are_asked_and_their_answers_judged(ask, tmp_path):
    lines = [json.loads(line) for line in ask("train.jsonl").splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert len(line["asked"]) == 2
        assert 1 <= len(line["turns"]) <= 8
        outputs = [output for _, output in line["notes"]]
        assert all(any(said in output for output in outputs) for _, said in line["turns"])
        for each in line["asked"]:
            assert len(each["answers"]) == 2
            assert all(ANSWER.keys() <= answer.keys() for answer in each["answers"])


def test_the_bare_models_likelihood_is_that_of_the_scores(tiny_gguf):
    with Personalizer.open(tiny_gguf, "none", n_threads=1) as opened:
        found = preferences.bare_logprobs(opened, ASKED, ["", "the tea", "a", "the tea"])
        (score,) = opened.llm.score(opened.segments(ASKED, None), ["the tea"])
        assert found[0] == 0.0
        assert found[1] == found[3] == score.mean != found[2]
        assert preferences.bare_logprobs(opened, ASKED, [""]) == [0.0]


def test_dev_is_asked_other_prompts(ask):
    asked = [
        {each["prompt"] for line in text.splitlines() for each in json.loads(line)["asked"]}
        for text in (ask("train.jsonl"), ask("dev.jsonl", "--dev"))
    ]
    assert not asked[0] & asked[1]
    words = ["--data", ".", "--corpus", "x", "--out", "y"]
    train, dev = (
        preferences.asked_of(preferences.parse([*words, *more])) for more in ([], ["--dev"])
    )
    assert len(train) > 6 * len(dev) > 600
    assert not set(train) & set(dev)


def test_a_stopped_file_goes_on_to_the_same(ask, tmp_path):
    whole = ask("train.jsonl")
    lines = whole.splitlines(keepends=True)
    (tmp_path / "half.jsonl").write_text(lines[0] + lines[1][:40], "utf-8")
    assert ask("half.jsonl") == whole


@pytest.mark.parametrize(
    "text", ["my diary, in one line", '{"a": 1}\n', "5\n", '{"settings": 5}\n']
)
def test_a_file_of_something_else_stays_as_it_is(ask, tmp_path, text):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(SystemExit, match=r"holds no line of export\.preferences to go on"):
        ask("mine.txt")
    assert (tmp_path / "mine.txt").read_text() == text


def test_a_file_of_other_settings_stays_as_it_is(ask, tmp_path):
    whole = ask("train.jsonl", "--people", "1")
    with pytest.raises(SystemExit, match=r"begun with other settings \(dev, seed\)"):
        ask("train.jsonl", "--dev", "--seed", "4")
    assert (tmp_path / "train.jsonl").read_text("utf-8") == whole


def test_one_answer_is_no_choice(ask):
    with pytest.raises(SystemExit) as ended:
        ask("train.jsonl", "--answers", "1")
    assert ended.value.code == 2
