"""The methods that an evaluation compares: which prompt and which soft tokens each one makes.

    method = parse_method("instruction+bm25-4")
    bench = Bench(llm, plug, instruction=read_instruction(...), seed=0)
    bench.warm(method, asked)                  # what a person's machine has stored beforehand
    composed = bench.compose(method, asked)    # timed: retrieval, encoding, pooling, projection
    llm.score(composed.segments, ...)

Every method but ``lora`` ends as segments for one and the same ``LLM``, in the plug's template.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from export.baselines.retrieval import (
    BUDGET,
    Dense,
    latest,
    prompt_with_notes,
    rank_bm25,
    rank_recency,
)
from export.data.lamp import Question
from export.data.tasks import task_of
from export.evaluation.persona_methods import (
    ABLATIONS,
    attend,
    memory,
    project,
    shuffled,
)
from export.models.note_vectors import NoteVectors
from ppedge.llm.guidance import MAX_STRENGTH
from ppedge.llm.llm import LLM
from ppedge.llm.logits_processor import LogitsProcessor, chain
from ppedge.llm.ngram_cache import NgramCache
from ppedge.llm.segments import Segment, Soft
from ppedge.llm.turn_end import TurnEnd
from ppedge.notes.reader import Note
from ppedge.plug.plug import Plug
from ppedge.plug.template import render

if TYPE_CHECKING:
    from export.baselines.methods import TunedUser

RENAMED = {"literal": "ngrams", "persona-noliteral": "persona-nongrams"}  # since 0.1
TUNED = ("usertuned", "instruction+usertuned", "lora")  # costly: for a sample of users
_PERSONAS = ("persona", "swapped", "shuffled", *ABLATIONS)
_PLAIN = ("none", "instruction", "ngrams", *_PERSONAS, *TUNED)
_RETRIEVAL = re.compile(r"(?:(instruction|persona)\+)?(recency|bm25|dense)-([1-9]\d{0,5})")
_GUIDED = re.compile(r"(persona|swapped)\*(\d{1,2}(?:\.\d{1,4})?)")
_LATEST = re.compile(r"(persona|swapped)@([1-9]\d{0,5})")
KNOWN = (
    *_PLAIN, "persona*S", "swapped*S", "persona@K", "swapped@K",
    *(f"{soft}{ranker}-K" for soft in ("", "instruction+", "persona+")
      for ranker in ("recency", "bm25", "dense")),
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: as given on the command line.
        soft: what its soft tokens say, "" where it has none: "instruction", or one of "persona",
            "swapped", "shuffled", "usertuned", ... by name.
        ranker: "recency", "bm25" or "dense" where history items stand in the prompt, else "".
        k: how many of them.
        strength: of the persona, see ``ppedge.llm.guidance``.
        latest: how many of a history's latest notes the persona is made of; 0: all.
    """

    name: str
    soft: str = ""
    ranker: str = ""
    k: int = 0
    strength: float = 1.0
    latest: int = 0

    @property
    def needs_instruction(self) -> bool:
        """Whether it needs the trained soft instruction."""
        return self.soft.startswith("instruction")

    @property
    def attends(self) -> bool:
        """Whether it pools a history by attention."""
        return self.soft in _PERSONAS or self.name == "ngrams"

    @property
    def remembers(self) -> bool:
        """Whether it blends the history's wording in, where the plug has an n-gram cache."""
        return self.attends and self.soft != "persona-nongrams"

    @property
    def tuned(self) -> bool:
        """Whether it trains something for each user, and so answers for a sample of them."""
        return self.name in TUNED


def parse_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none; lists those that there are.
    """
    if name in RENAMED:
        print(f"note: method {name} is now called {RENAMED[name]}", file=sys.stderr)
        name = RENAMED[name]
    if name in ("none", "ngrams", "lora"):
        return Method(name)
    if name in _PLAIN:
        return Method(name, soft=name)
    if found := _RETRIEVAL.fullmatch(name):
        return Method(name, soft=found[1] or "", ranker=found[2], k=int(found[3]))
    if (found := _GUIDED.fullmatch(name)) and float(found[2]) <= MAX_STRENGTH:
        return Method(name, soft=found[1], strength=float(found[2]))
    if found := _LATEST.fullmatch(name):
        return Method(name, soft=found[1], latest=int(found[2]))
    raise ValueError(
        f"no method '{name}' (K is a number of notes, S a strength of 0 to {MAX_STRENGTH:g}); "
        f"known: {', '.join(KNOWN)}"
    )


@dataclass(frozen=True)
class Asked:
    """A question, and the history that the swapped control puts in place of its own.

    Attributes:
        question: what is asked, by whom, with their history.
        swap: another user's history; empty where nobody swaps.
    """

    question: Question
    swap: tuple[Note, ...] = ()


@dataclass(frozen=True, eq=False)
class Composed:
    """What a method gives the model.

    Attributes:
        segments: for `LLM`.
        shortened: whether the prompt had to lose history items or words to fit the context.
        memory: the history's wording, where the method and the plug have an n-gram cache.
        guide: all of that and guidance, where the method's strength is not 1.
        turn_end: of a plug's chat, where it speaks.
    """

    segments: list[Segment]
    shortened: bool
    memory: NgramCache | None = None
    guide: LogitsProcessor | None = None
    turn_end: TurnEnd | None = None

    @property
    def processor(self) -> LogitsProcessor | None:
        """For `LLM`: what all of these do to each token."""
        return self.guide or chain([each.process for each in (self.turn_end, self.memory) if each])


class Bench:
    """The model, the plug and what the methods keep between questions.

    Args:
        llm: answers.
        plug: made for it.
        instruction: trained soft instruction, for the methods that use it.
        tuned: tunes soft tokens to a user, for the methods that use it.
        seed: of what is shuffled.
    """

    def __init__(
        self,
        llm: LLM,
        plug: Plug,
        *,
        instruction: Soft | None = None,
        tuned: TunedUser | None = None,
        seed: int = 0,
    ) -> None:
        self.llm, self.plug = llm, plug
        self._instruction = instruction
        self._tuned = tuned
        self._seed = seed
        self._turn_end = TurnEnd.of(llm, render(plug.manifest.template, "", None))
        self._vectors = NoteVectors(plug)
        self._dense: Dense | None = None

    def history(self, method: Method, asked: Asked) -> tuple[Note, ...]:
        """The history that goes into the method's persona."""
        question = asked.question
        if method.soft == "shuffled":
            return shuffled(question.history, question.user, self._seed)
        notes = asked.swap if method.soft == "swapped" else question.history
        return latest(notes, method.latest) if method.latest else notes

    def warm(self, method: Method, asked: Asked) -> None:
        """Make ready what a person's machine has stored: vectors, an index, tuned soft tokens.

        Raises:
            PlugError: the plug's graph fails.
            ValueError: the user has nothing to tune to.
        """
        if method.attends:
            self._vectors.rows(self.history(method, asked))
        elif method.tuned and self._tuned:
            self._tuned.soft(method.name, asked.question)
        if method.ranker == "bm25":
            rank_bm25(asked.question, 1)
        elif method.ranker == "dense":
            self._dense = self._dense or Dense()
            self._dense.warm(asked.question)

    def compose(self, method: Method, asked: Asked) -> Composed:
        """Retrieve, encode, pool, project and remember; what the model is then given.

        A prompt that does not fit the context loses words of its history items and then the
        items, the worst match or the oldest first; and at last words of its own, from the end.

        Args:
            method: any but "lora".
            asked: the question.

        Raises:
            PlugError: the plug's graphs fail.
            ValueError: the question cannot hold history items, or the user has nothing to tune
                to.
        """
        prompt, shortened = self._prompt(method, asked)
        soft, wording = self._soft(method, asked), None
        if method.attends:
            soft, wording = self._heard(method, asked)
        template = self.plug.manifest.template
        turn_end = self._turn_end if soft else None
        composed = Composed(render(template, prompt, soft), shortened, wording, turn_end=turn_end)
        if method.strength == 1:
            return composed
        bare = render(template, prompt, None)
        guide = self.llm.guide(bare, method.strength, composed.processor)
        return replace(composed, guide=guide)

    def shortens(self, method: Method, asked: Asked) -> bool:
        """Whether `compose` would have to shorten the prompt; nothing is tuned to find out."""
        return self._prompt(method, asked)[1]

    # --- soft tokens and memory ----------------------------------------------------------------

    def _heard(self, method: Method, asked: Asked) -> tuple[Soft | None, NgramCache | None]:
        """What the history says: soft tokens and wording, as far as the method has them."""
        notes, plug = self.history(method, asked), self.plug
        ablation = method.soft if method.soft in ABLATIONS else ""
        pooled = attend(plug, asked.question.input, self._vectors.rows(notes), ablation)
        soft = project(plug, pooled, ablation) if method.soft else None
        if not method.remembers or plug.manifest.ngram_cache is None:
            return soft, None
        assert pooled.weights is not None  # `attend` always asks for them.
        return soft, memory(self.llm, plug, notes, pooled.weights)

    def _soft(self, method: Method, asked: Asked) -> Soft | None:
        """What does not hang on attention to a history."""
        if method.soft == "instruction":
            return self._instruction
        if method.tuned:
            assert self._tuned is not None  # The command makes one for these methods.
            return self._tuned.soft(method.name, asked.question)
        return None

    def _n_soft(self, method: Method) -> int:
        """How many soft tokens the method has."""
        projector = self.plug.manifest.projector
        if not method.soft:
            return 0
        if method.needs_instruction:
            assert self._instruction is not None  # The command asks for it.
            return len(self._instruction.vectors)
        if method.soft == "persona-noinstruction":
            return projector.n_soft - projector.n_instruction
        return projector.n_soft

    # --- the prompt ----------------------------------------------------------------------------

    def _ranked(self, method: Method, asked: Asked) -> list[Note]:
        """The notes for the prompt, best first."""
        question = asked.question
        match method.ranker:
            case "recency":
                return rank_recency(question, method.k)
            case "bm25":
                return rank_bm25(question, method.k)
            case "dense":
                self._dense = self._dense or Dense()
                return self._dense.rank(question, method.k)
        return []

    def _room(self, question: Question) -> int:
        """Positions that a prompt may take so that every answer fits the context behind it."""
        task = task_of(question.task)
        answers = (question.output, *task.options(question.input))
        # The token that ends an answer is scored too.
        longest = 1 + max(len(self.llm.tokenize(answer)) for answer in answers)
        return self.llm.n_ctx - max(longest, task.max_tokens)

    def _size(self, prompt: str) -> int:
        """Positions of a prompt in the plug's template, soft tokens not counted."""
        return len(self.llm.tokens(render(self.plug.manifest.template, prompt, None)))

    def _prompt(self, method: Method, asked: Asked) -> tuple[str, bool]:
        """The prompt, its notes and words cut to what fits; and whether they had to be."""
        question, notes = asked.question, self._ranked(method, asked)
        room = self._room(question) - self._n_soft(method)
        prompt = self._with_notes(question, notes, BUDGET)
        excess = self._size(prompt) - room
        if excess <= 0:
            return prompt, False
        # What items may take shrinks by what is over, until all fits or no item is left.
        budget = self._size(prompt) - self._size(question.input)
        while excess > 0 and prompt != question.input:
            budget -= excess
            prompt = self._with_notes(question, notes, max(0, budget))
            excess = self._size(prompt) - room
        return (self._cut(prompt, room) if excess > 0 else prompt), True

    def _with_notes(self, question: Question, notes: Sequence[Note], budget: int) -> str:
        if not notes:
            return question.input
        return prompt_with_notes(
            question, notes, count=lambda text: len(self.llm.tokenize(text)), budget=budget
        )

    def _cut(self, prompt: str, room: int) -> str:
        """As many of the prompt's words as fit ``room`` positions."""
        ends = [found.end() for found in re.finditer(r"\S+", prompt)]
        fitting = bisect_right(ends, room, key=lambda end: self._size(prompt[:end]))
        return prompt[: ends[fitting - 1]] if fitting else ""


def check_plug(method: Method, plug: Plug) -> None:
    """Refuse a method that needs of the plug what it has not.

    Raises:
        ValueError: one line that says what, and what to do.
    """
    manifest = plug.manifest
    if method.name == "persona-noinstruction" and not manifest.projector.n_instruction:
        raise ValueError(
            f"{method.name}: plug {manifest.name} does not say which soft tokens are "
            "its instruction (projector n_instruction); export it anew, or leave the method out"
        )
    if "ngrams" in method.name and manifest.ngram_cache is None:
        raise ValueError(
            f"{method.name}: plug {manifest.name} has no n-gram cache "
            "(python -m export.ngrams fits one); leave the method out"
        )
