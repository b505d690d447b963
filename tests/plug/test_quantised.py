"""A plug also fits its model rounded otherwise, and no other model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ppedge.defaults import DEFAULT_PLUG, find_model
from ppedge.errors import PlugError
from ppedge.llm.fingerprint import fingerprint, sampled_rows
from ppedge.llm.gguf import Gguf
from ppedge.plug.plug import Plug
from ppedge.plug.quantised import is_requantised


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    with Gguf(find_model()) as gguf:
        return sampled_rows(gguf)


@pytest.fixture(scope="module")
def plug() -> Plug:
    return Plug(DEFAULT_PLUG)


def rounded(rows: np.ndarray, bits: int) -> np.ndarray:
    """Rows as blocks of 32 numbers with a scale each hold them."""
    blocks = rows.reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    return (np.round(blocks / scale) * scale).reshape(rows.shape).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 5, 6, 8, 16])
def test_the_default_model_is_known_again_at_every_usual_width(
    plug: Plug, rows: np.ndarray, bits: int
) -> None:
    assert is_requantised(plug.manifest.llm.embedding_sha256, rounded(rows, bits))


def test_rows_of_other_tokens_another_width_and_an_unknown_model_are_not(
    plug: Plug, rows: np.ndarray
) -> None:
    name = plug.manifest.llm.embedding_sha256
    assert not is_requantised(name, rows[::-1])
    assert not is_requantised(name, rows[:, :64])
    assert not is_requantised("0" * 64, rows)


def test_only_the_embedding_may_differ(plug: Plug, rows: np.ndarray) -> None:
    found = replace(fingerprint(find_model()), embedding_sha256="f" * 64)
    plug.check_model(found, Path("other.gguf"), rounded(rows, 8))
    with pytest.raises(PlugError, match="embedding rows"):
        plug.check_model(found, Path("other.gguf"))
    other = replace(found, tokenizer_sha256="f" * 64)
    with pytest.raises(PlugError, match="tokenizer"):
        plug.check_model(other, Path("other.gguf"), rows)
