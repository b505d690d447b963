import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from export.models.features import Features
from export.models.text_encoder import Int8Linear, TextEncoder, find_minilm, quantize_rows, rounded

IDS = torch.tensor([[5, 17, 30, 2, 9]])


def bert_folder(folder, *, pooling=None, prefix="", **more):
    """A random BERT of another shape than MiniLM's, as sentence-transformers keeps one."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    model = BertModel(config).eval()
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), **more}))
    save_file({prefix + name: w for name, w in model.state_dict().items()}, folder / WEIGHTS)
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return model


WEIGHTS = "model.safetensors"


def reference(model, ids, mask, pooling):
    """The text vector by transformers, its matrices rounded to int8 rows."""
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = rounded(module.weight.data)
    words = model.embeddings.word_embeddings
    words.weight.data = rounded(words.weight.data)
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return F.normalize(states[:, 0] if pooling == "cls" else mean, dim=-1)


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
    ids = torch.tensor([[101, 7592, 2088, 999, 102]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    if padded:
        ids, mask = F.pad(ids, (0, 3)), F.pad(mask, (0, 3))
    model = BertModel.from_pretrained(find_minilm(), attn_implementation="eager").eval()
    with torch.inference_mode():
        ours = minilm(ids, mask if padded else None)
    assert float((reference(model, ids, mask, "mean") - ours).abs().max()) < 1e-5


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize(
    ("pooling", "switches"),
    [
        ("mean", None),
        ("cls", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("mean", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}),
        ("cls", {"word_embedding_dimension": 24, "pooling_mode": "cls"}),
    ],
)
def test_a_bert_of_any_shape_and_pooling_matches_the_reference(
    tmp_path, pooling, switches, trainable
):
    model = bert_folder(tmp_path, pooling=switches, prefix="bert." if switches else "")
    encoder = TextEncoder.read(tmp_path, trainable=trainable)
    ids, mask = F.pad(IDS, (0, 2)), F.pad(torch.ones_like(IDS, dtype=torch.bool), (0, 2))
    with torch.inference_mode():
        ours = encoder(ids, mask)
    assert float((reference(model, ids, mask, pooling) - ours).abs().max()) < 1e-5


def test_a_trainable_encoder_gets_gradients_everywhere_and_ships_as_what_it_computes(tmp_path):
    bert_folder(tmp_path)
    encoder = TextEncoder.read(tmp_path, trainable=True)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    before = encoder(IDS).detach()
    for _ in range(2):
        optimizer.zero_grad()
        encoder(IDS)[0, :3].sum().backward()
        optimizer.step()
    # A key's bias shifts all scores of a query alike, which the softmax does not see.
    trained = {n: p for n, p in encoder.named_parameters() if not n.endswith("key.bias")}
    assert [name for name, p in trained.items() if float(p.grad.abs().sum()) == 0] == []
    frozen = encoder.int8()
    assert list(frozen.parameters()) == []
    assert not torch.allclose(frozen(IDS), before, atol=1e-3)
    assert torch.allclose(frozen(IDS), encoder(IDS), atol=1e-6)
    assert list(encoder.parameters())


def test_rounding_passes_gradients_straight_through():
    weight = torch.randn(4, 6, requires_grad=True)
    (rounded(weight) * torch.arange(6)).sum().backward()
    assert torch.equal(weight.grad, torch.arange(6).float().expand(4, 6))


def test_an_encoder_full_of_zeros_takes_the_weights_of_another(tmp_path):
    bert_folder(tmp_path)
    trained = TextEncoder.read(tmp_path, trainable=True)
    empty = TextEncoder(trained.shape, trainable=True)
    empty.load_state_dict(trained.state_dict())
    assert torch.equal(empty(IDS), trained(IDS))


def test_what_is_no_bert_encoder_is_refused_by_name(tmp_path):
    def refused(message, **more):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        bert_folder(folder, **more)
        with pytest.raises(ValueError, match=message):
            TextEncoder.read(folder)

    refused("model_type is 'roberta', not 'bert'", model_type="roberta")
    refused("hidden_act is 'relu', not 'gelu'", hidden_act="relu")
    refused("mean or CLS pooling alone", pooling={"pooling_mode_max_tokens": True})
    refused("has no weight 'embeddings.LayerNorm.bias'", prefix="other.")
    with pytest.raises(ValueError, match=r"config\.json: not a readable JSON file"):
        TextEncoder.read(tmp_path / "missing")


def test_vectors_of_another_encoder_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    bert_folder(tmp_path / "other")
    other = TextEncoder.read(tmp_path / "other")
    vectors = {"texts": ["a"], "vectors": torch.zeros(1, 384), "encoder": other.digest()}
    torch.save(vectors, tmp_path / "features.pt")
    with pytest.raises(ValueError, match="holds vectors of another encoder"):
        Features(find_minilm(), tmp_path / "features.pt")
