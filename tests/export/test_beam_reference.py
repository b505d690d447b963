"""Beam search in llama.cpp finds what transformers' does with the same weights in torch."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from ppedge.defaults import find_model
from ppedge.llm.llm import LLM
from ppedge.llm.segments import Text
from tests import tiny_gguf

LETTERS = "abcdefgh"
QUESTIONS = ("Name three fruits.", "What is the capital of France?")
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def beams_in_torch(model, llm, ids, *, width, max_tokens, length_penalty=1.0):
    """Return the ids of the best beam, up to its end, and its score."""
    found = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        num_beams=width,
        max_new_tokens=max_tokens,
        length_penalty=length_penalty,
        do_sample=False,
        eos_token_id=sorted(llm._model.ends),
        pad_token_id=llm.end_token,
        return_dict_in_generate=True,
        output_scores=True,
    )
    new = found.sequences[0, len(ids) :].tolist()
    ends = [i for i, token in enumerate(new) if token in llm._model.ends]
    return new[: ends[0] + 1] if ends else new, float(found.sequences_scores[0])


def text_of(llm, ids):
    body = [token for token in ids if token not in llm._model.ends]
    return b"".join(map(llm._model.piece, body)).decode(errors="ignore")


def in_torch(path):
    folder, name = os.path.split(path)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    return model.eval()


@pytest.fixture(scope="module", params=range(2))
def tiny(request, tmp_path_factory):
    path = tiny_gguf.write(
        tmp_path_factory.mktemp("beam") / "tiny.gguf", letters=LETTERS, seed=request.param
    )
    with LLM(path, n_threads=1) as llm:
        yield in_torch(path), llm


@pytest.mark.parametrize("prompt", ["abc", "hgfedcba"])
@pytest.mark.parametrize(("width", "penalty"), [(2, 1.0), (4, 1.0), (4, 0.0), (6, 2.0)])
def test_random_models_find_the_same_text(tiny, prompt, width, penalty):
    model, llm = tiny
    found = llm.beam_search([Text(prompt)], width=width, max_tokens=8, length_penalty=penalty)
    ids, score = beams_in_torch(
        model,
        llm,
        llm.tokens([Text(prompt)]),
        width=width,
        max_tokens=8,
        length_penalty=penalty,
    )
    assert found.text == text_of(llm, ids)
    assert found.tokens == len(ids)
    # llama.cpp keeps keys and values in float16.
    assert found.logprob == pytest.approx(score * found.tokens**penalty, abs=2e-2)


def test_the_default_model_finds_texts_as_likely():
    """Its activations are quantised in llama.cpp and not in torch: texts may differ, a little."""
    model = in_torch(find_model())
    with LLM(find_model(), n_threads=1) as llm:
        for question in QUESTIONS:
            segments = [Text(CHAT.format(question), special=True)]
            found = llm.beam_search(segments, width=4, max_tokens=8)
            ids, _ = beams_in_torch(model, llm, llm.tokens(segments), width=4, max_tokens=8)
            prompt = llm._prompt(segments)
            with llm._model.lock:
                (theirs,) = llm._cache.logprobs(prompt, [ids])
            assert found.logprob / found.tokens >= theirs / len(ids) - 0.02
