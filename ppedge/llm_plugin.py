"""ppedge as models of the program `llm`: ``ppedge`` for the default persona, ``ppedge/NAME`` too.

It is loaded whenever `llm` starts, so nothing heavy may be imported before a prompt comes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import llm
from pydantic import Field

from ppedge.defaults import data_home
from ppedge.errors import PpedgeError

if TYPE_CHECKING:
    from ppedge.answer import Answer
    from ppedge.personalizer import Personalizer
    from ppedge.turns.form import Turn

_DEFAULT: Final = "default"


class PpedgeOptions(llm.Options):
    """What ``llm -o NAME VALUE`` sets."""

    # Bounds are those of `ppedge.llm.sampling`, which is not imported where llm only starts.

    persona: str | None = Field(
        default=None, description="Name, or folder, of the kept notes to write like"
    )
    temperature: float | None = Field(
        default=None, ge=0, description="0 takes the likeliest token each time; more strays more"
    )
    seed: int | None = Field(
        default=None, ge=0, le=2**32 - 2, description="The same seed writes the same text"
    )
    strength: float | None = Field(
        default=None, ge=0, le=5, description="How much of the persona; above 1 costs sense"
    )
    max_tokens: int | None = Field(default=None, ge=1, description="Longest answer, in tokens")


class _Opened:
    """The model, loaded when the first prompt comes and held as long as `llm` runs."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._personalizer: Personalizer | None = None

    def get(self) -> Personalizer:
        """The one that is open.

        Raises:
            PpedgeError: it cannot be opened.
        """
        from ppedge.cli.opening import notify
        from ppedge.personalizer import Personalizer

        with self._mutex:
            if self._personalizer is None:
                self._personalizer = Personalizer.open(notify=notify)
            return self._personalizer


class _Persona:
    """What both kinds of model do: one persona, one way to ask."""

    can_stream = True
    model_id: str

    def __init__(self, opened: _Opened, persona: str) -> None:
        self.model_id = "ppedge" if persona == _DEFAULT else f"ppedge/{persona}"
        self._opened, self._persona = opened, persona

    @contextmanager
    def _answer(self, prompt: llm.Prompt) -> Iterator[Answer]:
        """An answer on its way; ppedge's errors become llm's, of one line."""
        with _as_model_errors():
            from ppedge.defaults import find_persona
            from ppedge.llm.sampling import Sampling

            asked, said = _asked(prompt)
            options: Any = prompt.options
            given = {
                name: value
                for name in ("temperature", "seed", "max_tokens")
                if (value := getattr(options, name)) is not None
            }
            folder, _ = find_persona(options.persona or self._persona)
            if not folder.is_dir():
                raise PpedgeError(
                    f"no notes of persona {options.persona or self._persona!r}: "
                    "keep some with `ppedge notes add FILE`"
                )
            personalizer = self._opened.get()
            with personalizer.persona(folder, create=False) as persona:
                yield personalizer.stream(
                    asked,
                    persona,
                    Sampling(**given),
                    strength=1.0 if options.strength is None else options.strength,
                    conversation=said,
                )


class Ppedge(_Persona, llm.Model):
    """The model for ``llm -m ppedge``."""

    class Options(PpedgeOptions):
        """As `PpedgeOptions`; llm looks for this name."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        """Yield the answer's pieces, or the whole of it."""
        from ppedge.cli.opening import read_pieces

        with self._answer(prompt) as answer:
            yield from read_pieces(answer) if stream else [answer.read()]
            _tell(response, answer)


class AsyncPpedge(_Persona, llm.AsyncModel):
    """The model for ``llm --async -m ppedge``, and for `llm.get_async_model`."""

    class Options(PpedgeOptions):
        """As `PpedgeOptions`; llm looks for this name."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None,
    ) -> AsyncGenerator[str, None]:
        """Yield the answer's pieces, or the whole of it; the event loop is never kept."""
        import asyncio

        with ExitStack() as stack:
            answer = await asyncio.to_thread(stack.enter_context, self._answer(prompt))
            if stream:
                async for piece in answer:
                    yield piece
            else:
                yield await answer.aread()
            _tell(response, answer)


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Give llm a model for each persona that is kept."""
    opened = _Opened()
    for name in [_DEFAULT, *_others()]:
        register(Ppedge(opened, name), AsyncPpedge(opened, name))


def _others() -> list[str]:
    """Names of kept personas, without opening any; none where the disk does not say."""
    with suppress(OSError, PpedgeError), os.scandir(data_home() / "personas") as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and entry.name != _DEFAULT and entry.name[:1].isalnum()
        )
    return []


def _asked(prompt: llm.Prompt) -> tuple[str, list[Turn]]:
    """What is asked now, the system prompt before it, and what was said before, oldest first.

    Raises:
        PpedgeError: nothing is asked.
    """
    from ppedge.turns.form import Turn

    said: list[Turn] = []
    system: list[str] = []
    asking: list[str] = []
    for message in prompt.messages:
        text = "\n".join(t for part in message.parts if (t := getattr(part, "text", "")))
        if message.role == "system":
            system.append(text)
        elif message.role == "user":
            asking.append(text)
        elif message.role == "assistant" and text:
            said.append(Turn("\n\n".join(asking), text))
            asking = []
    if not "".join(asking).strip():
        raise PpedgeError("the prompt is blank: say what to write about")
    return "\n\n".join([*system, *asking]), said


def _tell(response: Any, answer: Answer) -> None:
    """Have llm log what it took, and by which seed it comes again."""
    generation = answer.generation
    response.set_usage(input=generation.prompt_tokens, output=generation.new_tokens)
    response.response_json = {"finish": generation.finish, "seed": generation.seed}


@contextmanager
def _as_model_errors() -> Iterator[None]:
    try:
        yield
    except PpedgeError as error:
        raise llm.ModelError(str(error)) from None
