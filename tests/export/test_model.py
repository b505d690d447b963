import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.features import byte_rows
from export.minilm import Int8Linear, quantize_rows
from ppedge.pooling import pool


def test_pooling_then_the_last_linear_equals_the_paper_s_projection_of_every_note(plug):
    """Equation 4 of the paper, in float64 numpy, against the kernel and the projector."""
    rng = np.random.default_rng(0)
    h, x = rng.standard_normal((41, 384)), rng.standard_normal(384)
    texts = [f"note {i}" for i in range(40)]
    keys = plug.key(torch.tensor(h[1:], dtype=torch.float32)).numpy()
    values = plug.value(torch.tensor(h[1:], dtype=torch.float32), *byte_rows(texts)).numpy()
    keys = np.vstack([F.normalize(plug.null_key, dim=0).numpy(), keys])
    values = np.vstack([plug.null_value.numpy(), values])
    query = plug.query(torch.tensor(x[None], dtype=torch.float32))[0].numpy()
    scale = float(plug.scale)

    scores = scale * keys.astype(np.float64) @ query.astype(np.float64)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    w2, b2 = plug.project.weight.double().numpy(), plug.project.bias.double().numpy()
    paper = sum(w * (w2 @ v + b2) for w, v in zip(weights, values.astype(np.float64), strict=True))

    pooled = pool(query, keys, values, scale=scale).value
    soft = plug.soft_tokens(torch.tensor(pooled)[None])[0].numpy()
    n = plug.config.n_instruction
    assert np.abs(soft[:n] - plug.instruction.numpy()).max() == 0
    assert np.abs(soft[n:].reshape(-1) - paper).max() < 1e-5


def test_torch_and_the_kernel_pool_alike(plug):
    torch.manual_seed(1)
    query, keys = (
        F.normalize(torch.randn(2, 384), dim=-1),
        F.normalize(torch.randn(2, 9, 384), dim=-1),
    )
    values, mask = torch.randn(2, 9, 512), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 4:] = False
    ours = plug.pool(query, keys, values, mask)
    null_key = F.normalize(plug.null_key, dim=0)[None]
    for row, count in ((0, 9), (1, 4)):
        theirs = pool(
            query[row].numpy(),
            torch.cat([null_key, keys[row, :count]]).numpy(),
            torch.cat([plug.null_value[None], values[row, :count]]).numpy(),
            scale=float(plug.scale),
        )
        assert np.abs(ours[row].numpy() - theirs.value).max() < 1e-5


def test_an_empty_history_pools_to_the_null_note(plug):
    pooled = plug.pool(
        F.normalize(torch.randn(1, 384), dim=-1),
        torch.zeros(1, 3, 384),
        torch.randn(1, 3, 512),
        torch.zeros(1, 3, dtype=torch.bool),
    )
    assert torch.allclose(pooled[0], plug.null_value)


def test_a_note_s_style_does_not_depend_on_the_padding_beside_it(plug):
    short, long = "Hi!", "a much longer note, with Capitals and -- dashes " * 3
    alone = plug.style(*byte_rows([short]))
    beside = plug.style(*byte_rows([short, long]))[:1]
    bare = plug.style(torch.tensor([list(short.encode())]))
    assert torch.allclose(alone, beside, atol=1e-6)
    assert torch.allclose(alone, bare, atol=1e-6)


def test_style_sees_capitals_that_the_tokenizer_does_not(plug):
    lower, upper = byte_rows(["good morning"]), byte_rows(["Good Morning"])
    assert not torch.allclose(plug.style(*lower), plug.style(*upper), atol=1e-3)


def test_int8_rows_are_within_half_a_step_of_the_weights():
    torch.manual_seed(0)
    weight = torch.randn(16, 32)
    codes, scale = quantize_rows(weight)
    assert codes.dtype == torch.int8
    assert ((codes.float() * scale - weight).abs() <= scale / 2 + 1e-7).all()
    linear = Int8Linear(weight, torch.ones(16))
    assert torch.allclose(linear(torch.eye(32)), weight.T + 1, atol=float(scale.max()))


@pytest.mark.parametrize("padded", [True, False])
def test_minilm_matches_the_reference_implementation(minilm, padded):
    """The same int8-rounded weights in transformers' BERT give the same text vector."""
    from transformers import BertModel

    from export.minilm import Int8Embedding, find_minilm

    reference = BertModel.from_pretrained(find_minilm(), attn_implementation="eager").eval()
    for module in reference.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            codes, scale = quantize_rows(module.weight.data)
            module.weight.data = codes.float() * scale
    words = Int8Embedding(reference.embeddings.word_embeddings.weight.data)
    reference.embeddings.word_embeddings.weight.data = words.codes.float() * words.scale
    ids = torch.tensor([[101, 7592, 2088, 999, 102]])
    mask = torch.ones_like(ids)
    if padded:
        ids, mask = F.pad(ids, (0, 3)), F.pad(mask, (0, 3))
    with torch.inference_mode():
        states = reference(input_ids=ids, attention_mask=mask).last_hidden_state
        wanted = F.normalize((states * mask[..., None]).sum(1) / mask.sum(), dim=-1)
        ours = minilm(ids, mask.bool() if padded else None)
    assert float((wanted - ours).abs().max()) < 1e-5
