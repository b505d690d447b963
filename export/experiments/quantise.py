"""Write another quantisation of a GGUF, to see what a plug loses by it.

    python -m export.experiments.quantise MODEL.gguf --type Q4_0 --out other.gguf
    python -m export.evaluate --llm other.gguf … --json other.json
    python -m export.experiments.compare model.json other.json

What was rounded stays rounded: from a 4-bit model, 8 bits and float16 lose nothing and win nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from export.tools.commands import check_output, one_line_errors, positive
from ppedge.llm.binding.ggml import C, because, log

# enum llama_ftype of llama.h.
TYPES = {
    "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_M": 12,
    "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18,
}  # fmt: skip


def quantise(source: Path, target: Path, kind: str, n_threads: int) -> None:
    """Write ``source`` as ``kind``, one of `TYPES`, to ``target``.

    Raises:
        ValueError: llama.cpp refuses.
    """
    params = C.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = TYPES[kind], n_threads, True
    log.install()  # or else it tells of every tensor
    with log.complaints() as lines:
        code = C.llama_model_quantize(os.fsencode(source), os.fsencode(target), params)
    if code:
        raise ValueError(f"{source}: llama.cpp could not write it as {kind}{because(lines)}")


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.experiments.quantise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.gguf")
    add("--type", choices=TYPES, required=True, dest="kind")
    add("--out", type=Path, required=True, help="GGUF to write, which must not exist")
    add("--threads", type=positive, default=os.cpu_count() or 1)
    args = parser.parse_args(words)
    check_output(parser, args.out)
    if args.out.exists():
        parser.error(f"{args.out}: exists already; name another file")
    with one_line_errors("export.experiments.quantise"):
        if not args.model.is_file():
            raise ValueError(f"{args.model}: there is no such file")
        quantise(args.model, args.out, args.kind, args.threads)
        print(f"{args.out}: {args.kind}, {args.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
