"""Answers of several threads: each as it would be alone, ended by a close, timed, and left behind.

With the default model; what hangs on the architecture or on an option, with tiny ones.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ppedge import Answer, Blend, ModelError, Note, Persona, Personalizer, Sampling
from ppedge.turns.form import Turn
from tests import tiny_gguf, tiny_plug

PROMPT = "Write a short note about the weather"
WARM = Sampling(temperature=0.8, max_tokens=16, seed=4)
LONG = Sampling(temperature=0.8, max_tokens=600, seed=4)
RAMBLE = "Write a very long story about everything that ever happened to you"


def rambling(personalizer: Personalizer, **options: Any) -> Answer:
    """A bare answer of hundreds of tokens."""
    return personalizer.stream(RAMBLE, None, LONG, **options)


def ask_all(personalizer: Personalizer, people: dict[str, Persona]) -> list[Answer]:
    """An answer for each person, one for nobody, and one of a conversation."""
    said = [Turn("How are you?", "Quite well, and the bread is out.")]
    return [
        *(personalizer.stream(PROMPT, persona, WARM) for persona in people.values()),
        personalizer.stream(PROMPT, None, WARM),
        personalizer.stream(PROMPT, people["doctor"], WARM, conversation=said),
    ]


@pytest.fixture(scope="module")
def alone(personalizer: Personalizer, people: dict[str, Persona]) -> list[list[str]]:
    """The pieces of each answer of `ask_all`, read one after the other."""
    found = [list(answer) for answer in ask_all(personalizer, people)]
    assert len(set(map("".join, found))) == len(found)
    assert all(len(pieces) >= 4 for pieces in found)
    return found


# --- several at once ---


def test_threads_get_what_they_would_get_alone(
    personalizer: Personalizer, people: dict[str, Persona], alone: list[list[str]]
) -> None:
    answers = ask_all(personalizer, people)
    together = threading.Barrier(len(answers))
    came: list[int] = []

    def read(number: int) -> list[str]:
        together.wait()
        pieces = []
        for piece in answers[number]:
            came.append(number)
            pieces.append(piece)
            time.sleep(0.002)  # As a reader who does something with it.
        return pieces

    with ThreadPoolExecutor(len(answers)) as workers:
        assert list(workers.map(read, range(len(answers)))) == alone
    # They took turns: not one whole answer after the other.
    switches = sum(one != other for one, other in pairwise(came))
    assert switches > 2 * len(answers)


def test_one_thread_may_read_several_answers_piece_by_piece(
    personalizer: Personalizer, people: dict[str, Persona], alone: list[list[str]]
) -> None:
    assert in_turn(ask_all(personalizer, people)) == alone


def in_turn(answers: list[Answer]) -> list[list[str]]:
    """The pieces of answers that are read a piece of this, a piece of that."""
    found: list[list[str]] = [[] for _ in answers]
    left = dict(enumerate(answers))
    while left:
        for number, answer in list(left.items()):
            piece = next(answer, None)
            if piece is None:
                del left[number]
            else:
                found[number].append(piece)
    return found


def test_threads_that_share_an_answer_get_each_piece_once(
    personalizer: Personalizer, people: dict[str, Persona], alone: list[list[str]]
) -> None:
    answer = personalizer.stream(PROMPT, people["captain"], WARM)
    with ThreadPoolExecutor(3) as workers:
        parts = [work.result() for work in [workers.submit(list, answer) for _ in range(3)]]
    assert sorted(piece for part in parts for piece in part) == sorted(alone[0])
    assert answer.text == "".join(alone[0])


def test_more_answers_than_are_kept_beside_each_other_come_out_right(
    personalizer: Personalizer, alone: list[list[str]]
) -> None:
    short = Sampling(temperature=0.8, max_tokens=2, seed=4)
    asked = [f"{day} words, please" for day in range(10)]
    one_by_one = [list(personalizer.stream(prompt, None, short)) for prompt in asked]
    assert in_turn([personalizer.stream(prompt, None, short) for prompt in asked]) == one_by_one


OPTIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "pushed": {"strength": 1.5},
    "best of two": {"best_of": 2},
    "soft tokens": {"blend": Blend(soft=True, control=1.0, ngrams=True)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("architecture", ["llama", "mamba", "t5"])
def test_every_kind_of_answer_and_model_takes_turns(
    architecture: str, options: dict[str, Any], tmp_path: Path
) -> None:
    steered = architecture == "llama"
    blend = options.get("blend")
    if blend and not steered:
        pytest.skip("a tiny plug of this model has no control vector")
    model = tiny_gguf.write(tmp_path / "tiny.gguf", architecture)
    plug: Path | str = "none"
    if blend:
        plug = tiny_plug.write(tmp_path / "plug", model, n_control=tiny_gguf.N_LAYER - 1)
    sampling = Sampling(temperature=0.9, max_tokens=10, seed=2)
    notes = {"ann": [Note(f"bread {i}!") for i in range(9)], "ben": [Note("no RAIN today")] * 3}
    with Personalizer.open(model, plug, n_threads=1) as opened:
        people = []
        for name, texts in notes.items():
            people.append(opened.persona(tmp_path / name))
            people[-1].add(texts, opened.plug.encode_notes)

        def ask() -> list[Answer]:
            return [opened.stream("rain?", person, sampling, **options) for person in people]

        one_by_one = [list(answer) for answer in ask()]
        assert in_turn(ask()) == one_by_one
        with ThreadPoolExecutor(2) as workers:
            assert list(workers.map(list, ask())) == one_by_one
        for person in people:
            person.close()


def test_nobody_is_given_what_was_made_of_somebody_elses_notes(tmp_path: Path) -> None:
    """Two people's stores may be of one version, and their turns of one length."""
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    sampling = Sampling(temperature=0, max_tokens=8)
    told: list[str] = []
    for _ in range(2):  # The second time, what was read is on disk.
        with (
            Personalizer.open(model, "none", n_threads=1, notify=told.append) as opened,
            opened.persona(tmp_path / "ann") as ann,
            opened.persona(tmp_path / "ben") as ben,
        ):
            for person, text in ((ann, "zzzz xxxx"), (ben, "xxxx zzzz")):
                person.sync([Note(text, input="q", id="1")], opened.plug.encode_notes)
            assert ann.version() == ben.version()
            first = opened.stream("rain?", ann, sampling)
            second = opened.stream("rain?", ben, sampling)
            assert first.generation.prompt_tokens == second.generation.prompt_tokens
            found = [first.read(), second.read()]
            opened.llm.clear()
            assert [opened.stream("rain?", who, sampling).read() for who in (ann, ben)] == found
    assert len(told) == 2


# --- closing ---


@pytest.fixture
def own() -> Iterator[Personalizer]:
    """A model of its own, to be closed."""
    with Personalizer.open() as opened:
        yield opened


def test_closing_ends_what_other_threads_read_with_a_clear_error(own: Personalizer) -> None:
    answers = [rambling(own) for _ in range(3)]
    begun = threading.Barrier(4)

    def read(answer: Answer) -> str:
        next(answer)
        begun.wait()
        with pytest.raises(ModelError) as caught:
            answer.read()
        assert answer.finish is None
        return str(caught.value)

    with ThreadPoolExecutor(3) as workers:
        reading = [workers.submit(read, answer) for answer in answers]
        begun.wait()
        began = time.monotonic()
        own.close()
        assert time.monotonic() - began < 5  # Long before those answers would have ended.
        for work in reading:
            assert work.result(10) == f"{own.llm.path}: this model has been closed"
    with pytest.raises(ModelError, match="this model has been closed"):
        rambling(own)


def test_closing_ends_a_long_prompt_that_is_being_read(own: Personalizer) -> None:
    answer = own.stream("bread and oats, " * 400, None, Sampling(max_tokens=1))
    failed: list[BaseException] = []

    def read() -> None:
        try:
            answer.read()
        except ModelError as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while thread.is_alive() and not is_busy(own):
        time.sleep(0.001)
    own.close()
    thread.join(10)
    assert [str(error) for error in failed] == [f"{own.llm.path}: this model has been closed"]


def is_busy(personalizer: Personalizer) -> bool:
    """Whether another thread decodes at this moment."""
    lock = personalizer.llm._model.lock
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


def test_what_was_closed_leaves_no_thread_and_no_file_open(tmp_path: Path) -> None:
    def use() -> None:
        with Personalizer.open() as opened, opened.persona(tmp_path / "me") as persona:
            persona.sync([Note("the bread is out", id="1")], opened.plug.encode_notes)
            opened.stream(PROMPT, persona, Sampling(max_tokens=4), timeout=60).read()
            left = opened.stream(PROMPT, persona, Sampling(max_tokens=400), timeout=60)
            next(left)  # Somebody goes away in the middle.

    def held() -> tuple[int, list[str]]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), [each.name for each in threading.enumerate()]

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list a process's open files")
    use()  # Libraries keep what they open once.
    before = held()
    for _ in range(3):
        use()
    assert held() == before


# --- time ---


def test_an_answer_ends_when_its_time_is_up(personalizer: Personalizer) -> None:
    next(rambling(personalizer))  # Now the prompt is read.
    answer = rambling(personalizer, timeout=0.5)
    began = time.monotonic()
    pieces = list(answer)
    assert 0.5 <= time.monotonic() - began < 5
    assert answer.finish == "timeout"
    assert answer.text == "".join(pieces) != ""
    assert answer.generation.new_tokens < 600


def test_time_counts_from_the_first_piece_and_ends_the_reading_of_a_prompt(
    personalizer: Personalizer,
) -> None:
    personalizer.llm.clear()
    answer = personalizer.stream("oats and bread, " * 400, None, timeout=0.05)
    time.sleep(0.1)
    assert answer.finish is None
    assert (answer.read(), answer.finish) == ("", "timeout")


def test_an_answer_in_time_is_not_ended_and_its_clock_is_stopped(
    personalizer: Personalizer, people: dict[str, Persona], alone: list[list[str]]
) -> None:
    answer = personalizer.stream(PROMPT, people["captain"], WARM, timeout=60)
    assert list(answer) == alone[0]
    assert answer.finish in ("stop", "length")
    for clock in [each for each in threading.enumerate() if isinstance(each, threading.Timer)]:
        clock.join(10)
        assert not clock.is_alive()


def test_the_best_of_several_ends_in_time_too(
    personalizer: Personalizer, people: dict[str, Persona]
) -> None:
    answer = personalizer.stream(RAMBLE, people["captain"], LONG, best_of=4, timeout=0.3)
    answer.read()
    assert answer.finish == "timeout"


def test_a_cancelled_answer_is_not_one_that_timed_out(personalizer: Personalizer) -> None:
    answer = rambling(personalizer, timeout=60)
    next(answer)
    answer.cancel()
    answer.read()
    assert answer.finish == "cancelled"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_time_that_cannot_be_waited_for_is_refused(
    personalizer: Personalizer, timeout: float
) -> None:
    with pytest.raises(ModelError, match="timeout must be a number of seconds above 0, not"):
        personalizer.stream(PROMPT, timeout=timeout)
