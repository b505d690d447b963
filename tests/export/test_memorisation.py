"""The memorisation check: what it takes for a run of words that was learned by heart."""

import gzip
import json
import shutil

import pytest

from export.experiments import memorisation
from export.experiments.memorisation import Sampled, main, runs_of, search
from tests.export.conftest import commit

TEXT = "The quick brown fox jumps over the lazy dog."


def test_runs_take_no_notice_of_case_and_punctuation():
    assert runs_of("One, two; THREE four", 3) == {("one", "two", "three"), ("two", "three", "four")}
    assert runs_of("One two", 3) == set()


def test_a_training_text_in_an_answer_is_found():
    runs = runs_of("he said: the QUICK brown fox jumps high", 5)
    sampled = [Sampled("Say it.", "an answer", runs)]
    found = search(sampled, ["Nothing here.", TEXT, TEXT], 5)
    assert found == {("the", "quick", "brown", "fox", "jumps")}
    assert search(sampled, ["The quick brown cat jumps over."], 5) == set()


def test_the_command_tells_training_texts_from_the_user_s_own(
    lamp_folder, tmp_path, capsys, monkeypatch
):
    folder = shutil.copytree(lamp_folder, tmp_path / "data") / "LaMP_6_style"
    secret = "The brass lamp on the long shelf was polished on a Tuesday."
    path = folder / "train_questions.json.gz"
    questions = json.loads(gzip.decompress(path.read_bytes()))
    questions[0]["profile"].append({"id": "9", "text": secret, "title": "core: polish"})
    path.write_bytes(gzip.compress(json.dumps(questions).encode()))
    # A commit of the dev users' own, which is in the training set too, and one that is not theirs.
    said = f"Sure. {commit(2)} {secret}"
    monkeypatch.setattr(memorisation.LLM, "generate", lambda *_, **__: _Said(said))
    out = tmp_path / "found.json"
    words = ["--data", str(folder.parent), "--tasks", "6", "--answers", "2", "--threads", "1"]
    main([*words, "--words", "10", "--json", str(out)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("2 of 2 answers hold 3 runs of 10 words")
    assert sorted(shown[1:]) == [
        "- brass lamp on the long shelf was polished on a",
        "- lamp on the long shelf was polished on a tuesday",
        "- the brass lamp on the long shelf was polished on",
    ]
    told = json.loads(out.read_text())
    assert [each["answer"] for each in told] == [said, said]
    assert [len(each["found"]) for each in told] == [3, 3]


def test_counts_below_one_are_usage_errors(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--data", ".", "--words", "0"])
    assert error.value.code == 2
    assert "--words: must be a whole number above 0, not '0'" in capsys.readouterr().err


class _Said:
    def __init__(self, text):
        self._text = text

    def read(self):
        return self._text
