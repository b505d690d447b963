"""The page of pairs: whole, seeded, unselected, and safe for whatever an answer holds."""

import json

import pytest

from export.experiments.side_by_side import PROMPTS, Pair, main, show
from ppedge.notes.reader import Note
from tests import tiny_gguf, tiny_plug


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    model = tiny_gguf.write(folder / "tiny.gguf")
    plug = tiny_plug.write(folder / "plug", model)
    for name in ("ann", "bob"):
        lines = [json.dumps({"text": f"{name} says {i}"}) for i in range(3)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    files = [str(folder / "ann.jsonl"), str(folder / "bob.jsonl")]
    return ["--notes", *files, "--llm", str(model), "--plug", str(plug)]


def test_every_prompt_is_answered_twice_and_the_seed_settles_all(words, tmp_path):
    out, told = tmp_path / "pairs.md", tmp_path / "pairs.json"
    main([*words, "--out", str(out), "--json", str(told), "--seed", "3"])
    pairs = json.loads(told.read_text())
    assert sorted(pair["prompt"] for pair in pairs) == sorted(PROMPTS)
    assert {pair["notes"] for pair in pairs} == set(words[1:3])
    assert len({pair["seed"] for pair in pairs}) == len(PROMPTS)
    page = out.read_bytes().decode()  # a carriage return in an answer stays one
    assert all(pair["answer"] in page and pair["without"] in page for pair in pairs)
    assert "--seed 3" in page
    again = tmp_path / "again.md"
    main([*words, "--out", str(again), "--seed", "3"])
    assert again.read_bytes().decode() == page


def test_an_answer_cannot_break_out_of_its_fence():
    pair = Pair("Say.", "a.jsonl", 0, "plain", "```\n# not a heading\n````")
    page = show([pair], {"a.jsonl": [Note("hi")]}, "command")
    assert "`````text\n```\n# not a heading\n````\n`````" in page


def test_what_cannot_be_read_or_written_ends_in_one_line(words, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^export\.experiments\.side_by_side: .*none\.jsonl"):
        main(["--notes", str(tmp_path / "none.jsonl"), *words[3:], "--out", str(tmp_path / "a.md")])
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path)])
    assert "is a folder; name a file" in capsys.readouterr().err


def test_a_file_without_notes_is_no_voice(words, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    out = tmp_path / "a.md"
    told = r"^export\.experiments\.side_by_side: .*empty\.jsonl: holds no notes"
    with pytest.raises(SystemExit, match=told):
        main(["--notes", str(empty), *words[1:], "--out", str(out)])
    assert not out.exists()
