"""Other quantisations of a model, as a plug may meet them."""

from __future__ import annotations

import pytest

from export.experiments.quantise import main
from ppedge.llm.llm import LLM
from tests import tiny_gguf


def test_another_quantisation_is_another_file_of_the_same_model(tmp_path, capsys):
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    main([str(model), "--type", "Q8_0", "--out", str(tmp_path / "q8.gguf"), "--threads", "1"])
    assert "Q8_0" in capsys.readouterr().out
    with LLM(model, n_ctx=32) as one, LLM(tmp_path / "q8.gguf", n_ctx=32) as other:
        assert one.identity != other.identity
        assert one.fingerprint.tokenizer_sha256 == other.fingerprint.tokenizer_sha256
        assert one.n_embd == other.n_embd


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"^export\.experiments\.quantise: .*model\.gguf"):
        main([str(path), "--type", "Q4_0", "--out", str(tmp_path / "out.gguf")])


def test_a_file_that_is_there_is_not_written_over(tmp_path, capsys):
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    before = model.read_bytes()
    with pytest.raises(SystemExit):
        main([str(model), "--type", "Q4_0", "--out", str(model)])
    assert "exists already" in capsys.readouterr().err
    assert model.read_bytes() == before
