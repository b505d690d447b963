"""An answer that would go on with another turn is over."""

import numpy as np
import pytest

from ppedge import Blend, Personalizer, Sampling
from ppedge.llm.segments import Text
from ppedge.llm.turn_end import TurnEnd
from ppedge.notes.reader import Note

OPENING = Text("<|im_start|>user\n", special=True)


@pytest.fixture(scope="module")
def personalizer():
    with Personalizer.open() as opened:
        yield opened


@pytest.fixture(scope="module")
def llm(personalizer):
    return personalizer.llm


def test_the_opening_token_s_probability_goes_to_the_end(llm):
    turn_end = TurnEnd.of(llm, [OPENING])
    opens = llm.tokenize("<|im_start|>", special=True)[0]
    logits = np.random.default_rng(0).normal(size=llm.n_vocab).astype(np.float32)
    before = np.exp(logits.astype(np.float64))
    after = np.exp(turn_end.process(logits.copy(), []).astype(np.float64))
    assert after[llm.end_token] == pytest.approx(before[opens] + before[llm.end_token], rel=1e-5)
    assert after[opens] == 0
    rest = np.delete(np.arange(llm.n_vocab), [opens, llm.end_token])
    assert (after[rest] == before[rest]).all()


@pytest.mark.parametrize(
    "opening",
    [[], [Text("User: ")], [Text("User: ", special=True)], [Text("<|im_start|>")],
     [Text("<|im_end|>", special=True)]],
)  # fmt: skip
def test_where_no_control_token_opens_a_turn_nothing_is_moved(llm, opening):
    assert TurnEnd.of(llm, opening) is None


def test_no_answer_of_a_plug_s_persona_goes_on_as_the_next_turn(tmp_path, personalizer):
    """However likely the model finds that."""
    llm = personalizer.llm
    opens = llm.tokenize("<|im_start|>", special=True)[0]
    with personalizer.persona(tmp_path / "me") as persona:
        notes = [Note(f"I went to the market and bought {i} apples.") for i in range(4)]
        persona.sync(notes, personalizer.plug.encode_notes)
        inner = personalizer._turn_end.process
        seen = []

        def eager(logits, written):
            if len(written) == 6:
                logits[opens] = logits.max() + 20
            seen.append(len(written))
            return inner(logits, written)

        personalizer._turn_end.process = eager
        try:
            answer = personalizer.stream(
                "What did you buy?", persona, Sampling(seed=1), blend=Blend(style=0)
            )
            text = answer.read()
        finally:
            del personalizer._turn_end.process
    assert answer.generation.finish == "stop"
    assert max(seen) == 6
    assert "user" not in text


def test_without_a_plug_nothing_is_moved():
    with Personalizer.open(plug="none") as personalizer:
        assert personalizer._turn_end is None
