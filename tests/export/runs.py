"""A made-up run: what every method answered is drawn by a seed, better for some than for others."""

import numpy as np

from export.evaluation.records import Record, Run

WORDS = ("fix", "the", "leak", "in", "parser", "add", "tests", "for", "empty", "files", "drop")
# How often a method takes the gold's word, and its nats a token.
SKILL = {"none": (0.3, 4.0), "bm25-4": (0.45, 3.5), "persona": (0.6, 3.0), "swapped": (0.4, 3.6)}


def make_run(
    methods=tuple(SKILL), users=24, seed=0, beam=(), sample=None, task=6, luck=0, **settings
) -> Run:
    """Three questions a user; ``sample`` maps a method to how many users it answered for.

    ``luck`` shifts what the methods answer, not what was asked.
    """
    rng = np.random.default_rng(seed)
    golds, inputs, asked = {}, {}, []
    for user in range(users):
        length = int(rng.integers(1, 60))
        for number in range(3):
            id_ = f"{user}-{number}"
            golds[id_] = " ".join(rng.choice(WORDS, 6))
            inputs[id_] = f"Generate a subject for change {id_}"
            asked.append((id_, f"user{user}", length))
    records = []
    for method in methods:
        right, nats = SKILL[method]
        rng = np.random.default_rng([seed, luck, list(SKILL).index(method)])
        limit = (sample or {}).get(method, users)
        for id_, user, length in asked[: 3 * limit]:
            keep = rng.random((2, 6)) < right
            words = golds[id_].split()
            greedy, wide = (
                " ".join(w if k else "other" for w, k in zip(words, row, strict=True))
                for row in keep
            )
            records.append(
                Record(
                    id=id_,
                    user=user,
                    method=method,
                    task=task,
                    history=length,
                    prediction=greedy,
                    beam=wide if method in beam else None,
                    nats=float(rng.normal(nats, 0.5) * 6),
                    target_tokens=6,
                    prompt_tokens=int(rng.integers(50, 90)),
                    first_s=float(rng.uniform(0.1, 0.3)),
                    answer_s=float(rng.uniform(0.4, 1.5)),
                )
            )
    return Run({"seed": seed, **settings}, f"LaMP_{task}_style", golds, records, inputs)
