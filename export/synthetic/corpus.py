"""The self-generated corpus: plain texts of the frozen LLM, and the prompts that it is asked.

``python -m export.corpus`` writes the file. No person's writing is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.synthetic.personas import WORDS
from export.tools.json_files import DataError, read

REPEATS = 8  # times that a request is among the prompts: a form comes back with every topic
MOST = len(WORDS["forms"]) * len(WORDS["topics"]) + REPEATS * len(WORDS["requests"])  # prompts
LEAST = 200  # texts: an eighth of them, for dev, is to fill a history


@dataclass(frozen=True)
class CorpusText:
    """A prompt, what it is about, and the model's own answer."""

    prompt: str
    topic: str
    text: str


def prompts(count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` prompts with their topics, at random.

    A form with a topic comes once; a request of everyday life up to ``REPEATS`` times, to be
    answered in as many ways. None is among the prompts of ``export.free_prompts``.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= count <= MOST:
        raise ValueError(f"{count} prompts cannot be made, only 1 to {MOST}")
    found = [(form.format(topic), topic) for topic in WORDS["topics"] for form in WORDS["forms"]]
    found += [(prompt, topic) for prompt, topic in WORDS["requests"] for _ in range(REPEATS)]
    chosen = np.random.default_rng([seed, 8]).permutation(MOST)[:count]
    return [found[i] for i in chosen.tolist()]


def read_corpus(path: Path) -> list[CorpusText]:
    """Read what ``export.corpus`` wrote.

    Raises:
        DataError: the file cannot be read, or is not such a one.
    """
    try:
        texts = [CorpusText(**each) for each in read(path)["texts"]]
    except (TypeError, KeyError) as error:
        raise DataError(f"{path}: not a file of export.corpus: {error!r}") from None
    if len(texts) < LEAST:
        raise DataError(f"{path}: {len(texts)} texts are too few for a history and what is asked")
    return texts
