"""The texts of everybody are the model's own, and their file is what the run time reads."""

import json

import pytest

from export.everybody import EACH, main
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


def test_what_cannot_be_done_is_told_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^export\.everybody: "):
        main(["--out", str(tmp_path / "a.json"), "--llm", str(tmp_path / "none.gguf")])
