"""The texts of everybody are the model's own, and their file is what the run time reads."""

import json
from pathlib import Path

import pytest

from export.everybody import EACH, main
from ppedge.defaults import find_model
from ppedge.llm.llm import LLM
from ppedge.style import manner
from ppedge.style.manner import Voices
from tests import tiny_gguf


def test_texts_are_written_and_the_same_again(tmp_path):
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    for name in ("a.json", "b.json"):
        main(["--out", str(tmp_path / name), "--llm", str(model), "--count", "2"])
    data = json.loads((tmp_path / "a.json").read_text())
    assert len(data["texts"]) == 2 * EACH
    assert {type(each["text"]) for each in data["texts"]} == {str}
    assert {type(each["ended"]) for each in data["texts"]} == {bool}
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()


def test_the_counts_that_ship_are_those_of_the_texts_that_ship():
    with LLM(find_model(), n_threads=1) as llm:
        voices = Voices(llm)
        shipped = voices.everybody
        assert not voices.shapes._known  # They were read, and not made.
        texts = json.loads(Path(manner.__file__).with_name("everybody.json").read_text())["texts"]
        counted = voices.count(texts)
        assert shipped.tables() == counted.tables()
        assert shipped.shapes == counted.shapes


def test_another_tokenizer_counts_for_itself(tmp_path):
    with LLM(tiny_gguf.write(tmp_path / "tiny.gguf"), n_threads=1) as llm:
        voices = Voices(llm)
        assert voices.everybody.tables()
        assert voices.shapes._known


def test_what_cannot_be_done_is_told_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^export\.everybody: "):
        main(["--out", str(tmp_path / "a.json"), "--llm", str(tmp_path / "none.gguf")])
