"""Other models than the default one: what a plug is trained on must be what it will run on."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from export.data.template import TEMPLATE, place_soft, read_template
from export.models.base_llm import FrozenLLM
from ppedge.llm.llm import LLM
from ppedge.llm.segments import Soft, Text
from ppedge.plug.template import Part, render
from tests import tiny_gguf as tiny_models

BARE = (Part(slot="prompt"), Part("\n"))  # a base model's template
TEMPLATES = {
    "chat": TEMPLATE,
    "bare": place_soft(BARE, "after"),
    "before": place_soft(TEMPLATE, "before"),
    "first": place_soft(BARE, "before"),
}
PROMPT, ANSWER = "write a short note about the rain, the heat and the tea", "the rain\u00e9"


def nats_of(llm, soft, prompt=PROMPT, answer=ANSWER, control=None):
    before, after = llm.around_soft(prompt)
    ids = [*llm.tokens(answer, special=False), llm.end]
    with torch.inference_mode():
        [nats], [count] = llm.nll(llm.run_heads([before]), soft, [after], [ids], control)
    return float(nats), int(count)


def nats_by_hand(frozen, before, soft, after, ids):
    """Picked from the logits of one long pass without padding or cache."""
    rows = [frozen.embed(torch.tensor(part, dtype=torch.long)) for part in (before, after, ids)]
    with torch.inference_mode():
        whole = torch.cat([rows[0], soft * frozen.row_scale, rows[1], rows[2]])
        logits = frozen.model(inputs_embeds=whole[None]).logits[0]
    chosen = logits.log_softmax(-1)[-len(ids) - 1 : -1].gather(1, torch.tensor(ids)[:, None])
    return -float(chosen.sum())


@pytest.mark.parametrize("steered", [False, True], ids=["plain", "steered"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_gguf_scores_as_at_run_time_with_soft_tokens_anywhere(tiny_gguf, template, steered):
    path = tiny_gguf
    frozen = FrozenLLM(path, TEMPLATES[template], torch.float32)
    torch.manual_seed(0)
    soft = torch.randn(3, frozen.table.shape[1]) * float(frozen.table.std())
    control = torch.randn(frozen.n_layer - 1, frozen.table.shape[1]) if steered else None
    with LLM(path) as llm:
        before, after = frozen.around_soft(PROMPT)
        said = Soft(soft.numpy(), control.numpy() if steered else None)
        rows = render(TEMPLATES[template], PROMPT, said)
        assert llm.tokens(rows) == [*before, -1, -1, -1, *after]
        [score] = llm.score(rows, [ANSWER], end=True)
    nats, count = nats_of(frozen, soft[None], control=control[None] if steered else None)
    assert count == score.tokens
    assert -score.logprob / count == pytest.approx(nats / count, abs=2e-3)
    if steered:
        assert abs(nats_of(frozen, soft[None])[0] - nats) > 0.1


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3"])
def test_torch_computes_what_llama_cpp_does(tmp_path, architecture):
    """Queries are scaled by what no GGUF file says, logits capped, layers see a window of 16."""
    path = tiny_models.write(tmp_path / "model.gguf", architecture)
    frozen = FrozenLLM(path, TEMPLATE, torch.float32)
    with LLM(path) as llm:
        for text in ("a", "abcdef", "abcdef" * 6):
            ids = llm.tokens([Text(text)])
            with torch.inference_mode():
                found = frozen.model(torch.tensor([ids])).logits[0, -1].numpy()
            np.testing.assert_allclose(found, llm.logits([Text(text)]), atol=5e-3)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_gemma_s_soft_tokens_score_as_at_run_time(tmp_path, architecture):
    path = tiny_models.write(tmp_path / "model.gguf", architecture)
    frozen = FrozenLLM(path, TEMPLATE, torch.float32)
    torch.manual_seed(0)
    soft = torch.randn(3, frozen.table.shape[1]) * float(frozen.table.std())
    with LLM(path) as llm:
        rows = render(TEMPLATE, PROMPT, Soft(soft.numpy()))
        [score] = llm.score(rows, [ANSWER], end=True)
    nats, count = nats_of(frozen, soft[None])
    assert -score.logprob / count == pytest.approx(nats / count, abs=2e-3)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_a_prompt_run_ahead_counts_in_full_where_layers_see_a_window(
    tmp_path, architecture, template
):
    """Rows are scaled, logits capped, and the prompt is longer than the window of 16."""
    path = tiny_models.write(tmp_path / "model.gguf", architecture)
    frozen = FrozenLLM(path, TEMPLATES[template], torch.float32)
    before, after = frozen.around_soft(PROMPT)
    assert len(before) + len(after) > 32
    torch.manual_seed(0)
    soft = torch.randn(3, frozen.table.shape[1]) * float(frozen.table.std())
    ids = [*frozen.tokens(ANSWER, special=False), frozen.end]
    nats, _ = nats_of(frozen, soft[None])
    assert nats == pytest.approx(nats_by_hand(frozen, before, soft, after, ids), rel=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3"])
def test_rows_are_at_the_scale_that_soft_tokens_have_at_run_time(tmp_path, architecture):
    path = tiny_models.write(tmp_path / "model.gguf", architecture)
    frozen = FrozenLLM(path, TEMPLATE, torch.float32)
    with LLM(path) as llm:
        np.testing.assert_allclose(frozen.table[:9], llm.embedding_rows(range(9)))
    ids = torch.arange(9)
    assert torch.allclose(frozen.embed(ids), frozen.table[:9] * frozen.row_scale, rtol=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama in Hugging Face form, with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("hf")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: i for i, word in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", TEMPLATES)
def test_only_the_answer_s_tokens_are_counted(folder, template):
    """Also where others in the batch are longer."""
    frozen = FrozenLLM(str(folder), TEMPLATES[template], torch.float32)
    torch.manual_seed(0)
    soft = torch.randn(2, 3, 32)
    prompts, answers = ["say hello", "say it again, please"], ["hi", "good day"]
    sides = [frozen.around_soft(prompt) for prompt in prompts]
    ids = [[*frozen.tokens(answer, special=False), frozen.end] for answer in answers]
    heads = frozen.run_heads([before for before, _ in sides])
    nats, counts = frozen.nll(heads, soft, [after for _, after in sides], ids)
    for i, (before, after) in enumerate(sides):
        by_hand = nats_by_hand(frozen, before, soft[i], after, ids[i])
        assert float(nats[i]) == pytest.approx(by_hand, rel=1e-4)
        assert int(counts[i]) == len(answers[i]) + 1


@pytest.mark.parametrize("template", ["chat", "first"])
def test_frozen_weights_get_no_gradient_wherever_the_soft_tokens_are(folder, template):
    frozen = FrozenLLM(str(folder), TEMPLATES[template], torch.float32)
    before, after = frozen.around_soft("say hello")
    soft = torch.randn(1, 4, 32, requires_grad=True)
    nats, _ = frozen.nll(frozen.run_heads([before]), soft, [after], [[7, 8]])
    nats.sum().backward()
    assert (soft.grad.abs().sum(-1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in frozen.model.parameters())


def test_typed_control_tokens_stay_characters_and_the_template_s_do_not(folder):
    frozen = FrozenLLM(str(folder), TEMPLATES["bare"], torch.float32)
    assert frozen.tokens("</s>", special=True) == [1]
    assert len(frozen.tokens("</s>", special=False)) == 4


def test_a_prompt_is_cut_and_what_stands_around_it_is_not(folder):
    frozen = FrozenLLM(str(folder), TEMPLATES["chat"], torch.float32)
    before, _ = frozen.around_soft("x" * 50, max_prompt=10)
    assert len(before) == len(frozen.around_soft("x" * 10)[0])


def test_models_are_told_apart_by_their_weights(folder, tmp_path):
    first = FrozenLLM(str(folder), TEMPLATE, torch.float32)
    assert first.digest() == FrozenLLM(str(folder), TEMPLATE, torch.float32).digest()
    last = list(first.model.parameters())[-1]
    with torch.no_grad():
        last[0] += 1
    assert first.digest() != FrozenLLM(str(folder), TEMPLATE, torch.float32).digest()


def test_what_is_no_causal_model_is_refused_in_one_line(tmp_path):
    t5 = tiny_models.write(tmp_path / "t5.gguf", "t5")
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.gguf").write_bytes(b"GGUF, not")
    for name in (t5, tmp_path / "empty", tmp_path / "noise.gguf", tmp_path / "missing.gguf"):
        with pytest.raises(ValueError, match="model") as caught:
            FrozenLLM(name, TEMPLATE, torch.float32)
        assert str(name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_empty_prompt_among_others_needs_something_before_it(folder):
    frozen = FrozenLLM(str(folder), TEMPLATES["bare"], torch.float32)
    with pytest.raises(ValueError, match="nothing before its soft tokens"):
        frozen.run_heads([[], [3]])
    with pytest.raises(ValueError, match="nothing before the answer"):
        frozen.nll(frozen.run_heads([[]]), None, [[]], [[3]])


def test_a_template_file_says_where_prompt_and_soft_tokens_go(tmp_path):
    def read(listed):
        (tmp_path / "t.json").write_text(json.dumps(listed))
        return read_template(tmp_path / "t.json")

    prompt, soft, text = {"slot": "prompt"}, {"slot": "soft"}, {"text": "\n"}
    assert read([prompt, text]) == BARE
    assert read([soft, prompt, text]) == TEMPLATES["first"]
    for listed, message in (
        ({"slot": "prompt"}, "a list of parts, not dict"),
        ([prompt, {"text": 3}], "part 1 must be"),
        ([prompt, {"slot": "name"}], "part 1 must be"),
        ([text], "0 prompt slots"),
        ([prompt, soft, soft], "2 soft slots"),
    ):
        with pytest.raises(ValueError, match=message):
            read(listed)
    with pytest.raises(ValueError, match="not a readable JSON file"):
        read_template(tmp_path / "missing.json")


def test_padding_beside_it_does_not_change_an_example_of_soft_first(folder):
    frozen = FrozenLLM(str(folder), TEMPLATES["first"], torch.float32)
    soft = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 32), np.float32))
    tails = [frozen.around_soft(prompt)[1] for prompt in ("a", "much longer than that")]
    nats, _ = frozen.nll(frozen.run_heads([[], []]), soft, tails, [[5, 1], [6, 7, 8, 1]])
    alone, _ = frozen.nll(frozen.run_heads([[]]), soft[:1], tails[:1], [[5, 1]])
    assert F.l1_loss(nats[:1], alone) < 1e-4
