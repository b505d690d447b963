"""A corpus: what the frozen LLM itself answers to everyday writing prompts.

    python -m export.corpus --llm MODEL.gguf --out runs/corpus.json --count 1200 --seed 0
    python -m export.corpus … --samples 6 --temperature 0.6    # the best of six answers to each

They are what the synthetic personas (``export/synthetic/personas.py``) rewrite. Texts and prompts
are the model's and ours: no person's writing is in them.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from export.data.leave_one_out import opening
from export.data.template import TEMPLATE, place_soft, read_template
from export.models.base_llm import FrozenLLM
from export.models.batching import left_padded
from export.models.features import Features
from export.models.text_encoder import find_minilm
from export.synthetic.corpus import MOST, CorpusText, prompts
from export.tools.commands import (
    check_output,
    check_seed,
    number,
    one_line_errors,
    positive,
    replacing,
)
from export.training.distributed import Distributed

MAX_NEW = 56  # tokens of an answer, before it is cut at a sentence's end
MAX_CHARS = 200
BATCH = {"cpu": 64, "cuda": 1024}  # a GPU takes as long for few


def clean(answer: str, prompt: str = "") -> str | None:
    """The first sentences of an answer; None where it is not running text of a person's.

    Nor may it repeat itself, or begin with the prompt.
    """
    text = answer.strip().strip('"“”').strip()
    if re.search(r"[\[\]()*#<>|@{}]|https?:|\bAI\b|language model|^\W*(Title|Subject)\b", text):
        return None
    text = opening(" ".join(text.split()), MAX_CHARS)
    whole = text.endswith((".", "!", "?")) and len(text) <= MAX_CHARS
    words = re.findall(r"\w+", text.casefold())
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    begun = re.findall(r"\w+", prompt.casefold())
    again = len(set(fours)) < len(fours) or (begun and words[: len(begun)] == begun)
    return text if whole and not again and len(text.split()) >= 4 else None


@torch.inference_mode()
def answers(llm: FrozenLLM, asked: Sequence[str], seed: int, temperature: float = 0.8) -> list[str]:
    """What the model says to each prompt, sampled from the 50 likeliest tokens."""
    torch.manual_seed(seed)
    found: list[str] = []
    begun = time.time()
    batch = BATCH[llm.device.type]
    for start in range(0, len(asked), batch):
        rows = [llm.around_soft(prompt)[0] for prompt in asked[start : start + batch]]
        ids, mask = left_padded(rows, llm.end)
        made: Any = llm.model.generate(
            input_ids=ids.to(llm.device),
            attention_mask=mask.long().to(llm.device),
            do_sample=True,
            temperature=temperature,
            top_k=50,  # nucleus sampling would sort the vocabulary at every token
            max_new_tokens=MAX_NEW,
            eos_token_id=llm.end,
            pad_token_id=llm.end,
        )
        found += llm.tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
        print(f"{len(found)}/{len(asked)} answers, {time.time() - begun:.0f} s", flush=True)
    return found


def most_relevant(
    features: Features, asked: Sequence[tuple[str, str]], said: Sequence[Sequence[str]]
) -> list[CorpusText]:
    """Of the answers to each prompt the one that has most to do with it, where any is kept.

    Args:
        features: says how near two texts are.
        asked: prompts and topics.
        said: the plain texts that answer each; may be none.
    """
    features.encode(text for texts in said for text in texts)
    prompts = features.vectors_of([prompt for prompt, _ in asked])
    found = []
    for (prompt, topic), vector, texts in zip(asked, prompts, said, strict=True):
        if texts:
            best = int((features.vectors_of(texts) @ vector).argmax())
            found.append(CorpusText(prompt, topic, texts[best]))
    return found


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--llm", required=True, help="GGUF file, or a folder or name of a Hugging Face model")
    add("--out", type=Path, required=True, help="JSON file to write")
    add("--count", type=int, default=1200, help="prompts to ask (default: 1200)")
    add("--seed", type=int, default=0, help="of prompts and answers (default: 0)")
    add("--encoder", type=Path, help="BERT folder, says how near an answer is (default: MiniLM)")
    add("--samples", type=positive, default=1,
        help="answers to each prompt, of which the nearest to it is kept (default: 1)")  # fmt: skip
    add("--temperature", type=number("'{}' is not a temperature above 0", 0.01), default=0.8,
        help="of the answers (default: 0.8)")  # fmt: skip
    add("--dtype", choices=("bfloat16", "float32"), default="float32")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="where to compute (default: a GPU, if there is one)")  # fmt: skip
    add("--template", type=Path, metavar="FILE", help="JSON (default: SmolLM2's ChatML)")
    args = parser.parse_args(words)
    if not 1 <= args.count <= MOST:
        parser.error(f"--count must be from 1 to {MOST}, not {args.count}")
    check_seed(parser, args.seed)
    check_output(parser, args.out)
    with one_line_errors("export.corpus"):
        asked = prompts(args.count, args.seed)
        template = place_soft(read_template(args.template), "after") if args.template else TEMPLATE
        device = Distributed(args.device).device
        llm = FrozenLLM(args.llm, template, getattr(torch, args.dtype), device)
        each = [prompt for prompt, _ in asked for _ in range(args.samples)]
        said = list(map(clean, answers(llm, each, args.seed, args.temperature), each))
        kept = [
            list(filter(None, said[start : start + args.samples]))
            for start in range(0, len(said), args.samples)
        ]
        texts = most_relevant(Features(args.encoder or find_minilm(), device=device), asked, kept)
        with replacing(args.out) as file:
            json.dump({"texts": [asdict(text) for text in texts]}, file, indent=0)
        print(f"{len(texts)} of {len(asked)} prompts have an answer in plain text: {args.out}")


if __name__ == "__main__":
    main()
