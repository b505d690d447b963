"""What a new process takes that answers by llama-cpp-python's own ``Llama``, as many tokens long.

python -m tests.bench.plain_llama MODEL.gguf PROMPT N_TOKENS [THREADS]
"""

from __future__ import annotations

import sys


def main(model: str, prompt: str, n_tokens: str, threads: str = "0") -> None:
    """Write so many tokens; the end of the text is taken for no end."""
    from llama_cpp import Llama

    llama = Llama(model, n_ctx=2048, n_threads=int(threads) or None, verbose=False)
    llama_end = llama.token_eos()
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    pieces = llama.create_completion(
        text,
        max_tokens=int(n_tokens),
        temperature=0.2,
        seed=1,
        stream=True,
        logit_bias={llama_end: -100.0},
    )
    for piece in pieces:
        print(piece["choices"][0]["text"], end="", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
