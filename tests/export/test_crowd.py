"""The soft tokens of a crowd: they are of the plug, of many people, and of nobody."""

import dataclasses

import numpy as np
import pytest

from export.crowd import crowd, main
from export.data import read_questions
from export.methods import read_instruction
from export.persona_methods import NoteVectors, attend, soft_tokens
from ppedge.plug import Plug
from tests import tiny_gguf, tiny_plug
from tests.export import lamp


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crowd")
    model = tiny_gguf.write(folder / "tiny.gguf")
    plug = tiny_plug.write(folder / "plug", model)
    return plug, lamp.write(folder / "data", 6, split="train", users=6).parent


@pytest.fixture(scope="module")
def plug(files):
    return Plug(files[0])


@pytest.fixture(scope="module")
def questions(files):
    return list(read_questions(files[1] / "LaMP_6_style", "train"))


def test_a_crowd_of_one_is_that_person_s_note(plug, questions):
    [one] = {q.user: q for q in questions if q.user == questions[0].user}.values()
    one = dataclasses.replace(one, history=one.history[:1])
    rows = NoteVectors(plug).rows(one.history)
    wanted = soft_tokens(plug, attend(plug, one.input, rows))
    assert np.array_equal(crowd(plug, [one], notes=64, prompts=16, seed=0), wanted)


def test_a_crowd_is_drawn_by_its_seed(plug, questions):
    def found(seed=0, **more):
        return crowd(plug, questions, **{"notes": 3, "prompts": 2, **more}, seed=seed)

    assert np.array_equal(found(), found())
    assert not np.array_equal(found(), found(seed=1))
    assert not np.array_equal(found(), found(notes=1))


def test_what_a_crowd_says_is_averaged_over_prompts(plug, questions):
    note = questions[0].history[:1]
    people = [
        dataclasses.replace(questions[0], user=prompt, input=prompt, history=note)
        for prompt in ("Say why the cache failed.", "Write about rain")
    ]
    rows = NoteVectors(plug).rows(note * 2)
    said = [soft_tokens(plug, attend(plug, each.input, rows)) for each in people]
    found = crowd(plug, people, notes=2, prompts=2, seed=0)
    assert found == pytest.approx((said[0] + said[1]) / 2, abs=1e-6)
    assert not np.array_equal(said[0], said[1])


def test_a_crowd_without_notes_is_refused(plug, questions):
    silent = [dataclasses.replace(q, history=()) for q in questions]
    with pytest.raises(ValueError, match="nobody here has a note"):
        crowd(plug, silent, notes=3, prompts=2, seed=0)


def test_the_command_writes_an_instruction_that_evaluation_takes(files, plug, tmp_path, capsys):
    words = [str(files[0]), "--data", str(files[1]), "--task", "6"]
    main([*words, "--out", str(tmp_path / "crowd.npy")])
    projector = plug.manifest.projector
    rows = read_instruction(tmp_path / "crowd.npy", plug.manifest.llm.n_embd)
    assert len(rows) == projector.n_soft
    assert str(tmp_path / "crowd.npy") in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^export\.crowd: .*LaMP_7_style"):
        main([*words[:-1], "7", "--out", str(tmp_path / "none.npy")])
    assert not (tmp_path / "none.npy").exists()
