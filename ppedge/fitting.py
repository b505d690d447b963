"""Whether a plug fits a model, and what the two make of a conversation together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ppedge.blend import Blend
from ppedge.errors import ModelError, PlugError
from ppedge.llm.chat_template import ChatTemplate
from ppedge.llm.llm import LLM
from ppedge.llm.logits_processor import LogitsProcessor, chain
from ppedge.llm.ngram_cache import NgramCache
from ppedge.llm.segments import Soft
from ppedge.plug.conditioning import Conditioning
from ppedge.plug.no_plug import NoPlug
from ppedge.plug.plug import Plug
from ppedge.style.address import Address
from ppedge.style.addressee import addressed
from ppedge.style.manner import Manner
from ppedge.style.topic import Topic
from ppedge.turns.form import ChatForm, PlugForm, TemplateForm
from ppedge.turns.prefixes import Notify


def ensure_fits(plug: Plug, llm: LLM) -> None:
    """Refuse a model that the plug was not made for, or that its control vector does not fit.

    Raises:
        PlugError: the plug was made for another model.
        ModelError: the plug has a control vector that does not fit the model.
    """
    plug.check_model(llm.fingerprint, llm.path, llm.sampled_rows())
    if n_control := plug.manifest.projector.n_control:
        llm.ensure_control_fits(n_control)


def does_fit(plug: Plug, llm: LLM) -> bool:
    """Whether a plug was made for a model."""
    try:
        plug.check_model(llm.fingerprint, llm.path, llm.sampled_rows())
    except PlugError:
        return False
    return True


def soft_of(llm: LLM, conditioning: Conditioning, blend: Blend) -> Soft | None:
    """What a blend takes of the plug's soft tokens and control vector; None without a plug.

    Raises:
        ModelError: llama.cpp cannot steer the model by a control vector.
    """
    if not len(conditioning.soft):
        return None
    control = conditioning.control if blend.control else None
    if control is not None:
        llm.ensure_steerable(len(control))
        control = control * np.float32(blend.control)
    return Soft(conditioning.soft, control)


def keeps_soft(plug: Plug | NoPlug, blend: Blend) -> bool:
    """Whether a plug's soft tokens are kept with the turns, and not made for each prompt.

    Where its control vector or the n-gram cache is let in, they are made for the prompt: these were
    trained beside such.
    """
    has = plug.manifest is not None and plug.manifest.kept is not None
    return has and blend.soft and blend.turns > 0 and not blend.control and not blend.ngrams


def chat_form(llm: LLM, plug: Plug | NoPlug, notify: Notify) -> ChatForm:
    """How conversations are written: as the plug wants it, or the model, or else plainly."""
    chat = llm.chat_template()
    if plug.manifest:
        return PlugForm(plug.manifest.template, chat)
    try:
        return TemplateForm(chat)
    except ModelError as error:
        notify(f"{error}; using a plain form")
        return TemplateForm(ChatTemplate())


def say(
    llm: LLM,
    prompt: str,
    blend: Blend,
    manner: Manner | None,
    memory: NgramCache | None,
    answers: Sequence[str],
    *,
    first: Sequence[LogitsProcessor] = (),
) -> LogitsProcessor | None:
    """One processor of what a persona and a prompt have to say; None where they say nothing.

    Args:
        llm: whose tokens they are.
        prompt: what is asked.
        blend: which parts are in, and how much each counts.
        manner: of the person; None of somebody without notes.
        memory: the notes' wording, if it is in.
        answers: earlier ones of the conversation, which are not to be copied.
        first: what has its say before all of these.
    """
    processors = list(first)
    message = addressed(prompt) if manner and blend.address else None
    if manner and message:
        processors.append(Address(llm, message, manner.greetings).process)
    if blend.topic:
        # What a message is to do is not what it is about.
        processors.append(Topic(llm, message.rest if message else prompt, blend.topic).process)
    if memory:
        processors.append(memory.process)
    # What a manner says is asked for with the first token: it is being made until then.
    if manner and blend.style:
        processors.append(_late(lambda: manner.style))
    if manner and blend.rules:
        processors.append(_late(lambda: manner.rules.beside(prompt, answers)))
    return chain(processors)


class _Speaker(Protocol):
    """What has a `LogitsProcessor`."""

    def process(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """See `LogitsProcessor`."""


def _late(find: Callable[[], _Speaker]) -> LogitsProcessor:
    """The processor of what ``find`` finds, which is called with the first token."""
    found = cache(find)
    return lambda logits, written: found().process(logits, written)
