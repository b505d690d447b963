"""llama.cpp's sampler chain: from logits to a token."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ppedge.llm.binding.ggml import C
from ppedge.llm.binding.model import Model
from ppedge.llm.sampling import Sampling

_PENALTY_WINDOW: Final = 64
# DRY ("don't repeat yourself"): where the last n tokens stand earlier too, the token that followed
# them there loses multiplier * base ** (n - allowed) from its logit, for n >= allowed. The figures
# are those of its author (oobabooga/text-generation-webui#5677).
_DRY_BASE: Final = 1.75
_DRY_ALLOWED: Final = 2
_DRY_WINDOW: Final = 1024


class Sampler:
    """llama.cpp's sampler chain: penalties, DRY, top-k, top-p, min-p, temperature, then a draw.

    Args:
        model: whose logits are sampled.
        temperature: 0 takes the likeliest token.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
        min_p: 0 keeps all.
        repeat_penalty: 1 is none; looks at the last 64 sampled tokens.
        dry_multiplier: 0 is none; looks at the last 1024 sampled tokens.
        seed: 0..2**32 - 2.
    """

    def __init__(
        self,
        model: Model,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repeat_penalty: float,
        dry_multiplier: float,
        seed: int,
    ) -> None:
        """Build the chain."""
        self._candidates = np.zeros(model.n_vocab, np.dtype(C.llama_token_data))
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if repeat_penalty != 1:
            self._add(_penalties(model.n_vocab, repeat_penalty))
        if dry_multiplier > 0:
            self._add(_dry(model, dry_multiplier))
        if temperature == 0:
            self._add(C.llama_sampler_init_greedy())
            return
        if top_k > 0:
            self._add(C.llama_sampler_init_top_k(top_k))
        if top_p < 1:
            self._add(C.llama_sampler_init_top_p(top_p, 1))
        if min_p > 0:
            self._add(C.llama_sampler_init_min_p(min_p, 1))
        self._add(C.llama_sampler_init_temp(temperature))
        self._add(C.llama_sampler_init_dist(seed))

    @classmethod
    def of(cls, model: Model, sampling: Sampling, seed: int) -> Sampler:
        """The chain for some settings, with a seed of its own."""
        return cls(
            model,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repeat_penalty=sampling.repeat_penalty,
            dry_multiplier=sampling.dry_multiplier,
            seed=seed,
        )

    def _add(self, sampler: Any) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Draw a token by ``logits``, float32 [n_vocab].

        Their largest must be finite; llama.cpp would abort.
        """
        # What cannot be drawn need not be weighed: where rules leave some hundreds of tokens, that
        # is most of the chain's time.
        possible = np.flatnonzero(logits > -np.inf)
        candidates, size = self._candidates[: len(possible)], len(possible)
        candidates["id"] = possible
        candidates["logit"] = logits[possible]
        candidates["p"] = 0
        array = C.llama_token_data_array(
            candidates.ctypes.data_as(C.llama_token_data_p), size, -1, False
        )
        C.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        C.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the chain; safe to call twice."""
        if self._chain:
            C.llama_sampler_free(self._chain)
        self._chain = None


def _penalties(n_vocab: int, repeat: float) -> Any:
    make = C.llama_sampler_init_penalties
    rest = (_PENALTY_WINDOW, repeat, 0.0, 0.0)
    # Newer llama.cpp takes the vocabulary's size first.
    return make(n_vocab, *rest) if len(make.argtypes) == 5 else make(*rest)


def _dry(model: Model, multiplier: float) -> Any:
    make = C.llama_sampler_init_dry
    rest = (multiplier, _DRY_BASE, _DRY_ALLOWED, _DRY_WINDOW, (ctypes.c_char_p * 1)(), 0)
    # Older llama.cpp takes the context's size second.
    size = (model.context.n_ctx,) if len(make.argtypes) == 8 else ()
    return make(model.vocab, *size, *rest)
