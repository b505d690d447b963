"""How a person writes: shapes of tokens, the ratio to everybody, and the rules for answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppedge.style.ending import Ending
from ppedge.style.model import MAX_RATIO, ShapeCounts, StyleModel
from ppedge.style.rules import NoCopying, NoEcho, NoFiller, NoLoops
from ppedge.style.ruling import Pieces, Rules
from ppedge.style.shapes import END, LIKELY, Shapes, likeliest, text_shape
from ppedge.style.topic import Topic
from ppedge.style.words import quantile, words_of

END_TOKEN = 0


class Letters:
    """A vocabulary of characters, and the end."""

    def piece(self, token: int) -> bytes:
        return chr(token).encode() if token else b""

    def is_end(self, token: int) -> bool:
        return token == END_TOKEN


def ids(text: str, *, end: bool = True) -> list[int]:
    return [*map(ord, text), *([END_TOKEN] if end else [])]


def model(notes: list[str], everybody: list[str], weight: float = 1.0) -> StyleModel:
    shapes = Shapes(Letters())
    counts = ShapeCounts([[shapes(token) for token in ids(text)] for text in everybody])
    person = ShapeCounts([[shapes(token) for token in ids(note)] for note in notes])
    return StyleModel(shapes, person, counts, weight)


def rules_of(
    ending: Ending, copying: NoCopying | None = None, filler: NoFiller | None = None
) -> Rules:
    copying, filler = copying or NoCopying([]), filler or NoFiller()
    return Rules(Pieces(Letters()), END_TOKEN, copying, NoLoops(), filler, ending)


def flat() -> np.ndarray:
    return np.zeros(128, np.float32)


# --- the likeliest tokens ---


def ensure_likeliest(logits: np.ndarray, ruled_out: float, seed: int) -> None:
    logits[np.random.default_rng(seed).random(len(logits)) < ruled_out] = -np.inf
    found, n_possible = likeliest(logits), int(np.isfinite(logits).sum())
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == min(LIKELY, n_possible)
    assert sorted(logits[found]) == sorted(logits)[len(logits) - len(found) :]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=900), st.floats(0, 1), st.integers(0, 99))
def test_the_likeliest_are_those_of_the_highest_logits(
    levels: list[int], ruled_out: float, seed: int
) -> None:
    ensure_likeliest(np.array(levels, np.float32), ruled_out, seed)


@given(st.integers(1024, 6000), st.integers(2, 5000), st.floats(0, 1), st.integers(0, 99))
def test_they_are_so_in_a_large_vocabulary(
    size: int, n_levels: int, ruled_out: float, seed: int
) -> None:
    levels = np.random.default_rng(seed + 100).integers(0, n_levels, size)
    ensure_likeliest(levels.astype(np.float32), ruled_out, seed)


# --- shapes ---


@pytest.mark.parametrize(
    ("piece", "shape"),
    [
        (" hello", " a"),
        ("hello", "a"),
        (" Hello", " Aa"),
        (" HELLO", " A"),
        (" I", " I"),
        ("iPhone", "aA"),
        (" 2024", " 9"),
        ("'s", "'s"),
        ("’t", "'s"),
        (" don't", " mixed"),
        (" —", " —"),
        ("!", "!"),
        ("!!", "!!"),
        ("\n", "break 1"),
        ("\n\n\n", "break 2"),
        (".\n", "break 1"),
        ("  ", "'  '"),
        ("é", "a"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_the_shape_of_a_piece(piece: str, shape: str) -> None:
    assert text_shape(piece.encode()) == shape


def test_a_part_of_a_character_is_its_bytes() -> None:
    assert text_shape("\U0001f600".encode()[:2]) == "f09f"


@given(st.binary())
def test_every_piece_has_a_shape(piece: bytes) -> None:
    assert isinstance(text_shape(piece), str)


def test_a_token_that_ends_a_text_is_an_end_whatever_its_piece() -> None:
    assert Shapes(Letters())(END_TOKEN) == END


# --- the ratio ---


def test_what_the_person_does_more_than_others_gains_and_the_rest_loses() -> None:
    found = model(["ab!", "ba!", "aa!"], ["ab.", "ba.", "aa."]).process(
        flat(), ids("ab", end=False)
    )
    assert found[ord("!")] > 0 > found[ord(".")]


def test_who_writes_like_everybody_gains_and_loses_nothing() -> None:
    texts = ["ab.", "ba.", "aa."]
    same = model(texts, texts).process(flat(), ids("ab", end=False))
    other = model(["AB!"] * 3, texts).process(flat(), ids("ab", end=False))
    assert abs(same[ord(".")]) < abs(other[ord("!")]) / 2


def test_the_formula_by_hand() -> None:
    # Known shapes: a, ".", "!" and the end. After nothing: everybody saw "a" three times of 3.
    style = model(["a!"], ["a."])
    uniform = 1 / 4
    counts = {"a": 1, ".": 1, END: 1}  # everybody's unigrams: 3 places in 3 ways
    share = 3 / (3 + 3)
    p0 = {s: (1 - share) * uniform + share * counts.get(s, 0) / 3 for s in ("a", ".", "!", END)}
    # In the context of two starts, and of one, "a" came once in one way.
    p1 = {s: 0.5 * p0[s] + 0.5 * (s == "a") for s in p0}
    everybody = {s: 0.5 * p1[s] + 0.5 * (s == "a") for s in p1}
    own = {"a": 1, "!": 1, END: 1}
    share = 3 / (3 + 2 * 3)
    q0 = {s: (1 - share) * everybody[s] + share * own.get(s, 0) / 3 for s in everybody}
    share = 1 / (1 + 2)
    q1 = {s: (1 - share) * q0[s] + share * (s == "a") for s in q0}
    person = {s: (1 - share) * q1[s] + share * (s == "a") for s in q1}
    found = style.process(flat(), [])
    assert found[ord("a")] == pytest.approx(math.log(person["a"] / everybody["a"]), rel=1e-5)
    assert found[ord("!")] == pytest.approx(math.log(person["!"] / everybody["!"]), rel=1e-5)


def test_the_weight_scales_it_and_nought_leaves_the_likely_tokens_as_they_are() -> None:
    one, two, none = (
        model(["ab!"], ["ab."], weight).process(flat(), ids("ab", end=False))
        for weight in (1.0, 2.0, 0.0)
    )
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    assert not none.any()


def test_only_the_likeliest_tokens_stay_possible() -> None:
    logits = np.linspace(0, 1, 2 * LIKELY, dtype=np.float32)
    found = model(["ab!"], ["ab."]).process(logits.copy(), [])
    assert np.isfinite(found).sum() == LIKELY
    assert np.isneginf(found[:LIKELY]).all()


def test_a_text_like_the_person_s_scores_higher() -> None:
    style = model(["ab!", "ba!", "aab!"], ["ab.", "ba.", "aab."])
    assert style.score(ids("bab!")) > 0 > style.score(ids("bab."))
    assert style.score([]) == 0


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5), st.text(max_size=30))
def test_ratios_are_bounded_whatever_the_notes(notes: list[str], text: str) -> None:
    style = model(notes, ["ab.", "Ba!"])
    assert abs(style.score(ids(text))) <= MAX_RATIO


# --- copying ---

RUN = "one two three four five six seven eight"


def test_eight_words_of_a_note_are_a_copy_and_seven_are_none() -> None:
    rule = NoCopying([f"well, {RUN}, and more"])
    assert rule.copies(f"so: {RUN.upper()}!")
    assert not rule.copies(RUN.removesuffix(" eight"))


def test_what_stands_in_many_notes_is_a_habit_and_may_come_again() -> None:
    notes = [f"{i} {RUN}" for i in range(3)]
    assert not NoCopying(notes).copies(RUN)
    assert NoCopying(notes[:2]).copies(RUN)


def test_the_word_that_would_complete_a_copy_is_known() -> None:
    rule = NoCopying([RUN])
    assert rule.forbidden(RUN.removesuffix(" eight")) == {"eight"}
    assert rule.forbidden("one two three") == set()


def test_a_copy_cannot_be_drawn_letter_by_letter() -> None:
    rules = rules_of(Ending([RUN], [100]), NoCopying([RUN]))
    found = rules.process(flat(), ids(RUN.removesuffix("eight"), end=False))
    assert np.isfinite(found[ord("e")])  # It may yet become "elephant".
    found = rules.process(flat(), ids(RUN.removesuffix("ht"), end=False))
    assert np.isneginf(found[ord("h")])
    assert np.isfinite(found[ord("n")])


# --- the topic ---


class Words(Letters):
    """A vocabulary whose tokens are characters, but for what it was asked to cut."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def tokenize(self, text: str) -> list[int]:
        self.words.append(text)
        return [len(self.words)]


def test_the_prompt_s_words_gain_until_they_are_said() -> None:
    topic = Topic(vocabulary := Words(), "Write about the broken kettle", 2.0)
    assert vocabulary.words[:3] == [" broken", " Broken", " BROKEN"]
    found = topic.process(flat(), ids("a broken thing", end=False))
    gained = {vocabulary.words[token - 1] for token in np.flatnonzero(found).tolist()}
    assert gained == {" kettle", " Kettle", " KETTLE"}
    assert set(found[found != 0].tolist()) == {2.0}


def test_a_prompt_that_tells_nothing_changes_nothing() -> None:
    assert not Topic(Words(), "so?", 2.0).process(flat(), []).any()


# --- loops ---


def test_four_words_come_once_and_three_words_twice() -> None:
    loops = NoLoops()
    assert "for" in loops.forbidden("it is good for us and it is good")
    assert "good" not in loops.forbidden("it is good, it is")
    assert "good" in loops.forbidden("it is good, so it is good, yes it is")


def test_a_word_does_not_come_again_and_again() -> None:
    assert "no" in NoLoops().forbidden("no, a no b no")
    assert NoLoops().forbidden("no, a no b c d e f g h i j k no z") == {"z"}


def test_a_word_follows_itself_only_where_the_person_writes_so() -> None:
    assert NoLoops().forbidden("so cold") == {"cold"}
    assert NoLoops(["no no no, not again"]).forbidden("oh no") == set()
    assert NoLoops(["no no no, not again"]).forbidden("oh no no") == {"no"}


def test_a_longer_word_comes_three_times_in_forty() -> None:
    text = "a bread, b the bread c, d bread, e f g h"
    assert "bread" in NoLoops().forbidden(text)
    assert "bread" not in NoLoops().forbidden(text + " ." + " ".join(map(str, range(40))))


def test_two_sentences_may_open_likewise_and_no_third() -> None:
    assert "have" not in NoLoops().forbidden("I have a card. It is red. I")
    assert "have" in NoLoops().forbidden("I have a card. I have a hat! It is red. I")
    assert "have" not in NoLoops().forbidden("I have a card. I have a hat! Then I")


@pytest.mark.parametrize("text", ["1, 2, ", "Costs: 12 17 ", "at 9:30 10:30, ", "1.\n2.\n"])
def test_no_third_number_follows_two(text: str) -> None:
    assert NoLoops().too_dense(text) == ["number"]
    assert NoLoops(["call 1 2 3 at 4", *["a"] * 9]).too_dense(text) == []


def test_who_writes_numbers_writes_them_as_close_as_in_most_notes() -> None:
    loops = NoLoops(["Up at 5, in by 9.", "14 present, 3 awake.", "Rain.", "Frost, -4."])
    assert loops.too_dense("10 jars, 12 lids, & ")
    assert not loops.too_dense("10 jars, and so on, and then the lids, & the tops, & ")
    assert loops.too_dense("1 a b c d e f g 2 a b c d e f g 3 a b c d e ")
    close = NoLoops(["1 2 3 4"] * 3)
    assert not close.too_dense("1 2 3 ")
    assert close.too_dense("1 2 3 4 ")


@pytest.mark.parametrize("text", ["", "1, ", "12/03/2024", "1, 2, and then ", "at 9:30, not 10"])
def test_other_numbers_are_let_be(text: str) -> None:
    assert not NoLoops().too_dense(text)


def test_marks_do_not_take_over() -> None:
    assert NoLoops().only_marks("tea & & ")
    assert not NoLoops().only_marks("tea & milk &")
    assert not NoLoops(["tea - - - milk"]).only_marks("tea & &")
    found = rules_without_notes().process(flat(), ids("one two three four & & ", end=False))
    assert np.isneginf(found[ord("&")])
    assert np.isfinite(found[[ord("a"), END_TOKEN]]).all()


def test_a_letter_is_drawn_out_as_far_as_the_person_does() -> None:
    assert NoLoops().draws_out("so OOoo", "o")
    assert NoLoops().draws_out("soo", "oooom")
    assert not NoLoops().draws_out("soo", "oom")
    assert not NoLoops(["nooooooo!"]).draws_out("sooooo", "o")
    assert not NoLoops().draws_out("", "ooo")
    assert NoLoops().draws_out("a place to live", ",,,,,,,,")
    assert not NoLoops().draws_out("a    ", "    b")


def rules_without_notes(filler: NoFiller | None = None) -> Rules:
    return rules_of(Ending(["a b c d", "b c d e"], [99] * 2), filler=filler)


def test_an_answer_does_not_run_on_along_an_earlier_one() -> None:
    said = "it rained all day and we stayed at home with the cats"
    rules = rules_without_notes()
    begun = ids(said[: said.index("h the cats")], end=False)
    assert np.isfinite(rules.process(flat(), begun)[ord("h")])
    found = rules.beside("", [said]).process(flat(), begun)
    assert np.isneginf(found[ord("h")])
    assert np.isfinite(found[ord("b")])


def test_no_sentence_of_an_answer_begins_as_the_prompt_does() -> None:
    echo = NoEcho("How do you relax after a long day?")
    assert echo.forbidden("how do ") == {"you"}
    assert echo.forbidden("Reminder:\nHow do ") == {"you"}
    assert echo.forbidden("Thank you. How DO ") == {"you"}
    for text in ("", "how ", "how do you ", "and how do ", "how, she asked. Do "):
        assert echo.forbidden(text) == set()


@pytest.mark.parametrize("prompt", ["", "?", "Good morning", "Good morning, Tom!", "A b c, d!"])
def test_a_greeting_may_be_returned(prompt: str) -> None:
    words = prompt.split()
    for i in range(len(words) + 1):
        assert NoEcho(prompt).forbidden(" ".join(words[:i])) == set()


def test_a_prompt_said_back_cannot_be_drawn() -> None:
    rules = rules_without_notes()
    begun = ids("What should ", end=False)
    assert np.isfinite(rules.process(flat(), begun)[ord("i")])
    found = rules.beside("What should I cook tonight?", []).process(flat(), begun)
    assert np.isneginf(found[ord("i")])
    assert np.isfinite(found[ord("w")])


def test_what_a_person_writes_in_many_notes_may_come_in_each_answer() -> None:
    close = "with all my love to you and the cats"
    habits = NoCopying([f"{thing}, {close}" for thing in ("tea", "rain", "May")])
    assert NoCopying([f"well, {close}"]).copies(close)
    assert not NoCopying([f"well, {close}"], habits).copies(close)


@pytest.mark.parametrize("text", ["I'm not ", "it is NOT ", "I am not 100% "])
def test_an_answer_has_no_doubts_unless_the_person_has(text: str) -> None:
    assert {"sure", "certain"} <= NoFiller(["Sure, not today."]).forbidden(text)
    assert "sure" not in NoFiller(["I am not sure of it."]).forbidden(text)
    assert "sure" not in NoFiller().forbidden("not that it is ") | NoFiller().forbidden("a knot ")
    found = rules_without_notes().process(flat(), ids(f"{text}sur", end=False))
    assert np.isneginf(found[ord("e")])


def test_links_are_for_who_writes_them_or_is_asked_with_one() -> None:
    assert "https" in NoFiller(["no links"]).forbidden("see ")
    assert "https" not in NoFiller(["as on https://example.org"]).forbidden("see ")
    assert "www" not in NoFiller().forbidden("see ", "What is www.example.org?")


def test_tags_come_no_closer_than_in_most_notes() -> None:
    assert NoLoops().too_dense("#rain #sun and #ice ") == []
    tagger = NoLoops(["A fine day #rain", "To @ann and @bob #mtpol", ".@ann no", "no tag, a@b.org"])
    assert tagger.too_dense("#rain #sun ") == tagger.too_dense("a #rain#sun ") == ["tag"]
    assert tagger.too_dense("#rain a b c d e f g #sun a b c d e ") == []
    rules = Rules(Pieces(Letters()), END_TOKEN, NoCopying([]), tagger, NoFiller(), Ending([], []))
    found = rules.process(flat(), ids("a b c d #rain #sun ", end=False))
    assert np.isneginf(found[[ord("#"), ord("@")]]).all()
    assert np.isfinite(found[ord("s")])


def test_counting_up_cannot_be_drawn() -> None:
    found = rules_without_notes().process(flat(), ids("the best: 1, 2, ", end=False))
    assert np.isneginf(found[[ord("3"), ord(" ")]]).all()
    assert np.isfinite(found[[ord("a"), ord("\n")]]).all()


def test_square_brackets_are_for_who_writes_them() -> None:
    for brackets in (True, False):
        rules = rules_without_notes(NoFiller(["a [b]"] * brackets))
        found = rules.process(flat(), ids("dear ", end=False))
        assert np.isneginf(found[ord("[")]) != brackets


# --- the end ---

SIGNED = [
    f"a note about {thing}.\n— m, {mood}"
    for thing, mood in [
        ("rain", "damp"),
        ("bread", "floured"),
        ("snow", "cold"),
        ("cats", "scratched"),
    ]
]


def over(notes: list[str], text: str, n_tokens: int = 5) -> bool:
    return Ending(notes, [20] * len(notes)).is_over(text, n_tokens)


def test_an_answer_is_over_behind_its_sign_off() -> None:
    assert not over(SIGNED, "something about tea.")
    assert not over(SIGNED, "something about tea.\n— m, brewed")
    assert over(SIGNED, "something about tea.\n— m, brewed\n")
    assert over(SIGNED, "something about tea.\n— m, brewed and steeped")


def test_the_last_word_behind_a_sign_off_may_be_finished_and_no_other_begun() -> None:
    rules = rules_of(Ending(SIGNED, [30] * 4), NoCopying(SIGNED))
    found = rules.process(flat(), ids("something about tea.\n— m, brew", end=False))
    assert np.isfinite(found[ord("e")])
    assert np.isneginf(found[ord(" ")])
    assert found[END_TOKEN] > 0


def test_a_sign_off_without_a_line_of_its_own_is_one_too() -> None:
    things = ("tea", "rain", "May")
    notes = [f"dear you, the new {thing} is here at last, lots of love, bea xx" for thing in things]
    assert over(notes, "dear you, all is well with me, lots of love, bea xx")
    assert not over(notes, "dear you, all is well with me")


def test_a_long_answer_ends_with_its_sentence() -> None:
    assert not over(["short."] * 3, "it goes on and on", 500)
    assert over(["short."] * 3, "it goes on and on.", 500)


def test_a_sign_off_of_one_letter_is_no_part_of_a_word() -> None:
    notes = [f"the {thing} is here\nm" for thing in ("tea", "rain", "May")]
    assert over(notes, "all is well\nm\n")
    assert not over(notes, "time to make tea. mine is a mug")


def test_who_never_signs_off_is_not_ended_early() -> None:
    notes = ["the rain is here", "bread is in the oven", "a cat came by"]
    assert not over(notes, "the rain is here again")


def test_an_answer_does_not_end_before_its_fourth_word() -> None:
    rules = rules_of(Ending(["a b c d e"] * 3, [9] * 3))
    assert np.isneginf(rules.process(flat(), ids("a b c", end=False))[END_TOKEN])
    assert np.isfinite(rules.process(flat(), ids("a b c d", end=False))[END_TOKEN])


def test_who_writes_in_single_words_may_be_answered_in_one() -> None:
    rules = rules_of(Ending(["ok", "yes", "no"], [2] * 3))
    assert np.isfinite(rules.process(flat(), ids("ok", end=False))[END_TOKEN])


def test_rules_never_rule_out_everything() -> None:
    rules = rules_of(Ending(["a b c d e"] * 3, [9] * 3))
    logits = np.full(128, -np.inf, np.float32)
    logits[END_TOKEN] = 1
    assert rules.process(logits, [])[END_TOKEN] == 1


@given(st.lists(st.text(max_size=60), max_size=6), st.text(max_size=60))
def test_rules_take_any_notes(notes: list[str], text: str) -> None:
    ending = Ending(notes, [len(note) for note in notes])
    ending.is_over(text, len(text))
    copying = NoCopying(notes)
    assert copying.copies(text) <= (len(words_of(text)) >= 8)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values: list[int], share: float) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), abs=1e-6)
