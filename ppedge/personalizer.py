"""The whole walk in one class: history, prompt, soft tokens, answer. What an app embeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppedge.answer import Answer, BestOf, Writing, ensure_timeout
from ppedge.blend import Blend
from ppedge.closable import Closable
from ppedge.defaults import find_model, is_plug_named, open_plug
from ppedge.explanation import Explanation, explanation, turn_notes
from ppedge.fitting import does_fit, ensure_fits, say
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.candidates import Candidate, ensure_count
from ppedge.llm.chat_template import PLAIN_STOP
from ppedge.llm.guidance import ensure_strength
from ppedge.llm.llm import LLM
from ppedge.llm.opened_file import OpenedFile
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Segment, Soft
from ppedge.llm.turn_end import TurnEnd
from ppedge.plug.conditioning import Conditioning
from ppedge.plug.no_plug import NoPlug
from ppedge.plug.plug import Plug
from ppedge.prompting import Prompting
from ppedge.store.opening import is_made
from ppedge.store.persona import Persona, Sample
from ppedge.style.manner import Manner, Manners, Voices
from ppedge.style.reranking import Judgement, judge, relevance_by
from ppedge.turns.form import Turn
from ppedge.turns.prefixes import Notify, Prefix


def _silent(line: str) -> None:
    """Tell nobody."""


def _close(file: Future[OpenedFile]) -> None:
    """Close a file that was read in vain."""
    if not file.exception():
        file.result().close()


class Personalizer(Closable):
    """A frozen language model, and a plug that fits it or none.

    Open it once, and use it from as many threads as you like; it holds one model and one context,
    so answers take turns. It keeps nothing outside itself, and `close` lets go of all.

    Attributes:
        llm: the model.
        plug: the plug, or a `NoPlug`.

    >>> with Personalizer.open() as personalizer:
    ...     with personalizer.persona("personas/me") as persona:
    ...         persona.add(notes, personalizer.plug.encode_notes)
    ...         for piece in personalizer.stream("Write a note about rain", persona):
    ...             print(piece, end="")
    """

    def __init__(self, llm: LLM, plug: Plug | NoPlug, *, notify: Notify = _silent) -> None:
        """Join a model and a plug.

        Args:
            llm: the model.
            plug: made for it, or ``NoPlug()``.
            notify: is told in a line what a person should know, such as that no plug fits.

        Raises:
            PlugError: the plug was made for another model.
            ModelError: the plug has a control vector that does not fit the model.
        """
        if isinstance(plug, Plug):
            ensure_fits(plug, llm)
        self.llm = llm
        self.plug = plug
        self._prompting = Prompting(llm, plug, notify)
        opening = self._prompting.form.opening()
        self._turn_end = TurnEnd.of(llm, opening) if plug.manifest else None
        self._manners = Manners(Voices(llm))

    @classmethod
    def open(
        cls,
        model: str | Path | None = None,
        plug: str | Path | None = None,
        *,
        n_ctx: int = 2048,
        n_threads: int | None = None,
        verbose: bool = False,
        notify: Notify = _silent,
    ) -> Personalizer:
        """Load a model and a plug, the defaults where none is named.

        A model that the default plug was not made for has none: its personas are turns, shapes
        and wording.

        Args:
            model: a GGUF file.
            plug: a plug's folder or .zip; "none" for none.
            n_ctx: positions of the model's context.
            n_threads: CPU threads; None chooses.
            verbose: let llama.cpp write to stderr.
            notify: as of the class.

        Raises:
            ModelError: the model is missing, damaged or not supported.
            PlugError: the plug is missing, damaged, unsafe, or for another model.
        """

        def read() -> OpenedFile:
            return OpenedFile(find_model(model), n_threads=n_threads, verbose=verbose)

        # Side by side: most of either is reading and hashing.
        with ThreadPoolExecutor(1, "ppedge-llm") as beside:
            file = beside.submit(read)
            return cls.joined(file, plug, n_ctx=n_ctx, n_threads=n_threads, notify=notify)

    @classmethod
    def joined(
        cls,
        file: Future[OpenedFile],
        plug: str | Path | None = None,
        *,
        n_ctx: int = 2048,
        n_threads: int | None = None,
        notify: Notify = _silent,
    ) -> Personalizer:
        """Do as `open`, with a model's file that another thread is reading meanwhile.

        Args:
            file: of the model; it is closed if this fails.
            plug, n_ctx, n_threads, notify: as of `open`.

        Raises:
            ModelError, PlugError: as `open`; what is wrong with the plug is told first.
        """
        try:
            opened = open_plug(plug, n_threads)
            llm = LLM(file.result(), n_ctx=n_ctx)
        except BaseException:
            file.add_done_callback(_close)
            raise
        try:
            if isinstance(opened, Plug) and not is_plug_named(plug) and not does_fit(opened, llm):
                notify(
                    f"no plug for {llm.path.name}: answering from notes as earlier turns and their "
                    "wording (--plug names a plug that was made for this model)"
                )
                opened = NoPlug()
            return cls(llm, opened, notify=notify)
        except BaseException:
            llm.close()
            raise

    def close(self) -> None:
        """Free the model; safe to call twice, and from any thread.

        Answers that other threads are reading then end at once, with a ModelError that says so.
        """
        self.llm.close()

    def persona(self, path: str | Path, *, create: bool = True, read_only: bool = False) -> Persona:
        """Open, or make, the persona store in folder ``path`` in this plug's space.

        Without a plug, a store of any plug opens; its notes can then be read, and not added to.

        Args:
            path: the folder.
            create: make a store if there is none.
            read_only: change nothing on disk.

        Raises:
            StoreError: it cannot be opened, or belongs to another plug.
        """
        space = self.plug.space
        if isinstance(self.plug, NoPlug) and is_made(Path(path)):
            persona = Persona.open(path, read_only=read_only)
            if not space.fits(persona.layout):
                return persona
            persona.close()
        return Persona.open(path, space, create=create, read_only=read_only)

    def condition(
        self, prompt: str, persona: Persona, *, heaviest: int = 3, ngrams: bool = True
    ) -> Conditioning:
        """Pool a persona for ``prompt`` into soft tokens, and remember its wording.

        Args:
            prompt: what is asked.
            persona: whose notes; may be empty (the null note then stands alone).
            heaviest: how many of the heaviest notes to name.
            ngrams: whether to make the n-gram cache of the wording.

        Raises:
            PlugError: the plug's graphs fail.
            StoreError: the store cannot be read.
            ModelError: the model is closed.
        """
        return self._prompting.condition(prompt, persona, heaviest, ngrams=ngrams)

    def segments(
        self,
        prompt: str,
        soft: NDArray[np.float32] | None,
        control: NDArray[np.float32] | None = None,
    ) -> list[Segment]:
        """What the model is given for ``prompt``; without ``soft``, no persona.

        Args:
            prompt: what is asked.
            soft: soft tokens, float32 [n, n_embd].
            control: control vector, float32 [n_layer - 1, n_embd], if any.

        Raises:
            ModelError: llama.cpp cannot steer the model by a control vector.
        """
        if control is not None:
            self.llm.ensure_steerable(len(control))
        said = None if soft is None or not len(soft) else Soft(soft, control)
        return self._prompting.form.prompt(prompt, said, after_turns=False)

    def stream(
        self,
        prompt: str,
        persona: Persona | None = None,
        sampling: Sampling | None = None,
        *,
        heaviest: int = 3,
        strength: float = 1.0,
        blend: Blend | None = None,
        best_of: int = 1,
        conversation: Sequence[Turn] = (),
        timeout: float | None = None,
    ) -> Answer:
        """Answer ``prompt`` as the persona's owner would.

        It may be called from several threads; their answers take turns at the model, token by
        token, and each comes out as it would alone. What has not been made of the persona's notes
        yet is made here, which takes some tenths of a second for a new persona; see `astream`.

        Args:
            prompt: what is asked.
            persona: whose notes; None answers as the bare model does.
            sampling: how tokens are chosen.
            heaviest: how many of the heaviest notes to name.
            strength: how much of the persona: 0 none, 1 as it is, up to 5 pushed further
                (``ppedge.llm.guidance``); any but 1 takes about twice the time per token.
            blend: which parts of the persona bear on the answer; None: as measured best.
            best_of: answers to write side by side, of which the best is given
                (``ppedge.style.reranking``); above 1 the answer comes in one piece.
            conversation: what was asked and answered before, oldest first. It stands behind the
                person's own turns; the oldest are left out where they do not fit.
            timeout: seconds for the whole answer, waiting and reading notes included, from when its
                first piece is asked for. It then ends where it is, with ``finish`` "timeout".

        Raises:
            ModelError: the prompt does not fit the context, raised here or while iterating; the
                model is closed, also while iterating; or ``strength``, ``best_of`` or ``timeout``
                is out of range.
            PlugError, StoreError: as `condition`.
        """
        ensure_strength(strength)
        ensure_count(best_of)
        ensure_timeout(timeout)
        sampling, given = self._stopping(sampling or Sampling()), self._prompting.given
        if persona is None:
            bare = self.llm.generate(given(None, conversation, prompt), sampling)
            return Answer(bare, timeout=timeout)
        blend = blend or Blend()
        manner = self._manner(persona, blend)
        speaks = manner if blend.style or blend.rules else None
        if speaks:
            speaks.begin()  # Beside what the model reads until its first token.
        said = self._prompting.say(prompt, persona, manner, blend, heaviest)
        segments = given(said.prefix, conversation, prompt, said.soft)
        memory = said.condition().memory if blend.ngrams else None
        first = [self._turn_end.process] if self._turn_end else []
        answers = [turn.answer for turn in conversation]
        processor = say(self.llm, prompt, blend, manner, memory, answers, first=first)
        if strength != 1:
            # At 0 nothing of the persona bears on the answer, its rules neither.
            inner = processor if strength else None
            processor = self.llm.guide(given(None, conversation, prompt), strength, inner)
        prefix = said.prefix
        turns, before = (prefix.turns, prefix.segments) if prefix else ([], [])
        prepare = partial(self._ready, persona, prefix, speaks) if prefix else None
        writing: Writing
        if best_of == 1 or manner is None:
            writing = self.llm.generate(
                segments, sampling, processor=processor, prefix=before or None
            )
        else:
            written = self.llm.candidates(
                segments, sampling, count=best_of, processor=processor, prefix=before or None
            )
            writing = BestOf(written, partial(self._judge, prompt, manner))

        def conditioning() -> Conditioning:
            return replace(said.condition(), turns=len(turns))

        return Answer(writing, conditioning, prepare, timeout)

    async def astream(
        self,
        prompt: str,
        persona: Persona | None = None,
        sampling: Sampling | None = None,
        *,
        heaviest: int = 3,
        strength: float = 1.0,
        blend: Blend | None = None,
        best_of: int = 1,
        conversation: Sequence[Turn] = (),
        timeout: float | None = None,
    ) -> Answer:
        """Do as `stream` on a thread of its own, to be awaited, so that an event loop never waits.

        Parameters and errors are those of `stream`. Read the answer with ``async for`` or
        ``await answer.aread()``.
        """
        import asyncio  # Late: most programs have no event loop.

        return await asyncio.to_thread(
            self.stream,
            prompt,
            persona,
            sampling,
            heaviest=heaviest,
            strength=strength,
            blend=blend,
            best_of=best_of,
            conversation=conversation,
            timeout=timeout,
        )

    def explain(
        self, prompt: str, persona: Persona, *, heaviest: int = 5, blend: Blend | None = None
    ) -> Explanation:
        """Say which notes bear on the answer to ``prompt``; writes none.

        Args:
            prompt: what is asked.
            persona: whose notes; may be empty.
            heaviest: how many of the heaviest notes to name.
            blend: as of `stream`.

        Raises:
            PlugError, StoreError, ModelError: as `condition`.
        """
        blend = blend or Blend()
        manner = self._manner(persona, blend)
        said = self._prompting.say(prompt, persona, manner, blend, len(persona))
        weighed = None if isinstance(self.plug, NoPlug) else said.condition()
        prefix = said.prefix
        sample = manner.sample if manner else Sample(0, [])
        turns = turn_notes(sample, blend.turns, len(prefix.turns) if prefix else 0)
        bears = weighed is not None and (blend.soft or blend.ngrams)
        n_manner = len(sample.notes) if blend.style or blend.rules else 0
        return explanation(persona, weighed, turns, heaviest, attention=bears, n_manner=n_manner)

    # --- parts of an answer --------------------------------------------------------------------

    def _manner(self, persona: Persona, blend: Blend) -> Manner | None:
        """How the persona's owner writes; None of somebody without notes."""
        return self._manners.of(persona, blend.style)

    @contextmanager
    def _ready(
        self, persona: Persona, prefix: Prefix, manner: Manner | None, cancel: Cancel
    ) -> Iterator[None]:
        """Have the model hold a prefix for the block, and keep what is made for the first time."""
        with self._prompting.prefixes.held(persona, prefix, cancel):
            if manner:
                manner.keep(persona)
            yield

    def _judge(
        self, prompt: str, manner: Manner, candidates: Sequence[Candidate]
    ) -> list[Judgement]:
        relevance = relevance_by(self.plug, prompt)
        return [judge(each, manner.style, manner.copying, relevance) for each in candidates]

    def _stopping(self, sampling: Sampling) -> Sampling:
        """``sampling``, with what ends an answer of a model that was never taught to chat."""
        if isinstance(self.plug, Plug) or self.llm.chat_template().source:
            return sampling
        return replace(sampling, stop=(*sampling.stop, PLAIN_STOP))
