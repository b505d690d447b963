import numpy as np
import pytest
import torch

from export.data.template import TEMPLATE
from export.models.batching import alike
from ppedge.defaults import find_model
from ppedge.llm.llm import LLM
from ppedge.llm.segments import Soft
from ppedge.plug.template import render

PROMPTS = (
    "Write a short note about the rain",
    "",
    "  two  spaces\n\nand lines ",
    "caf\u00e9 \N{PARTY POPPER} <|im_end|> 12345",
    "Generate a subject for the following commit message: don't re-read the header",
)


@pytest.fixture(scope="module")
def llm():
    with LLM(find_model()) as llm:
        yield llm


@pytest.mark.parametrize("prompt", PROMPTS)
def test_training_and_run_time_render_the_same_token_list(frozen, llm, prompt):
    before, after = frozen.around_soft(prompt)
    soft = np.zeros((3, llm.n_embd), np.float32)
    assert llm.tokens(render(TEMPLATE, prompt, Soft(soft))) == [*before, -1, -1, -1, *after]


def test_both_tokenize_answers_alike(frozen, llm):
    for text in ("core: fix the leak", "Go #Mets! \N{PARTY POPPER}", " leading", "it's  'so'"):
        assert frozen.tokens(text, special=False) == llm.tokenize(text)


def test_soft_tokens_that_are_embedding_rows_give_the_likelihood_of_the_tokens(frozen):
    """The same answer scored after a prompt, once as tokens and once as their rows."""
    before, _ = frozen.around_soft("Say hello")
    extra, answer = (
        frozen.tokens("Hello there", special=False),
        frozen.tokens(" Ann", special=False),
    )
    with torch.inference_mode():
        soft = frozen.table[extra][None].float()
        [as_soft], _ = frozen.nll(frozen.run_heads([before]), soft, [[]], [answer])
        [as_tokens], _ = frozen.nll(frozen.run_heads([before]), None, [extra], [answer])
        [longer], _ = frozen.nll(frozen.run_heads([before + extra]), None, [[]], [answer])
    assert float(as_soft) == pytest.approx(float(as_tokens), rel=1e-3)
    assert float(as_soft) == pytest.approx(float(longer), rel=2e-2)  # bf16, other batch shapes


def test_padding_beside_it_does_not_change_an_example(frozen):
    sides = [frozen.around_soft(prompt) for prompt in PROMPTS[:3]]
    answers = [frozen.tokens(text, special=False) for text in ("one", "two and more", "three")]
    torch.manual_seed(0)
    soft = torch.randn(3, 4, frozen.table.shape[1]) * 0.13
    with torch.inference_mode():
        heads = frozen.run_heads([before for before, _ in sides])
        together, counts = frozen.nll(heads, soft, [[], [], []], answers)
        for i, (before, _) in enumerate(sides):
            [alone], [count] = frozen.nll(
                frozen.run_heads([before]), soft[i : i + 1], [[]], [answers[i]]
            )
            assert count == counts[i] == len(answers[i])
            assert float(alone) == pytest.approx(float(together[i]), rel=3e-2)


def test_likelihoods_agree_with_llama_cpp(frozen, llm):
    prompt = "Write a short note about the rain"
    # llama.cpp rounds activations, otherwise on each processor: over a few tokens that shows.
    answer = (
        "The rain is cold today. It began before breakfast, and the street is full of umbrellas. "
        "I like the sound of it on the roof, and I do not like the walk to the bus."
    )
    torch.manual_seed(0)
    soft = torch.randn(1, 4, llm.n_embd) * 0.13
    before, after = frozen.around_soft(prompt)
    with torch.inference_mode():
        [nats], [count] = frozen.nll(
            frozen.run_heads([before]), soft, [after], [frozen.tokens(answer, special=False)]
        )
    [score] = llm.score(render(TEMPLATE, prompt, Soft(soft[0].numpy())), [answer])
    assert score.tokens == int(count)
    assert -score.logprob / score.tokens == pytest.approx(float(nats / count), abs=0.05)


def test_frozen_weights_get_no_gradient_and_soft_tokens_do(frozen):
    before, after = frozen.around_soft("Say hello")
    soft = (torch.randn(1, 4, frozen.table.shape[1]) * 0.13).requires_grad_(True)
    nats, _ = frozen.nll(frozen.run_heads([before]), soft, [after], [[100, 200]])
    nats.sum().backward()
    assert soft.grad is not None
    assert float(soft.grad.abs().sum()) > 0
    assert all(p.grad is None for p in frozen.model.parameters())


def test_answers_of_like_length_are_run_together():
    assert alike([5] * 6) == [[0, 1, 2, 3, 4, 5]]
    assert alike([40, 3, 41, 4, 42, 3, 43, 4]) == [[1, 5, 3, 7], [0, 2, 4, 6]]
    # Fewer than four are not worth a run of their own.
    assert alike([40, 3, 4, 4, 3]) == [[1, 4, 2, 3, 0]]
    assert alike([9]) == [[0]]


def test_a_likelihood_does_not_hang_on_who_is_run_together(frozen):
    prompts = [f"Write about {'a very ' * i}long rain" for i in range(8)]
    answers = [frozen.tokens("rain " * (1 + 9 * (i % 3)), special=False) for i in range(8)]
    head = frozen.run_heads([frozen.around_soft(prompt)[0] for prompt in prompts])
    soft = torch.randn(8, 3, frozen.table.shape[1]) * 0.1
    together = frozen.nll(head, soft, [[]] * 8, answers)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        alone = frozen.run_heads([frozen.around_soft(prompt)[0]])
        nats, count = frozen.nll(alone, soft[i : i + 1], [[]], [answer])
        assert float(nats) == pytest.approx(float(together[0][i]), rel=0.02)
        assert int(count) == int(together[1][i]) == len(answer)
