"""Token bytes to text: whatever the tokens, the pieces are the text up to the first stop."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from ppedge.llm.sampling import TextStream

LETTERS = st.sampled_from(["a", "b", "é", "🧀"])
TEXTS = st.lists(LETTERS, max_size=12).map("".join)
STOPS = st.lists(st.lists(LETTERS, min_size=1, max_size=3).map("".join), max_size=3)


def cut(data: bytes, ends: list[int]) -> list[bytes]:
    marks = sorted({min(end, len(data)) for end in ends} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


def up_to_the_first_stop(tokens: list[bytes], stops: list[str]) -> str:
    """Look at all text so far after each token, as a stream cannot afford to."""
    data = b""
    for token in tokens:
        data += token
        text = data.decode(errors="ignore")
        found = [text.find(stop) for stop in stops if stop in text]
        if found:
            return text[: min(found)]
    return data.decode(errors="ignore")


@given(TEXTS, st.lists(st.integers(0, 48)), STOPS)
def test_the_pieces_are_the_text_up_to_the_first_stop(
    text: str, ends: list[int], stops: list[str]
) -> None:
    tokens, stream, pieces = cut(text.encode(), ends), TextStream(stops), []
    for token in tokens:
        pieces.append(stream.feed(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    wanted = up_to_the_first_stop(tokens, stops)
    assert "".join(pieces) == wanted
    assert stream.stopped == (wanted != text)


def test_nothing_follows_a_stop() -> None:
    stream = TextStream(["END"])
    assert stream.feed(b"so END\xed\xa0") == "so "
    assert stream.finish() == ""


@given(TEXTS, STOPS)
def test_nothing_is_held_back_without_need(text: str, stops: list[str]) -> None:
    stream, shown = TextStream(stops), ""
    for letter in text:
        shown += stream.feed(letter.encode())
        if stream.stopped:
            break
        held = stream._held
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)
        assert text.startswith(shown + held)


@given(st.binary(max_size=20))
@example(b"\xed\xa0")  # half a surrogate, which no further byte could make a character
def test_bytes_that_are_no_utf8_show_as_replacements(data: bytes) -> None:
    stream = TextStream()
    text = "".join(stream.feed(bytes([value])) for value in data) + stream.finish()
    whole = data.decode(errors="replace")
    # Only an unfinished last character is dropped, which would show as one replacement.
    assert whole in (text, text + "�")
