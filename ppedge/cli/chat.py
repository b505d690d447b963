"""The command `ppedge chat`: a conversation in the terminal, answered as its owner would."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from ppedge.cli.naming import given_scope, scope_options
from ppedge.cli.opening import (
    context_option,
    ensure_one_source,
    history_option,
    incognito_option,
    kept_notes,
    max_tokens_option,
    model_option,
    notify,
    opened_persona,
    opened_personalizer,
    persona_option,
    plug_option,
    read_pieces,
    seed_option,
    skip_bad_option,
    stdin,
    strength_option,
    temperature_option,
)
from ppedge.cli.why import shown
from ppedge.errors import PpedgeError
from ppedge.llm.sampling import MAX_SEED, Sampling
from ppedge.notes.text import is_blank
from ppedge.store.persona import Persona

if TYPE_CHECKING:
    from ppedge.personalizer import Personalizer
    from ppedge.turns.form import Turn

_PROMPT: Final = "> "
_COMMAND: Final = re.compile(r"/\w*")
_HELP: Final = """\
/again  answer the last prompt once more, by the next seed
/why    which notes bear on the answer to the last prompt
/help   this list
/quit   end; so does Ctrl-C or Ctrl-D
Ctrl-C stops an answer. All else is a prompt, and blank lines are passed over."""


@click.command()
@history_option
@persona_option
@scope_options
@incognito_option
@model_option
@plug_option
@click.option("--no-persona", is_flag=True, help="Answer as the bare model does.")
@temperature_option
@max_tokens_option
@seed_option
@strength_option
@context_option
@skip_bad_option
def chat(
    history: str | None,
    folder: Path | None,
    only: tuple[str, ...],
    since: float | None,
    until: float | None,
    incognito: bool,
    model: str | None,
    plug: str | None,
    no_persona: bool,
    temperature: float,
    max_tokens: int,
    seed: int | None,
    strength: float,
    context: int,
    skip_bad: bool,
) -> None:
    """Answer one prompt after another the way the author of the notes would.

    \b
    ppedge chat --history notes.jsonl
    printf 'How is the bread?\\nAnd now?\\n' | ppedge chat --history notes.jsonl

    A line is a prompt. Ctrl-C stops an answer, and at the prompt it ends the conversation, as
    Ctrl-D and /quit do. /again, /why and /help do as they say.
    """
    ensure_one_source(history, folder)
    scope = given_scope(only, since, until)
    if history == "-":
        raise click.UsageError(
            "the history cannot come from stdin, as the conversation does: give a FILE"
        )
    if no_persona:
        history = folder = None
    elif history is None:
        folder = kept_notes(folder)
    read = reader()
    drawn = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=drawn)
    with ExitStack() as stack:
        personalizer = stack.enter_context(opened_personalizer(model, plug, context))
        opened = opened_persona(
            personalizer, history, folder, skip_bad, {}, scope=scope, incognito=incognito
        )
        persona = stack.enter_context(opened)
        Conversation(personalizer, persona, sampling, strength).run(read)


# --- lines ---


def reader() -> Callable[[], str | None]:
    """What reads the next line, without its end; it gives None where there is none to come.

    A terminal is asked with a prompt, and its lines can be edited; it raises KeyboardInterrupt
    at Ctrl-C. What is no terminal is read line by line, without a prompt.

    Raises:
        ClickException: stdin is closed.
    """
    stream = stdin()
    if not sys.stdin.isatty():
        return lambda: _line(stream)
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401
    return _typed


def _line(stream: IO[bytes]) -> str | None:
    line = stream.readline()
    return _text(line.rstrip(b"\r\n")) if line else None


def _typed() -> str | None:
    try:
        # A locale that cannot decode a byte leaves it as a surrogate, from which it comes back.
        return _text(os.fsencode(input(_PROMPT)))
    except EOFError:
        click.echo()
        return None
    except UnicodeError as error:
        return _not_utf8(error)


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _not_utf8(error)


def _not_utf8(error: UnicodeError) -> str:
    notify(f"this line is passed over, as it is not UTF-8 ({error}); send it as UTF-8")
    return ""


# --- a conversation ---


@dataclass
class Conversation:
    """What was asked and answered so far, and how to go on.

    Attributes:
        personalizer: writes the answers.
        persona: whose notes; None answers as the bare model does.
        sampling: how; its seed is set.
        strength: of the persona.
        asked: the last prompt; "" before the first.
        before: the exchanges before the last prompt, oldest first.
        last: the last prompt and its answer, if there is one.
    """

    personalizer: Personalizer
    persona: Persona | None
    sampling: Sampling
    strength: float
    asked: str = ""
    before: list[Turn] = field(default_factory=list)
    last: Turn | None = None

    def run(self, read: Callable[[], str | None]) -> None:
        """Take line after line until there is none, or one says to end.

        Args:
            read: of `reader`.

        Raises:
            PpedgeError: an answer failed, and no terminal is there to ask again.
        """
        while True:
            try:
                line = read()
            except KeyboardInterrupt:
                click.echo()
                return
            if line is None or line.strip() == "/quit":
                return
            try:
                self._take(line)
            except KeyboardInterrupt:
                click.echo()
            except PpedgeError as error:
                if not sys.stdin.isatty():
                    raise
                click.echo(f"Error: {error}", err=True)

    def _take(self, line: str) -> None:
        command = line.strip()
        if is_blank(line):
            return
        if not _COMMAND.fullmatch(command):
            self._ask(line)
        elif command == "/help":
            click.echo(_HELP)
        elif command not in ("/again", "/why"):
            notify(f"no command {command}; /help lists them")
        elif not self.asked:
            notify(f"nothing was asked yet, so there is nothing for {command}")
        elif command == "/again":
            self._again()
        else:
            self._why()

    def _ask(self, prompt: str) -> None:
        if self.last:
            self.before.append(self.last)
        self.asked, self.last = prompt, None
        self._answer()

    def _again(self) -> None:
        seed = (self.sampling.seed or 0) + 1
        self.sampling = replace(self.sampling, seed=seed if seed <= MAX_SEED else 0)
        self._answer()

    def _answer(self) -> None:
        """Answer what was asked last; what is there when Ctrl-C comes is part of it all."""
        from ppedge.turns.form import Turn

        answer = self.personalizer.stream(
            self.asked,
            self.persona,
            self.sampling,
            strength=self.strength,
            conversation=self.before,
        )
        try:
            with closing(read_pieces(answer)) as pieces:
                for piece in pieces:
                    click.echo(piece, nl=False)
            click.echo()
        finally:
            written = answer.generation.text
            self.last = None if is_blank(written) else Turn(self.asked, written.strip())

    def _why(self) -> None:
        if self.persona is None or not self.strength:
            option = "--strength 0" if self.persona is not None else "--no-persona"
            notify(f"no note bears on the answers: {option} leaves them all out")
            return
        click.echo("\n".join(shown(self.personalizer.explain(self.asked, self.persona))))
