"""A prefix of turns that is run once and kept is worth the same as one written out."""

import pytest
import torch

from export.training.turns import Prefixes, prefix_tokens
from ppedge.notes.reader import Note

ANN = (Note("tomatoes and rain, again!"), Note("fix: the parser", "Name this commit"))
BOB = (Note("Dear all, the meeting is on Monday.\nBest, Bob"),)
PROMPTS = ("Write a short note about the rain", "Hi", "What should I cook tonight?", "Go on")
ANSWERS = ("rain again", "so", "tomatoes, of course", "no")
TURNS = (ANN, (), BOB, ANN)  # of different lengths, one of them none


def test_a_prefix_is_what_the_chat_would_have_been(tiny_llm):
    """The tokens of the turns and of the prompt are those of one text of the whole chat."""
    before, _ = tiny_llm.around_soft("Hi")
    start = tiny_llm.words.start
    chat = (
        "<|im_start|>user\nName this commit<|im_end|>\n<|im_start|>assistant\nfix: the parser"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = prefix_tokens(tiny_llm, ANN[1:]) + before[len(start) :]
    assert ids == [*start, *tiny_llm.tokens(chat, special=True)]
    assert prefix_tokens(tiny_llm, ()) == []


def scored(llm, head, soft, control):
    answers = [[*llm.tokens(text, special=False), llm.end] for text in ANSWERS]
    return llm.nll(head, soft, [[] for _ in answers], answers, control)[0]


@pytest.mark.parametrize("conditioned", [True, False])
def test_nll_behind_a_kept_prefix_is_that_of_the_prefix_written_out(tiny_llm, conditioned):
    llm = tiny_llm
    torch.manual_seed(0)
    width = llm.table.shape[1]
    soft = torch.randn(4, 3, width) * 0.5 if conditioned else None
    control = torch.randn(4, llm.n_layer - 1, width) * 0.1 if conditioned else None
    befores = [llm.around_soft(prompt)[0] for prompt in PROMPTS]
    prefixes, start = Prefixes(llm), llm.words.start
    whole = [
        [*prefix_tokens(llm, notes), *(before[len(start) :] if notes else before)]
        for before, notes in zip(befores, TURNS, strict=True)
    ]
    with torch.inference_mode():
        wanted = torch.cat(
            [
                llm.nll(
                    llm.run_heads([ids]),
                    None if soft is None else soft[i : i + 1],
                    [[]],
                    [[*llm.tokens(ANSWERS[i], special=False), llm.end]],
                    None if control is None else control[i : i + 1],
                )[0]
                for i, ids in enumerate(whole)
            ]
        )
        kept = scored(llm, prefixes.run_heads(befores, TURNS), soft, control)
        again = scored(llm, prefixes.run_heads(befores, TURNS), soft, control)
        bare = scored(llm, llm.run_heads(befores), soft, control)
        none = scored(llm, prefixes.run_heads(befores, [()] * 4), soft, control)
    assert torch.allclose(kept, wanted, rtol=1e-4)
    assert torch.equal(kept, again)
    assert torch.equal(bare, none)
    assert not torch.allclose(kept[0], bare[0], rtol=1e-3)


def test_prefixes_that_were_used_last_are_kept(tiny_llm):
    prefixes = Prefixes(tiny_llm, keep=2)
    (first,) = prefixes.of([ANN])
    assert prefixes.of([list(ANN)]) == [first]
    assert prefixes.of([BOB, ANN])[1] is first
    prefixes.of([ANN[:1]])  # and out goes the one that was not asked for longest
    assert prefixes.of([ANN])[0] is first
    assert len(prefixes._run) == 2


def test_gradients_pass_to_soft_tokens_behind_a_prefix(tiny_llm):
    llm = tiny_llm
    soft = torch.zeros(4, 2, llm.table.shape[1], requires_grad=True)
    befores = [llm.around_soft(prompt)[0] for prompt in PROMPTS]
    scored(llm, Prefixes(llm).run_heads(befores, TURNS), soft, None).sum().backward()
    assert (soft.grad.flatten(1).norm(dim=1) > 0).all()
