import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.models.features import byte_rows
from export.models.plug import PersonaPlug, PlugConfig
from export.models.text_encoder import EncoderShape
from ppedge.attention.pooling import pool


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


def test_the_paper_s_form_computes_the_paper_s_equations():
    """Equations 3 to 5, written out in float64 numpy."""
    torch.manual_seed(0)
    shape = EncoderShape(1, 8, 2, 16, 50, 32, 1e-12, "cls")
    config = PlugConfig.paper(n_embd=12, d_text=8, query_shape=shape)
    plug = PersonaPlug(config, torch.randn(20, 12)).requires_grad_(False)
    for parameter in (*plug.query_encoder.parameters(), plug.value_head.bias, plug.project.weight):
        parameter.normal_()
    ids, h = torch.tensor([[3, 14, 15, 9, 2]]), F.normalize(torch.randn(7, 8), dim=-1)
    x = plug.encode_query(ids)
    ours = plug.soft_tokens(plug.pool(x, plug.key(h)[None], plug.value(h)[None], MASK[:, :7]))

    def gelu(a):
        return a * np.vectorize(lambda b: 0.5 * (1 + math.erf(b / 2**0.5)))(a)

    def proj(note):
        # The fixed factor sqrt(d_text) is part of W1: a unit vector has entries near d^-1/2.
        w1, b1 = plug.value_head.weight.double().numpy() * 8**0.5, plug.value_head.bias.numpy()
        w2, b2 = plug.project.weight.double().numpy(), plug.project.bias.numpy()
        return w2 @ gelu(w1 @ note + b1) + b2

    notes, asked = h.double().numpy(), plug.query_encoder(ids)[0].double().numpy()
    w = np.exp(notes @ asked) / np.exp(notes @ asked).sum()
    persona = sum(w_i * proj(h_i) for w_i, h_i in zip(w, notes, strict=True))
    paper = np.stack([plug.instruction[0].numpy(), persona])
    assert np.abs(ours[0].numpy() - paper).max() < 1e-5
    assert (config.soft, config.key_fields, config.value_fields) == ("before", ("both",), ("both",))
    assert sorted(name for name, p in plug.named_parameters() if "query_encoder" not in name) == [
        "instruction",
        "log_scale",
        "null_key",
        "null_value",
        "project.bias",
        "project.weight",
        "value_head.bias",
        "value_head.weight",
    ]


MASK = torch.ones(1, 9, dtype=torch.bool)


def pooled(config, *, notes=5):
    torch.manual_seed(0)
    plug = PersonaPlug(config, torch.randn(64, config.n_embd)).requires_grad_(False)
    plug.null_value.normal_()
    keys = F.normalize(torch.randn(1, 5, config.d_key), dim=-1)
    query, values = F.normalize(torch.randn(1, config.d_key), dim=-1), torch.randn(1, 5, 512)
    mask = torch.arange(5)[None] < notes
    return plug, plug.pool(query, keys, values, mask)[0], (query[0], keys[0], values[0])


def test_a_null_note_that_does_not_compete_answers_for_an_empty_history_only():
    plug, with_notes, (query, keys, values) = pooled(PlugConfig(null_note=False))
    weights = (plug.scale * keys @ query).softmax(0)
    assert torch.allclose(with_notes, weights @ values, atol=1e-6)
    plug, empty, _ = pooled(PlugConfig(null_note=False), notes=0)
    assert torch.allclose(empty, plug.null_value)


def test_recency_takes_from_a_note_for_those_that_came_after_it():
    config = PlugConfig(recency=True, null_note=False)
    for notes in (5, 3):
        plug, ours, (query, keys, values) = pooled(config, notes=notes)
        after = torch.arange(notes).flip(0)
        scores = plug.scale * keys[:notes] @ query
        scores = scores - F.softplus(plug.recency_bias) * torch.log1p(after)
        assert torch.allclose(ours, scores.softmax(0) @ values[:notes], atol=1e-6)


def test_the_null_note_has_no_age():
    plug, ours, (query, keys, values) = pooled(PlugConfig(recency=True))
    keys = torch.cat([F.normalize(plug.null_key, dim=0)[None], keys])
    values = torch.cat([plug.null_value[None], values])
    loss = plug.recency * torch.log1p(torch.tensor([0, 4, 3, 2, 1, 0]))
    weights = (plug.scale * keys @ query - loss).softmax(0)
    assert torch.allclose(ours, weights @ values, atol=1e-6)


def test_a_fixed_scale_stays_and_a_learned_one_moves():
    for learned in (False, True):
        config = PlugConfig(initial_scale=3.0, learn_scale=learned)
        plug = PersonaPlug(config, torch.randn(64, 576))
        assert float(plug.scale.detach()) == pytest.approx(3)
        query, keys = plug.query(torch.randn(1, 384)), plug.key(torch.randn(1, 9, 384))
        plug.pool(query, keys, torch.randn(1, 9, 512), MASK).sum().backward()
        assert (plug.log_scale.grad is not None) == learned


def test_an_instruction_alone_is_the_same_for_everybody():
    plug = PersonaPlug(PlugConfig(n_instruction=3, n_persona=0), torch.randn(64, 576))
    soft = plug.soft_tokens(torch.randn(2, 512))
    assert soft.shape == (2, 3, 576)
    assert torch.equal(soft[0], soft[1])
    assert torch.equal(soft[0], plug.instruction)


@pytest.mark.parametrize("query_encoder", ["shared", "separate"])
def test_a_config_comes_back_from_a_checkpoint_s_plain_values(tmp_path, query_encoder):
    shape = EncoderShape(1, 384, 12, 64, 50, 32, 1e-12, "mean")
    config = PlugConfig(query_encoder=query_encoder, query_shape=shape, key_fields=("both",))
    torch.save(asdict(config), tmp_path / "config.pt")
    assert PlugConfig(**torch.load(tmp_path / "config.pt", weights_only=True)) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_instruction": 0, "n_persona": 0}, "there must be one at least"),
        ({"n_persona": -1}, "neither may be negative"),
        ({"initial_scale": 0.0}, "must be above 0, not 0.0"),
        ({"key_fields": ("title",)}, "some of input, output, both, not .'title'."),
        ({"value_fields": ()}, "value_fields must be some of"),
        ({"soft": "amid"}, "soft must be after or before, not amid"),
        ({"key_head": False, "d_key": 64}, "384 wide, not d_key=64"),
    ],
)
def test_a_config_without_meaning_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PlugConfig(**fields)


def test_control_vectors_are_a_small_projection_of_the_pooled_value():
    torch.manual_seed(0)
    plug = PersonaPlug(PlugConfig(d_control=4, n_control=3, n_embd=16), torch.randn(64, 16))
    with torch.no_grad():
        plug.control_up.weight.normal_()
        plug.control_up.bias.normal_()
    pooled = torch.randn(2, 512)
    down, up = plug.control_down.weight.detach().numpy(), plug.control_up.weight.detach().numpy()
    wanted = pooled.numpy() @ down.T @ up.T + plug.control_up.bias.detach().numpy()
    np.testing.assert_allclose(
        plug.control(pooled).detach().numpy(), wanted.reshape(2, 3, 16), atol=1e-4
    )
    assert PersonaPlug(PlugConfig(n_embd=16), torch.randn(64, 16)).control(pooled) is None


@pytest.mark.parametrize(
    "options",
    [{"d_control": 4}, {"n_control": 4}, {"d_control": 4, "n_control": 4, "n_persona": 0}],
)
def test_a_control_vector_of_nothing_is_refused(options):
    with pytest.raises(ValueError, match="it wants some of each"):
        PlugConfig(**options)
