"""One question, one method: the answer, the gold answer's likelihood, and what they took.

Every answer begins with a context that holds nothing. The clock runs from there: retrieval,
encoding of the prompt, pooling, projection and n-gram cache, prefill, and decoding. The
likelihood of the gold answer is taken afterwards, from the same decoded prompt, and is not timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from export.data.tasks import task_of
from export.evaluation.methods import Asked, Bench, Composed, Method
from export.evaluation.records import Record
from ppedge.llm.llm import LLM, Sampling, Score
from ppedge.llm.sampling import DRY_MULTIPLIER

if TYPE_CHECKING:
    from export.baselines.lora import UserLora

Decode = Literal["greedy", "beam", "both"]
BEAM_WIDTH = 4


@dataclass(frozen=True)
class _Written:
    """An answer: as decoded greedily (or the best option), as found by beam search, and when."""

    prediction: str
    beam: str | None
    gold: Score
    answered: float


def answer(
    bench: Bench,
    method: Method,
    asked: Asked,
    decode: Decode,
    dry_multiplier: float = DRY_MULTIPLIER,
) -> tuple[Record, bool]:
    """Ask one question by one method.

    Closed tasks are answered with the most likely of their options, each scored whole, its end
    included. Open ones are decoded: the likeliest token at each place (greedy), by a beam search
    of width 4, or both; then the greedy answer is the one that is timed.

    Args:
        bench: the model and what the methods need.
        method: any but "lora".
        asked: the question.
        decode: how open tasks are answered; a beam alone stands in the place of the greedy
            answer, ``Record.prediction``.
        dry_multiplier: of greedy answers, see ``ppedge.llm.sampling``.

    Returns:
        The record; and whether the prompt had to be shortened to fit the context.

    Raises:
        ModelError: even the shortest form of the prompt does not fit.
        PlugError, ValueError: as `Bench.warm` and `Bench.compose`.
    """
    llm, question = bench.llm, asked.question
    bench.warm(method, asked)
    llm.clear()
    begun = perf_counter()
    composed = bench.compose(method, asked)
    llm.prefill(composed.segments)
    first = perf_counter()
    if task_of(question.task).kind == "text":
        written = _decoded(llm, composed, asked, decode, dry_multiplier)
    else:
        written = _chosen(llm, composed, asked)
    record = Record(
        id=question.id,
        user=question.user,
        method=method.name,
        task=question.task,
        history=len(question.history),
        prediction=written.prediction,
        beam=written.beam,
        nats=-written.gold.logprob,
        target_tokens=written.gold.tokens,
        prompt_tokens=len(llm.tokens(composed.segments)),
        first_s=first - begun,
        answer_s=written.answered - begun,
    )
    return record, composed.shortened


def _chosen(llm: LLM, composed: Composed, asked: Asked) -> _Written:
    """The most likely option; of equals, the first."""
    options = task_of(asked.question.task).options(asked.question.input)
    scores = llm.score(composed.segments, options, end=True, processor=composed.processor)
    answered = perf_counter()
    best = max(scores, key=lambda score: score.logprob)
    gold = next((score for score in scores if score.option == asked.question.output), None)
    if gold is None:  # Nothing obliges a data set's golds to be among its options.
        gold = _gold(llm, composed, asked)
    return _Written(best.option, None, gold, answered)


def _decoded(
    llm: LLM, composed: Composed, asked: Asked, decode: Decode, dry_multiplier: float
) -> _Written:
    max_tokens = task_of(asked.question.task).max_tokens
    segments, processor = composed.segments, composed.processor
    greedy = beam = None
    answered = 0.0
    if decode != "beam":
        sampling = Sampling(max_tokens, temperature=0.0, dry_multiplier=dry_multiplier)
        greedy = llm.generate(segments, sampling, processor=processor).read().strip()
        answered = perf_counter()
    if decode != "greedy":
        found = llm.beam_search(
            segments, width=BEAM_WIDTH, max_tokens=max_tokens, processor=processor
        )
        beam = found.text.strip()
        answered = answered or perf_counter()
    gold = _gold(llm, composed, asked)
    if greedy is None:
        return _Written(beam or "", None, gold, answered)
    return _Written(greedy, beam, gold, answered)


def _gold(llm: LLM, composed: Composed, asked: Asked) -> Score:
    gold = [asked.question.output]
    [score] = llm.score(composed.segments, gold, end=True, processor=composed.processor)
    return score


def answer_by_lora(lora: UserLora, asked: Asked) -> Record:
    """Ask one question of the model that was fine-tuned on its user, in torch.

    Its seconds are torch's, on the dequantised model, and not to be set beside the others'.

    Args:
        lora: fitted to the question's user.
        asked: the question.
    """
    question = asked.question
    task = task_of(question.task)
    options = task.options(question.input)
    begun = perf_counter()
    if options:
        scored = lora.nlls(question.input, options)
        first = answered = perf_counter()
        prediction = options[min(range(len(options)), key=lambda i: scored[i][0])]
    else:
        lora.generate(question.input, 1)
        first = perf_counter()
        prediction = lora.generate(question.input, task.max_tokens).strip()
        # The first token was made twice, to know when it came.
        answered = perf_counter() - (first - begun)
    nats, tokens = lora.nll(question.input, question.output)
    before, after = lora.llm.around_soft(question.input)
    return Record(
        id=question.id,
        user=question.user,
        method="lora",
        task=question.task,
        history=len(question.history),
        prediction=prediction,
        beam=None,
        nats=nats,
        target_tokens=tokens,
        prompt_tokens=len(before) + len(after),
        first_s=first - begun,
        answer_s=answered - begun,
    )
