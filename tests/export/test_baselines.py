import math
import subprocess
import sys

import pytest

from export.baselines.retrieval import (
    Dense,
    _bm25_index,
    prompt_with_notes,
    rank_bm25,
    rank_recency,
)
from export.data.lamp import Question
from ppedge.defaults import find_model
from ppedge.llm.llm import LLM
from ppedge.notes.reader import Note

INPUTS = {
    1: 'For an author who has written the paper with the title "On Trees", which reference is '
    'related? Just answer with [1] or [2] without explanation. [1]: "A" [2]: "B"',
    2: "Which tag does this movie relate to among the following tags? Just answer with the tag "
    "name without further explanation. tags: [sci-fi, comedy] description: A ship sinks.",
    3: "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, "
    "4, or 5 without further explanation. review: Dull.",
    4: "Generate a headline for the following article: A cat was found.",
    5: "Generate a title for the following abstract of a paper: We parse.",
    6: "Generate a subject for the following commit message: It leaked.",
    7: "Paraphrase the following text into tweet without any explanation before or after it: go",
}
FISH = Note("Salmon swim upstream", "Every year the salmon return to the river.", id="0")
BIKE = Note("New bicycle lanes", "The city paints bicycle lanes on two streets.", id="1")
TAX = Note("Tax bill fails", "The senate voted against the tax bill.", id="2")


def question(task=4, history=(), asked=None) -> Question:
    return Question("q1", "ann", task, asked or INPUTS[task], "gold", tuple(history))


def article(text: str) -> str:
    return "Generate a headline for the following article: " + text


@pytest.fixture(scope="module")
def count():
    with LLM(find_model()) as llm:
        yield lambda text: len(llm.tokenize(text))


@pytest.fixture(scope="module")
def dense() -> Dense:
    return Dense()


# --- which notes ------------------------------------------------------------------------------


def test_recency_takes_the_last_notes_the_latest_first():
    assert rank_recency(question(history=[FISH, BIKE, TAX]), 2) == [TAX, BIKE]


def test_recency_goes_by_time_where_every_note_has_one():
    old, new, same = (Note("a", time=time) for time in (1.0, 9.0, 1.0))
    assert rank_recency(question(history=[new, old, same]), 3) == [new, same, old]
    untimed = Note("b")
    assert rank_recency(question(history=[new, untimed]), 1) == [untimed]


def test_bm25_picks_the_note_that_shares_the_rare_words():
    asked = question(history=[FISH, BIKE, TAX], asked=article("Bicycle lanes, the council said"))
    assert rank_bm25(asked, 1) == [BIKE]


def test_bm25_asks_with_the_article_and_not_with_the_words_of_the_instruction():
    decoy = Note("Generate a headline for the following article", "headline article", id="3")
    asked = question(history=[FISH, decoy], asked=article("salmon"))
    assert rank_bm25(asked, 1) == [FISH]


def test_bm25_scores_are_those_of_its_formula():
    # idf = ln(1 + (N - n + 0.5) / (n + 0.5)); "a" is in one of two notes, each of two words.
    scores = _bm25_index((Note("a b"), Note("b c"))).scores(["a", "b", "unknown"])
    rare, common = math.log(1 + 1.5 / 1.5), math.log(1 + 0.5 / 2.5)
    part = 1 / (1 + 1.5)  # tf / (tf + k1 (1 - b + b length / mean length))
    assert scores == pytest.approx([part * (rare + common), part * common])


@pytest.mark.parametrize("asked", ["zebra", "!?", "salmon zebra"])
def test_bm25_prefers_the_later_of_equals(asked):
    twin = Note(FISH.output, FISH.input, id="9")
    ranked = rank_bm25(question(history=[FISH, twin, BIKE], asked=article(asked)), 3)
    assert ranked.index(twin) < ranked.index(FISH)


def test_bm25_lives_with_notes_that_hold_no_words():
    emoji = Note("\N{PARTY POPPER}", id="5")
    assert rank_bm25(question(history=[emoji]), 4) == [emoji]
    assert rank_bm25(question(history=[emoji, FISH], asked=article("salmon")), 1) == [FISH]


def test_dense_picks_the_note_of_like_meaning_without_a_shared_word(dense):
    asked = question(history=[FISH, BIKE, TAX], asked=article("Cyclists get safer roads"))
    assert dense.rank(asked, 1) == [BIKE]


def test_dense_prefers_the_later_of_equals(dense):
    twin = Note(FISH.output, FISH.input, id="9")
    assert dense.rank(question(history=[FISH, twin], asked=article("trout")), 1) == [twin]


def test_a_small_memory_ranks_the_same(dense):
    small = Dense(keep=1)
    for history in ([FISH, BIKE, TAX], [TAX, FISH]):
        asked = question(history=history, asked=article("Politicians and their money"))
        assert small.rank(asked, 3) == dense.rank(asked, 3)
    assert len(small._features.vectors) <= 3  # one history and the last query


@pytest.mark.parametrize("k", [1, 4])
def test_no_history_gives_no_notes_and_few_notes_are_all_of_them(dense, k):
    for rank in (rank_recency, rank_bm25, dense.rank):
        assert rank(question(), k) == []
        assert len(rank(question(history=[FISH, BIKE]), k)) == min(k, 2)


def test_ranks_do_not_depend_on_the_run():
    """Sets of strings are ordered by a seed that changes from process to process."""
    code = (
        "from export.baselines.retrieval import rank_bm25\n"
        "from export.data.lamp import Question\nfrom ppedge.notes.reader import Note\n"
        "words = 'ash birch cedar date elm fir gum hazel iris'.split()\n"
        "notes = tuple(Note(' '.join(words[i:] + words[:i][::2]), id=str(i)) for i in range(9))\n"
        "asked = Question('q', 'u', 4, 'Generate a headline for the following article: '\n"
        "    + ' '.join(words), '', notes)\n"
        "print([note.id for note in rank_bm25(asked, 9)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_only_dense_retrieval_loads_torch():
    code = "import sys, export.baselines.retrieval; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


# --- how they stand in the prompt -------------------------------------------------------------

BEST, SECOND = Note("out one", "in one"), Note("out two", "in two")
EXPECTED = {
    1: 'For an author who has written the paper with the title "On Trees", and "out two", and '
    '"out one", which reference is related? Just answer with [1] or [2] without explanation. '
    '[1]: "A" [2]: "B"',
    2: 'the tag for the movie: "in two" is "out two", and the tag for the movie: "in one" is '
    '"out one". ' + INPUTS[2],
    3: 'out two is the score for "in two", and out one is the score for "in one". ' + INPUTS[3],
    4: '"out two" is the title for "in two", and "out one" is the title for "in one". ' + INPUTS[4],
    5: '"out two" is a title for "in two", and "out one" is a title for "in one". '
    "Following the given patterns " + INPUTS[5],
    6: '"out two" is the title for "in two", and "out one" is the title for "in one". ' + INPUTS[6],
    7: '"out two", and "out one" are written by a person. Following the given patterns '
    + INPUTS[7],
}


@pytest.mark.parametrize("task", sorted(EXPECTED))
def test_notes_stand_in_the_words_of_their_task_the_best_one_last(count, task):
    prompt = prompt_with_notes(question(task), [BEST, SECOND], count=count)
    assert prompt == EXPECTED[task]


def test_the_older_news_version_of_task_2_asks_for_categories(count):
    asked = "Which category does this article relate to? categories: [a, b] article: It rained."
    prompt = prompt_with_notes(question(2, asked=asked), [BEST], count=count)
    assert prompt == 'the category for the article: "in one" is "out one". ' + asked


@pytest.mark.parametrize("task", sorted(EXPECTED))
def test_without_notes_the_prompt_is_plain(count, task):
    assert prompt_with_notes(question(task), [], count=count) == INPUTS[task]


LONG = " ".join(f"word{i}" for i in range(400))


def long_notes(task):
    if task == 7:
        return [Note(f"tweet {i} {LONG}") for i in range(4)]
    return [Note(f"title {i}", f"input {i} {LONG}") for i in range(4)]


@pytest.mark.parametrize("task", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("budget", [100, 333, 1024])
def test_the_budget_holds_outputs_stay_whole_and_inputs_are_cut_between_words(count, task, budget):
    notes = long_notes(task)
    prompt = prompt_with_notes(question(task), notes, count=count, budget=budget)
    lead = prompt.removesuffix(INPUTS[task])
    assert lead != prompt
    assert 0.8 * budget < count(lead) <= budget
    for i in range(4):
        assert f"title {i}" in lead or f"tweet {i}" in lead
    assert all(
        word.strip('",.') in LONG.split() for word in lead.split() if word.startswith("word")
    )


def test_what_a_short_note_leaves_goes_to_the_long_ones(count):
    short, long = Note("s", "short"), Note("l", LONG)
    for notes in ([short, long], [long, short]):
        prompt = prompt_with_notes(question(), notes, count=count, budget=300)
        assert '"s" is the title for "short"' in prompt
        assert count(prompt.removesuffix(INPUTS[4])) > 270


def test_notes_whose_outputs_find_no_room_are_left_out_the_worst_first(count):
    notes = [Note(f"title {i} " + "x" * 40, "text") for i in range(4)]
    prompt = prompt_with_notes(question(), notes, count=count, budget=60)
    kept = [i for i in range(4) if f"title {i} " in prompt]
    assert kept
    assert kept == list(range(len(kept)))
    assert len(kept) < 4
    assert prompt_with_notes(question(), notes, count=count, budget=3) == INPUTS[4]


def test_titles_of_task_1_are_never_cut(count):
    notes = [Note(f"Title {i} of a paper on trees") for i in range(20)]
    prompt = prompt_with_notes(question(1), notes, count=count, budget=80)
    shown = prompt.split("On Trees")[1].split(", which")[0]
    inserted = shown.removeprefix('", and "').removesuffix('"').split('", and "')
    assert inserted == [f"Title {i} of a paper on trees" for i in reversed(range(len(inserted)))]
    assert 0 < len(inserted) < 20


def test_a_task_1_question_in_other_words_is_refused_by_name(count):
    with pytest.raises(ValueError, match=r"^question q1: .*which reference is related"):
        prompt_with_notes(question(1, asked="Which one?"), [BEST], count=count)
