"""What everybody writes like: the texts that the run time sets a person's shapes against.

    python -m export.everybody --out ppedge/style/everybody.json

The model's own answers to everyday prompts (those of ``export.corpus``), sampled four to a prompt
through llama.cpp, so no person's writing is in them. What the run time counts in them is written
too: a model with the same tokenizer need not count again, which takes some tenths of a second.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from export.synthetic.corpus import prompts
from export.tools.commands import check_output, check_seed, one_line_errors, positive, replacing
from ppedge.llm.llm import LLM
from ppedge.llm.sampling import Sampling
from ppedge.personalizer import Personalizer
from ppedge.style.manner import Voices

EACH = 4  # answers to a prompt
ABOUT = "What a model answers to everyday prompts by itself (python -m export.everybody)."


def texts(personalizer: Personalizer, count: int, seed: int) -> list[dict[str, object]]:
    """``count`` times `EACH` texts, and whether each came to its end."""
    found: list[dict[str, object]] = []
    for number, (prompt, _) in enumerate(prompts(count, seed)):
        sampling = Sampling(temperature=0.8, max_tokens=80, seed=EACH * number)
        segments = personalizer.segments(prompt, None)
        for each in personalizer.llm.candidates(segments, sampling, count=EACH).read():
            found.append({"text": each.text, "ended": each.finish == "stop"})
    return found


def told(made: list[dict[str, object]], llm: LLM) -> str:
    """The file's JSON: texts a line each, and the counts of their shapes in the model's tokens."""
    head = {"about": ABOUT, "tokenizer_sha256": llm.fingerprint.tokenizer_sha256}
    counts = json.dumps(Voices(llm).count(made).tables(), ensure_ascii=False)
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in made)
    return f'{json.dumps(head)[:-1]},\n"counts": {counts},\n"texts": [\n{lines}\n]}}\n'


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.everybody",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="JSON file to write")
    add("--llm", type=Path, help="GGUF file (default: the packaged model)")
    add("--count", type=positive, default=60, help="prompts, four answers each (default: 60)")
    add("--seed", type=int, default=5, help="of the prompts (default: 5)")
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    check_output(parser, args.out)
    with one_line_errors("export.everybody"), Personalizer.open(args.llm) as personalizer:
        made = texts(personalizer, args.count, args.seed)
        with replacing(args.out) as file:
            file.write(told(made, personalizer.llm))
    print(f"{len(made)} texts: {args.out}")


if __name__ == "__main__":
    main()
