"""The command `ppedge why`: which notes bear on the answer to a prompt."""

from __future__ import annotations

import json
import shutil
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppedge.blend import Blend
from ppedge.cli.naming import given_scope, scope_options
from ppedge.cli.opening import (
    context_option,
    ensure_one_source,
    given_prompt,
    history_option,
    incognito_option,
    kept_notes,
    max_tokens_option,
    model_option,
    opened_persona,
    opened_personalizer,
    persona_option,
    plug_option,
    read_pieces,
    seed_option,
    skip_bad_option,
    with_option,
    without_option,
)
from ppedge.cli.terminal import Words, note_fields
from ppedge.llm.sampling import Sampling
from ppedge.notes.reader import Note
from ppedge.store.persona import Persona, handle

if TYPE_CHECKING:
    from ppedge.explanation import Explanation
    from ppedge.personalizer import Personalizer

_LEAST_WIDTH = 20
_NAME_WIDTH = 23  # sha256: and 16 digits
_LEAST_NAME = 3
_HASHED = "sha256:"
_JOINERS = "\u200c\u200d"  # part of words and of emoji, and without width


@click.command()
@click.argument("prompt", type=Words())
@history_option
@persona_option
@scope_options
@incognito_option
@model_option
@plug_option
@click.option(
    "--top", type=click.IntRange(0), default=5, show_default=True, help="Heaviest notes to show."
)
@without_option
@with_option
@click.option(
    "--answers",
    is_flag=True,
    help="Write three answers too, by one seed: with the persona, without it, and with it but "
    "without the note that bears most.",
)
@max_tokens_option
@seed_option
@context_option
@skip_bad_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def why(
    prompt: str,
    history: str | None,
    folder: Path | None,
    only: tuple[str, ...],
    since: float | None,
    until: float | None,
    incognito: bool,
    model: str | None,
    plug: str | None,
    top: int,
    without: tuple[str, ...],
    with_parts: tuple[str, ...],
    answers: bool,
    max_tokens: int,
    seed: int | None,
    context: int,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Show which notes bear on the answer to PROMPT.

    \b
    ppedge why --history notes.jsonl "Write a short note about the rain"
    ppedge why --history notes.jsonl --answers --seed 1 "Reply to Ann: see you at nine?"

    PROMPT may be - to read it from stdin.
    """
    ensure_one_source(history, folder)
    scope = given_scope(only, since, until)
    if history is None:
        folder = kept_notes(folder, needed=True)
    prompt = given_prompt(prompt, history)
    blend = Blend().with_parts(*with_parts).without(*without)
    with ExitStack() as stack:
        personalizer = stack.enter_context(opened_personalizer(model, plug, context))
        opened = opened_persona(
            personalizer, history, folder, skip_bad, {}, scope=scope, incognito=incognito
        )
        persona = stack.enter_context(opened)
        assert persona is not None  # A history, or a folder.
        found = personalizer.explain(prompt, persona, heaviest=top, blend=blend)
        if not as_json:
            click.echo("\n".join(shown(found)))
        texts: dict[str, Any] | None = None
        if answers:
            sampling = Sampling(max_tokens=max_tokens, seed=seed)
            trial = Trial(personalizer, persona, prompt, sampling, blend, found)
            texts = trial.write(tell=not as_json)
        if as_json:
            click.echo(json.dumps(_report(personalizer, prompt, found, texts), ensure_ascii=False))


# --- what is shown ---


def shown(found: Explanation) -> Iterator[str]:
    """The lines that explain an answer, none wider than the terminal."""
    width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns)
    if not found.n_notes:
        yield from _wrapped("The history is empty: no note bears on the answer.", width)
    elif found.turns:
        yield from _wrapped(
            "These notes stand before the prompt as earlier turns, and bear on the answer:", width
        )
        yield from _rows("turn", found.turns, width)
    else:
        yield from _wrapped("No note stands before the prompt as an earlier turn.", width)
    if found.null_weight is None:
        yield from _wrapped("Without a plug there is no attention to weigh notes by.", width)
    else:
        yield from _weighed(found, found.null_weight, width)
    if found.n_manner:
        yield from _wrapped(
            f"How all notes are written (shapes, rules; {found.n_manner} of {found.n_notes} "
            "looked at) bears on the answer too, no one note much.",
            width,
        )


def _weighed(found: Explanation, null_weight: float, width: int) -> Iterator[str]:
    bears = (
        "This bears on the answer"
        if found.attention
        else "This does not bear on the answer, as it was asked for; by default it does"
    )
    if found.heaviest:
        yield from _wrapped(f"These weigh most by the plug's attention. {bears}:", width)
    else:
        yield from _wrapped(f"The null note's weight by the plug's attention. {bears}:", width)
    yield from _rows("note", found.heaviest, width)
    yield _fitted(f"null {null_weight:6.1%} no note at all", width)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _rows(mark: str, notes: Sequence[tuple[Note, float | None]], width: int) -> Iterator[str]:
    """One line a note: mark, weight, name and how the text begins."""
    names = [_name(note, width) for note, _ in notes]
    longest = max(map(_columns, names), default=0)
    for (note, weight), name in zip(notes, names, strict=True):
        share = f"{'-':>6}" if weight is None else f"{weight:6.1%}"
        room = " " * (longest - _columns(name))
        yield _fitted(f"{mark} {share} {name}{room} {note.output.strip()}", width)


def _name(note: Note, width: int) -> str:
    """An id or handle in a third of what mark and weight leave of a line."""
    room = max(_LEAST_NAME, min(_NAME_WIDTH, (width - len("turn 100.0% ")) // 3))
    name = handle(note)
    # Few columns say more in digits.
    return _fitted(name if room > len(_HASHED) + 8 else name.removeprefix(_HASHED), room)


def _fitted(text: str, width: int) -> str:
    """``text`` cut to so many columns of a terminal, and nothing in it that commands one."""
    # However many marks of no width are stacked on a letter.
    clean = "".join(map(_harmless, text[: 4 * width]))
    if len(text) == len(clean) and _columns(clean) <= width:
        return clean
    n_fitting = sum(end < width for end in accumulate(map(_columns, clean)))
    return clean[:n_fitting] + "…"


def _harmless(char: str) -> str:
    if char.isprintable() or char in _JOINERS:
        return char
    return " " if unicodedata.category(char) == "Zs" else "?"


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0
        if char in _JOINERS or unicodedata.category(char) in ("Mn", "Me")
        else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


# --- answers ---


class Trial:
    """Answers to one prompt by one seed: with a persona, without it, and without one note.

    Args:
        personalizer: writes them.
        persona: whose notes.
        prompt: what is asked.
        sampling: its seed is drawn once if it has none.
        blend: which parts of the persona bear on an answer.
        found: which note bears most.
    """

    def __init__(
        self,
        personalizer: Personalizer,
        persona: Persona,
        prompt: str,
        sampling: Sampling,
        blend: Blend,
        found: Explanation,
    ) -> None:
        """Get ready; nothing is written yet."""
        self._personalizer, self._persona, self._prompt = personalizer, persona, prompt
        self._sampling, self._blend, self._found = sampling, blend, found

    def write(self, *, tell: bool) -> dict[str, Any]:
        """Write the answers.

        Args:
            tell: whether they are shown as they come.

        Returns:
            "seed", and the texts: "persona", "no_persona", and "without_note" with the "name" of
            the note and the "text"; None without notes.
        """
        persona = self._write("With the persona", self._persona, tell)
        no_persona = self._write("Without the persona", None, tell)
        note = self._found.foremost
        without = None if note is None else self._without(note, tell)
        return {
            "seed": self._sampling.seed,
            "persona": persona,
            "no_persona": no_persona,
            "without_note": without,
        }

    def _without(self, note: Note, tell: bool) -> dict[str, str]:
        from ppedge.explanation import without_note

        plug, attention = self._personalizer.plug, self._found.attention
        name = handle(note)
        with without_note(self._persona, note, plug, attention=attention) as other:
            text = self._write(f"Without note {_fitted(name, _NAME_WIDTH)}", other, tell)
        return {"name": name, "text": text}

    def _write(self, title: str, persona: Persona | None, tell: bool) -> str:
        answer = self._personalizer.stream(self._prompt, persona, self._sampling, blend=self._blend)
        self._sampling = replace(self._sampling, seed=answer.generation.seed)
        if tell:
            click.echo(f"\n{title} (seed {self._sampling.seed}):")
        with closing(read_pieces(answer)) as pieces:
            for piece in pieces:
                if tell:
                    click.echo(piece, nl=False)
        if tell:
            click.echo()
        return answer.generation.text


def _report(
    personalizer: Personalizer, prompt: str, found: Explanation, texts: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "prompt": prompt,
        **found.fields(_fields),
        "answers": texts,
        "model": str(personalizer.llm.path),
        "plug": personalizer.plug.name,
    }


def _fields(note: Note) -> dict[str, Any]:
    return {"name": handle(note), **note_fields(note)}
