"""Writes GGUF models of under a megabyte: random weights, a vocabulary of bytes or of few letters.

Enough for llama.cpp to load and run each architecture as it would a real one; what they write is
noise, except where ``script`` makes a llama model spell a given text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

UNK, BOS, EOS = 0, 1, 2
BYTES = 3  # id of <0x00>
WORDS = ("▁", "▁a", "▁the", "e", "t", "he")
N_VOCAB = BYTES + 256 + len(WORDS)

N_EMBD, N_HEAD, N_LAYER, N_FF = 64, 4, 2, 128
HEAD = N_EMBD // N_HEAD

Random = Callable[..., np.ndarray]


def byte(value: int) -> int:
    """Return the id of the token for one byte."""
    return BYTES + value


def write(
    path: Path,
    architecture: str = "llama",
    *,
    n_ctx: int = 512,
    seed: int = 0,
    letters: str = "",
    unigram: bool = False,
    end_of_turn: int | None = None,
    long_rope_beyond: int = 0,
    chat_template: str = "",
) -> Path:
    """Write a random model of ``architecture``, one of ``TENSORS``.

    Args:
        path: where to write.
        architecture: the model's.
        n_ctx: training length to declare.
        seed: of the weights.
        letters: know no bytes, but these letters and the newline.
        unigram: cut ``letters`` as T5's own tokenizer does, spaces before words included.
        end_of_turn: a token that ends a turn, to declare.
        long_rope_beyond: turn positions by other factors in contexts longer than this (llama).
        chat_template: Jinja, to declare.
    """
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    writer = _header(path, architecture, n_ctx, N_EMBD, letters, unigram)
    tensors = {"token_embd.weight": random(N_VOCAB, N_EMBD), **TENSORS[architecture](random)}
    if letters:
        count = BYTES + len(letters) + 1
        tensors |= {n: a[:count] for n, a in tensors.items() if len(a) == N_VOCAB}
    if end_of_turn is not None:
        writer.add_eot_token_id(end_of_turn)
    if chat_template:
        writer.add_chat_template(chat_template)
    if long_rope_beyond:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(long_rope_beyond)
        writer.add_rope_scaling_attn_factors(1.0)
        tensors["rope_factors_short.weight"] = _ones(HEAD // 2)
        tensors["rope_factors_long.weight"] = 8 * _ones(HEAD // 2)
    return _finish(writer, tensors)


def script(path: Path, pieces: list[int], *, n_ctx: int = 512, loops: bool = False) -> Path:
    """Write a llama model that, given BOS, spells ``pieces`` (each id at most once), then EOS.

    Its layers add nothing, each token's embedding is an axis of its own, and the output matrix
    points from each axis to the token that comes next.

    Args:
        path: where to write.
        pieces: token ids.
        n_ctx: training length to declare.
        loops: begin again instead of ending.
    """
    assert len(set(pieces)) == len(pieces), "a token can be followed by one token only"
    width = -(-N_VOCAB // 8) * 8
    following = dict(zip([BOS, *pieces], [*pieces, pieces[0] if loops else EOS], strict=True))
    output = np.zeros((N_VOCAB, width), np.float32)
    for token, after in following.items():
        output[after, token] = 10.0
    if loops:
        output[EOS] = -10.0  # What is drawn against loops must not end it either.
    tensors = {
        "token_embd.weight": np.eye(N_VOCAB, width, dtype=np.float32),
        "output_norm.weight": np.ones(width, np.float32),
        "output.weight": output,
    }
    for i in range(N_LAYER):
        for name, array in _attention(f"blk.{i}", width).items():
            tensors[name] = array
    return _finish(_header(path, "llama", n_ctx, width), tensors)


def _attention(block: str, width: int) -> dict[str, np.ndarray]:
    square = np.zeros((width, width), np.float32)
    tensors = {f"{block}.attn_{name}.weight": square for name in ("q", "k", "v", "output")}
    tensors |= {
        f"{block}.{name}_norm.weight": np.ones(width, np.float32) for name in ("attn", "ffn")
    }
    tensors |= {
        f"{block}.ffn_gate.weight": np.zeros((N_FF, width), np.float32),
        f"{block}.ffn_up.weight": np.zeros((N_FF, width), np.float32),
        f"{block}.ffn_down.weight": np.zeros((width, N_FF), np.float32),
    }
    return tensors


def _header(
    path: Path,
    architecture: str,
    n_ctx: int,
    width: int,
    letters: str = "",
    unigram: bool = False,
) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(width)
    writer.add_block_count(N_LAYER)
    writer.add_layer_norm_rms_eps(1e-6)
    if architecture == "mamba":
        writer.add_ssm_conv_kernel(4)
        writer.add_ssm_inner_size(2 * width)
        writer.add_ssm_state_size(8)
        writer.add_ssm_time_step_rank(4)
    else:
        writer.add_feed_forward_length(N_FF)
        writer.add_head_count(N_HEAD)
        writer.add_head_count_kv(N_HEAD)
    if architecture in ("gemma3", "gemma3n", "gemma-embedding"):
        writer.add_sliding_window(16)
    if architecture == "gemma2":
        writer.add_sliding_window(16)
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
    if architecture == "gemma-embedding":
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    if architecture.startswith("gemma") or architecture == "t5":
        writer.add_key_length(HEAD)
        writer.add_value_length(HEAD)
    if architecture == "qwen2vl":
        writer.add_rope_dimension_sections([2, 3, 3, 0])
    if architecture == "t5":
        writer.add_relative_attn_buckets_count(32)
        writer.add_decoder_start_token_id(BOS)
    if architecture == "bert":
        writer.add_causal_attention(False)
    if letters:
        _letter_vocabulary(writer, letters, unigram)
    else:
        _byte_vocabulary(writer)
    adds_eos = architecture == "t5"
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(not adds_eos)
    writer.add_add_eos_token(adds_eos)
    writer.add_add_space_prefix(unigram)
    return writer


def _byte_vocabulary(writer: gguf.GGUFWriter) -> None:
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *WORDS])
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
        + [kinds.BYTE] * 256
        + [kinds.NORMAL] * len(WORDS)
    )
    writer.add_token_scores([0.0] * (BYTES + 256) + [-1.0 - i for i in range(len(WORDS))])


def _letter_vocabulary(writer: gguf.GGUFWriter, letters: str, unigram: bool) -> None:
    kinds = gguf.TokenType
    writer.add_tokenizer_model("t5" if unigram else "gpt2")
    # Unigram writes the space as a letter of its own, byte-level BPE the newline.
    writer.add_token_list(["<unk>", "<s>", "</s>", *letters, "▁" if unigram else "Ċ"])
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.NORMAL] * (len(letters) + 1)
    )
    writer.add_token_scores([0.0] * BYTES + [-2.0] * (len(letters) + 1))
    writer.add_unk_token_id(UNK)
    writer.add_remove_extra_whitespaces(unigram)
    # BPE does not load without merges: one of letters that there are not.
    writer.add_token_merges(["Ġ Ġ"])


def _finish(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> Path:
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(writer.path)


def _ones(size: int = N_EMBD) -> np.ndarray:
    return np.ones(size, np.float32)


def _llama(random: Random) -> dict[str, np.ndarray]:
    tensors = {"output_norm.weight": _ones(), "output.weight": random(N_VOCAB, N_EMBD)}
    for i in range(N_LAYER):
        block = f"blk.{i}"
        tensors |= {f"{block}.{name}_norm.weight": _ones() for name in ("attn", "ffn")}
        for name in ("q", "k", "v", "output"):
            tensors[f"{block}.attn_{name}.weight"] = random(N_EMBD, N_EMBD)
        tensors[f"{block}.ffn_gate.weight"] = random(N_FF, N_EMBD)
        tensors[f"{block}.ffn_up.weight"] = random(N_FF, N_EMBD)
        tensors[f"{block}.ffn_down.weight"] = random(N_EMBD, N_FF)
    return tensors


def _gemma(random: Random) -> dict[str, np.ndarray]:
    # Gemma's output is its embedding matrix.
    return {name: array for name, array in _llama(random).items() if name != "output.weight"}


def _gemma2(random: Random) -> dict[str, np.ndarray]:
    tensors = _gemma(random)
    for i in range(N_LAYER):
        tensors[f"blk.{i}.post_attention_norm.weight"] = _ones()
        tensors[f"blk.{i}.post_ffw_norm.weight"] = _ones()
    return tensors


def _gemma3(random: Random) -> dict[str, np.ndarray]:
    tensors = _gemma2(random)
    for i in range(N_LAYER):
        tensors[f"blk.{i}.attn_q_norm.weight"] = _ones(HEAD)
        tensors[f"blk.{i}.attn_k_norm.weight"] = _ones(HEAD)
    return tensors


def _gemma3n(random: Random) -> dict[str, np.ndarray]:
    # Fixed by llama.cpp: four alternating-update streams, per-layer inputs of 256, rank 64.
    streams, width, rank = 4, 256, 64
    tensors = _gemma3(random) | {
        "per_layer_token_embd.weight": random(N_VOCAB, width * N_LAYER),
        "per_layer_model_proj.weight": random(width * N_LAYER, N_EMBD),
        "per_layer_proj_norm.weight": _ones(width),
        "altup_proj.weight": random(streams - 1, N_EMBD, N_EMBD),
        "altup_unembd_proj.weight": random(streams - 1, N_EMBD, N_EMBD),
    }
    for i in range(N_LAYER):
        block = f"blk.{i}"
        names = ("post_norm", "altup_correct_scale", "altup_router_norm", "laurel_post_norm")
        tensors |= {f"{block}.{name}.weight": _ones() for name in names}
        tensors |= {
            f"{block}.inp_gate.weight": random(width, N_EMBD),
            f"{block}.proj.weight": random(N_EMBD, width),
            f"{block}.altup_correct_coef.weight": random(streams, streams),
            f"{block}.altup_predict_coef.weight": random(streams * streams, streams),
            f"{block}.altup_router.weight": random(streams, N_EMBD),
            f"{block}.laurel_l.weight": random(rank, N_EMBD),
            f"{block}.laurel_r.weight": random(N_EMBD, rank),
        }
    return tensors


def _qwen2vl(random: Random) -> dict[str, np.ndarray]:
    tensors = _llama(random)
    for i in range(N_LAYER):
        for name in ("q", "k", "v"):
            tensors[f"blk.{i}.attn_{name}.bias"] = random(N_EMBD)
    return tensors


def _t5(random: Random) -> dict[str, np.ndarray]:
    tensors = {f"{side}.output_norm.weight": _ones() for side in ("enc", "dec")}
    tensors["output.weight"] = random(N_VOCAB, N_EMBD)
    parts = [(f"enc.blk.{i}", ("attn",)) for i in range(N_LAYER)]
    parts += [(f"dec.blk.{i}", ("attn", "cross_attn")) for i in range(N_LAYER)]
    for block, attentions in parts:
        tensors[f"{block}.attn_rel_b.weight"] = random(32, N_HEAD)
        for attention in attentions:
            tensors[f"{block}.{attention}_norm.weight"] = _ones()
            for name in ("q", "k", "v", "o"):
                tensors[f"{block}.{attention}_{name}.weight"] = random(N_EMBD, N_EMBD)
        tensors[f"{block}.ffn_norm.weight"] = _ones()
        tensors[f"{block}.ffn_gate.weight"] = random(N_FF, N_EMBD)
        tensors[f"{block}.ffn_up.weight"] = random(N_FF, N_EMBD)
        tensors[f"{block}.ffn_down.weight"] = random(N_EMBD, N_FF)
    return tensors


def _mamba(random: Random) -> dict[str, np.ndarray]:
    inner, state, rank = 2 * N_EMBD, 8, 4
    tensors = {"output_norm.weight": _ones(), "output.weight": random(N_VOCAB, N_EMBD)}
    for i in range(N_LAYER):
        block = f"blk.{i}"
        tensors |= {
            f"{block}.attn_norm.weight": _ones(),
            f"{block}.ssm_in.weight": random(2 * inner, N_EMBD),
            f"{block}.ssm_conv1d.weight": random(inner, 4),
            f"{block}.ssm_conv1d.bias": random(inner),
            f"{block}.ssm_x.weight": random(rank + 2 * state, inner),
            f"{block}.ssm_dt.weight": random(inner, rank),
            f"{block}.ssm_dt.bias": random(inner),
            f"{block}.ssm_a": -np.exp(random(inner, state)),
            f"{block}.ssm_d": _ones(inner),
            f"{block}.ssm_out.weight": random(N_EMBD, inner),
        }
    return tensors


TENSORS: dict[str, Callable[[Random], dict[str, np.ndarray]]] = {
    "llama": _llama,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma3n": _gemma3n,
    "qwen2vl": _qwen2vl,
    "t5": _t5,
    "mamba": _mamba,
    "bert": _llama,
    "gemma-embedding": _gemma3,
}
