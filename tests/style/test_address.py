"""Whom a prompt wants written to, how a person addresses them, and answers that begin so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppedge.style.acts import words_for
from ppedge.style.address import Address, Greetings
from ppedge.style.addressee import MAX_CHARS, addressed

PLAIN = ["Fixed the gate. It broke.", "Rain again. Tea and a sit."]


class Letters:
    """A vocabulary of characters."""

    def piece(self, token: int) -> bytes:
        return chr(token).encode()

    def is_end(self, token: int) -> bool:
        return token == 0

    def tokenize(self, text: str) -> list[int]:
        return list(map(ord, text))


# --- whom a prompt wants written to ---


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Tell my boss that I am ill and will not come in today.", "boss"),
        ("Write a short e-mail to my landlord about the broken heating.", "landlord"),
        ("Write my landlord a short e-mail about the heating.", "landlord"),
        ("Write an e-mail asking my boss for a day off.", "boss"),
        ("My heating is broken. Write to my landlord.", "landlord"),
        ("Say thank you to the neighbour who fed the cat.", "neighbour"),
        ("Invite a few friends to a barbecue on Sunday.", "friends"),
        ("Please text Dana that I'm running late.", "Dana"),
        ("Reply to Mrs. Ashby about the jars.", "Mrs. Ashby"),
        ("Write a thank-you note to Dr Patel.", "Dr Patel"),
        ("Congratulate my colleague Peter on the baby.", "Peter"),
        ("Write a card for mum's birthday.", "mum"),
        ("Help me tell my parents I failed.", "parents"),
        ("Can you draft an email to the council asking for a new bin?", "council"),
        ("Decline an invitation from my boss.", "boss"),
        ("TELL MY BOSS I AM ILL", "boss"),
        ("Tell my sister's friend Ann that we are late", "Ann"),
        ("Ask the school when the term starts.", ""),
        ("Complain to a restaurant about a cold meal.", ""),
        ("Leave a note for the person who delivers the parcels.", ""),
        ("Turn down an invitation to a wedding politely.", ""),
        ("Ask for a refund", ""),
        ("\n\n  I am ill.\n\n   Tell my boss.\n\n", "boss"),
    ],
)
def test_an_addressee_is_found(prompt: str, name: str) -> None:
    found = addressed(prompt)
    assert found is not None
    assert found.name == name
    assert prompt.strip().endswith(found.rest)


@pytest.mark.parametrize(
    "prompt",
    [
        *("", "Hello", "What should I cook tonight?", "How did you spend the weekend?"),
        *("Tell me something funny that happened to you.", "Ask me anything.", "Thank you!"),
        *("Tell the story of a lonely dragon.", "Tell a joke about cats.", "Tell the truth."),
        *("Write a story about my sister.", "Write a poem for my wife.", "Write a family recipe."),
        *("Write a short note about frames and work.", "Write a few lines about the market."),
        *(
            "Write a note to myself.",
            "Remind me to buy milk.",
            "Explain to a child how rain forms.",
        ),
        *("Summarise the letter to the editor.", "Write a commit message for this change."),
        *("Email etiquette tips for staff", "Write a review of a hotel where you stayed."),
        *("Draft a reply to this e-mail: Dear Sir, come.", "Answer the question to the point."),
        *("Schreib meinem Vermieter eine E-Mail.", "Tell my boss that " + "I am ill " * MAX_CHARS),
    ],
)
def test_nobody_is_found_where_nobody_is_written_to(prompt: str) -> None:
    assert addressed(prompt) is None


@given(st.text(max_size=MAX_CHARS))
def test_any_prompt_is_looked_at(prompt: str) -> None:
    addressed("Write a letter to my " + prompt)
    assert addressed("x " * MAX_CHARS + prompt) is None


# --- what is to be done ---


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("Say thank you to the neighbour who fed the cat.", "thanks"),
        ("Write to Joan and thank her for the jam", "thanks"),
        ("Apologise to a colleague for missing the meeting.", "sorry"),
        ("Ask my sister whether she can come on Friday.", "can you"),
        ("Ask the school when the term starts.", "when does"),
        ("Ask Tom about the man who came.", "can you"),
        ("Ask HR how much holiday I have left.", "how much"),
        ("Write an e-mail to my boss asking for a day off", "can I have"),
        ("Invite my cousins to my birthday party", "would you like to"),
        ("Turn down an invitation to a wedding politely.", "I'm afraid I can't come"),
        ("Decline an offer from a client.", "thank you, but"),
        ("Write a card for a friend who turns forty.", "happy birthday"),
        ("Wish my dad a happy birthday.", "happy birthday"),
        ("Write a birthday greeting for Sam.", "happy birthday"),
    ],
)
def test_a_message_does_what_was_asked(prompt: str, word: str) -> None:
    found = addressed(prompt)
    assert found is not None
    assert word in words_for(found)


@pytest.mark.parametrize(
    "prompt",
    ["Tell my sister about the invitation.", "Write a letter to my boss about thanks."],
)
def test_what_a_message_is_about_is_not_what_it_does(prompt: str) -> None:
    found = addressed(prompt)
    assert found is not None
    assert words_for(found) == ()


@pytest.mark.parametrize(
    ("prompt", "about"),
    [
        ("Say thank you to the neighbour who fed the cat.", "the neighbour who fed the cat."),
        ("Complain to a restaurant about a cold meal.", "a restaurant about a cold meal."),
        ("What should I cook tonight?", "What should I cook tonight?"),
    ],
)
def test_what_is_to_be_done_is_not_what_a_message_is_about(prompt: str, about: str) -> None:
    found = addressed(prompt)
    assert (found.rest if found else prompt) == about


# --- how a person does it ---


def test_who_greets_nobody_greets_as_many_do() -> None:
    lines = Greetings(PLAIN).lines("boss")
    assert {"Dear boss,", "Hi Boss!", "Boss,"} <= set(lines)
    assert {"Hello,", "Hi!"} <= set(Greetings(PLAIN).lines(""))
    assert "Dear," not in Greetings(PLAIN).lines("")


def test_who_greets_somebody_greets_as_there() -> None:
    greetings = Greetings([*PLAIN, "Dear Mrs. Ashby, The jars are ready."])
    assert {line.split(" ")[0] for line in greetings.lines("Tom")} == {"Dear"}
    assert all(line.startswith("Dear Sir or Madam") for line in greetings.lines(""))


def test_who_writes_small_and_without_commas_is_followed() -> None:
    greetings = Greetings(["hey mr patel sorry im late again with the thing", "got it", "ok lol"])
    assert greetings.lines("Dana") == ["hey dana"]
    assert greetings.acts(["I'm sorry", "sorry"]) == [" sorry"]


def test_who_writes_large_only_does_so() -> None:
    assert all(map(str.isupper, Greetings(["THE GATE BROKE", "RAIN AGAIN"]).lines("boss")))


def test_who_writes_no_english_is_not_made_to_greet_in_it() -> None:
    german = ["Bin spät dran, der Zug steht.", "Danke dir! Bis Montag."]
    assert Greetings(german).lines("boss") == []
    assert written("Tell my boss I am late.", german, "Hallo Chef~") == "Hallo Chef~"


def test_own_words_are_taken_for_what_is_done() -> None:
    assert Greetings(["Many thanks for the frames."]).acts(["thank you", "many thanks"]) == [
        " many thanks",
        " Many thanks",
    ]
    assert " Thank you" in Greetings(PLAIN).acts(["thank you", "many thanks"])
    assert "\nThank you" in Greetings(["A\nb"]).acts(["thank you"])


# --- answers that begin so ---


def address_of(prompt: str, notes: list[str]) -> Address | None:
    message = addressed(prompt)
    return Address(Letters(), message, Greetings(notes)) if message else None


def written(prompt: str, notes: list[str], wants: str) -> str:
    """What is written by a model that wants to write ``wants``, as far as it may, and then "~"."""
    address, text = address_of(prompt, notes), ""
    for _ in range(60):
        logits = np.zeros(128, np.float32)
        logits[ord(wants[len(text)] if len(text) < len(wants) else "~")] = 9
        if address:
            logits = address.process(logits, Letters().tokenize(text))
        text += chr(int(logits.argmax()))
        if text.endswith("~"):
            break
    return text


def test_an_answer_begins_with_a_line_of_address_and_the_act() -> None:
    prompt = "Thank Dana for the jam."
    assert written(prompt, PLAIN, "Hi Dana! Many thanks for it~") == "Hi Dana! Many thanks for it~"
    assert written(prompt, ["hey you got it?"], "The jam is") == "hey dana many thanks~"


def test_an_answer_to_nobody_is_free() -> None:
    assert written("How was it?", PLAIN, "The jam is~") == "The jam is~"


def test_a_text_that_begins_otherwise_is_let_be() -> None:
    address = address_of("Thank Dana for the jam.", PLAIN)
    assert address
    logits = np.arange(128, dtype=np.float32)
    assert address.process(logits.copy(), Letters().tokenize("So ")).tolist() == logits.tolist()


def test_it_depends_on_what_is_written_alone() -> None:
    address = address_of("Thank Dana for the jam.", PLAIN)
    assert address
    begun = Letters().tokenize("Hi Dana,")
    first = address.process(np.zeros(128, np.float32), begun)
    assert np.isneginf(first).any()
    assert address.process(np.zeros(128, np.float32), begun).tolist() == first.tolist()
