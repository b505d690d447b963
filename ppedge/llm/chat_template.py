"""Conversations as segments: a model's own chat template, its control tokens apart from the text.

The template (Jinja, ``tokenizer.chat_template`` of the GGUF) is rendered with placeholders where
messages stand, and cut there: what the template wrote is read with control tokens, what a person
wrote is not, so a note that holds ``<|im_end|>`` stays plain text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ppedge.errors import ModelError

MAX_TEMPLATE_CHARS: Final = 1 << 17
_ROLES: Final = ("user", "assistant")
# Survives what templates do to a message: trimming, stripping of newlines.
_PLACEHOLDER: Final = "ppedgeMessage{}End"
_CUT: Final = re.compile(r"ppedgeMessage(\d+)End")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """How a model wants a conversation to be written.

    Attributes:
        source: Jinja; "" for a model without one, which gets a plain form.
        bos, eos: texts of the tokens that templates write by these names.
    """

    source: str = ""
    bos: str = ""
    eos: str = ""

    def pieces(self, n_turns: int) -> list[str]:
        """The template's own text around the messages of ``n_turns`` turns and a last prompt.

        Returns:
            2 * n_turns + 2 texts: before the first user's message, between each two messages, and
            behind the last prompt, where the answer begins.

        Raises:
            ModelError: the template cannot be rendered, or leaves messages out.
        """
        if not self.source:
            return _repeated(_PLAIN, n_turns)
        if known := _KNOWN.get(hashlib.sha256(self.source.encode()).hexdigest()):
            return _repeated(known, n_turns)
        messages = [
            {"role": _ROLES[i % 2], "content": _PLACEHOLDER.format(i)}
            for i in range(2 * n_turns + 1)
        ]
        rendered = self._render(messages)
        order = [int(number) for number in _CUT.findall(rendered)]
        if order != list(range(len(messages))):
            raise ModelError(
                "the model's chat template does not write each message once and in order"
            )
        return _CUT.sub("\0", rendered).split("\0")

    def _render(self, messages: Sequence[dict[str, str]]) -> str:
        # Late: it takes a third as long as all else that is imported for an answer.
        from jinja2 import TemplateError  # llama-cpp-python requires it.
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if len(self.source) > MAX_TEMPLATE_CHARS:
            raise ModelError(f"the model's chat template is longer than {MAX_TEMPLATE_CHARS}")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

        def refuse(message: str) -> None:
            raise TemplateError(message)

        try:
            return environment.from_string(self.source).render(
                messages=messages,
                add_generation_prompt=True,
                bos_token=self.bos,
                eos_token=self.eos,
                raise_exception=refuse,
                strftime_now=lambda form: "",
            )
        except Exception as error:  # a template is a program, and raises what it likes
            raise ModelError(f"the model's chat template cannot be used: {error}") from None


Pieces = tuple[str, str, str]
"""Before the first user's message, behind a user's message, and behind an answer."""


def _repeated(pieces: Pieces, n_turns: int) -> list[str]:
    first, behind_user, behind_answer = pieces
    return [first, *[behind_user, behind_answer] * n_turns, behind_user]


# How a model that was never taught to chat is shown what is wanted of it.
_PLAIN_USER: Final = "Prompt: "
_PLAIN: Final = (_PLAIN_USER, "\nAnswer: ", f"\n\n{_PLAIN_USER}")
# What was rendered before, by SHA-256 of the template: that of the default plug's model.
_KNOWN: Final[dict[str, Pieces]] = {
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n<|im_start|>user\n",
    ),
}
PLAIN_STOP: Final = f"\n{_PLAIN_USER.strip()}"
"""Where an answer in the plain form ends at the latest."""
