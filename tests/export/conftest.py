"""Small real things to train on: a LaMP-style folder, the packaged encoder, the default model."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from export.data.template import TEMPLATE
from export.models.base_llm import FrozenLLM
from export.models.plug import PersonaPlug, PlugConfig
from export.models.text_encoder import TextEncoder, find_minilm
from export.synthetic.corpus import LEAST
from ppedge.defaults import find_model
from tests import tiny_gguf as tiny_models

# Two people who write commit subjects in two manners.
MANNERS = {"ann": "core: {}", "bob": "[{}] - DONE"}
CHANGES = ("fix the leak", "drop dead code", "add a test", "read the header once", "sort names")


def commit(index: int) -> str:
    return f"This change makes us {CHANGES[index]}. It was needed because of ticket {index}."


@pytest.fixture(scope="session")
def lamp_folder(tmp_path_factory) -> Path:
    """LaMP_6_style with two users in train and the same two, renamed, in dev."""
    root = tmp_path_factory.mktemp("lamp")
    folder = root / "LaMP_6_style"
    folder.mkdir()
    for split in ("train", "dev"):
        questions, golds = [], []
        for user, manner in MANNERS.items():
            profile = [
                {"id": str(i), "text": commit(i), "title": manner.format(CHANGES[i])}
                for i in range(4)
            ]
            name = f"{split}-{user}"
            prompt = "Generate a subject for the following commit message: " + commit(4)
            questions.append({"id": name, "user_id": name, "input": prompt, "profile": profile})
            golds.append({"id": name, "output": manner.format(CHANGES[4])})
        for kind, value in (
            ("questions", questions),
            ("outputs", {"task": "LaMP_6_style", "golds": golds}),
        ):
            with gzip.open(folder / f"{split}_{kind}.json.gz", "wt") as file:
                json.dump(value, file)
    return root


@pytest.fixture(scope="session")
def minilm() -> TextEncoder:
    return TextEncoder.read(find_minilm()).eval()


@pytest.fixture(scope="session")
def frozen() -> FrozenLLM:
    return FrozenLLM(find_model(), TEMPLATE, torch.float32)


@pytest.fixture
def plug() -> PersonaPlug:
    torch.manual_seed(0)
    config = PlugConfig(d_style=16)
    plug = PersonaPlug(config, torch.randn(64, config.n_embd) * 0.13)
    with torch.no_grad():  # An untrained null note is all zeros, which hides mistakes.
        plug.null_value.normal_()
    return plug.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    """A random llama of 64 wide, with a vocabulary of bytes."""
    return tiny_models.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf", n_ctx=2048)


@pytest.fixture(scope="session")
def tiny_llm(tiny_gguf) -> FrozenLLM:
    return FrozenLLM(tiny_gguf, TEMPLATE, torch.float32)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A random BERT of two layers that reads MiniLM's tokens."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48
    )
    BertModel(config).save_pretrained(folder)
    shutil.copy(find_minilm() / "tokenizer.json", folder)
    return folder


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A corpus, as few as synthetic personas can do with."""
    texts = [
        {"prompt": f"Write about {i}.", "topic": f"{i}", "text": f"Number {i} is a good one."}
        for i in range(LEAST)
    ]
    (tmp_path / "corpus.json").write_text(json.dumps({"texts": texts}))
    return tmp_path / "corpus.json"
