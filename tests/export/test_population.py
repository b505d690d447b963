"""The soft tokens of a population: they are of the plug, of many people, and of nobody."""

import dataclasses

import numpy as np
import pytest

from export.data.lamp import read_questions
from export.evaluation.instruction import read_instruction
from export.evaluation.persona_methods import attend, project
from export.models.note_vectors import NoteVectors
from export.population import main, population
from ppedge.llm.segments import Soft
from ppedge.plug.plug import Plug
from tests import tiny_gguf, tiny_plug
from tests.export import lamp

N_CONTROL = tiny_gguf.N_LAYER - 1


def same(one: Soft, other: Soft) -> None:
    assert np.array_equal(one.vectors, other.vectors)
    assert np.array_equal(one.control, other.control)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")
    model = tiny_gguf.write(folder / "tiny.gguf")
    plug = tiny_plug.write(folder / "plug", model, n_control=N_CONTROL)
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
    wanted = project(plug, attend(plug, one.input, rows))
    same(population(plug, [one], notes=64, prompts=16, seed=0), wanted)


def test_a_crowd_is_drawn_by_its_seed(plug, questions):
    def found(seed=0, **more):
        return population(plug, questions, **{"notes": 3, "prompts": 2, **more}, seed=seed)

    same(found(), found())
    for other in (found(seed=1), found(notes=1)):
        assert not np.array_equal(found().vectors, other.vectors)
        assert not np.array_equal(found().control, other.control)


def test_what_a_crowd_says_is_averaged_over_prompts(plug, questions):
    note = questions[0].history[:1]
    people = [
        dataclasses.replace(questions[0], user=prompt, input=prompt, history=note)
        for prompt in ("Say why the cache failed.", "Write about rain")
    ]
    rows = NoteVectors(plug).rows(note * 2)
    said = [project(plug, attend(plug, each.input, rows)) for each in people]
    found = population(plug, people, notes=2, prompts=2, seed=0)
    for part in ("vectors", "control"):
        one, other = (getattr(each, part) for each in said)
        assert getattr(found, part) == pytest.approx((one + other) / 2, abs=1e-6)
        assert not np.array_equal(one, other)


def test_a_crowd_without_notes_is_refused(plug, questions):
    silent = [dataclasses.replace(q, history=()) for q in questions]
    with pytest.raises(ValueError, match="nobody here has a note"):
        population(plug, silent, notes=3, prompts=2, seed=0)


def test_the_command_writes_an_instruction_that_evaluation_takes(
    files, plug, questions, tmp_path, capsys
):
    words = [str(files[0]), "--data", str(files[1]), "--task", "6"]
    main([*words, "--out", str(tmp_path / "population.npz")])
    projector, n_embd = plug.manifest.projector, plug.manifest.llm.n_embd
    found = read_instruction(tmp_path / "population.npz", n_embd, projector.n_control + 1)
    assert len(found.vectors) == projector.n_soft
    same(found, population(plug, questions, notes=64, prompts=16, seed=0))
    assert str(tmp_path / "population.npz") in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"control vector for this model is float32 \[8, 64\]"):
        read_instruction(tmp_path / "population.npz", n_embd, 9)
    with pytest.raises(SystemExit, match=r"^export\.population: .*LaMP_7_style"):
        main([*words[:-1], "7", "--out", str(tmp_path / "none.npz")])
    assert not (tmp_path / "none.npz").exists()
