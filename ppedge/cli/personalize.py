"""The command `ppedge personalize`: a prompt and a person's notes in, an answer out."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
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
    strength_option,
    temperature_option,
    with_option,
    without_option,
)
from ppedge.cli.terminal import Words, note_fields
from ppedge.llm.sampling import MAX_CANDIDATES, Sampling

if TYPE_CHECKING:
    from ppedge.answer import Answer
    from ppedge.personalizer import Personalizer
    from ppedge.store.persona import Persona


@click.command()
@click.argument("prompt", type=Words())
@history_option
@persona_option
@scope_options
@incognito_option
@model_option
@plug_option
@max_tokens_option
@temperature_option
@seed_option
@strength_option
@click.option(
    "--best-of",
    type=click.IntRange(1, MAX_CANDIDATES),
    default=1,
    show_default=True,
    help="Write so many answers side by side and give the best; above 1 nothing streams.",
)
@without_option
@with_option
@context_option
@click.option("--no-persona", is_flag=True, help="Answer as the bare model does.")
@skip_bad_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Let llama.cpp talk on stderr.")
def personalize(
    prompt: str,
    history: str | None,
    folder: Path | None,
    only: tuple[str, ...],
    since: float | None,
    until: float | None,
    incognito: bool,
    model: str | None,
    plug: str | None,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    strength: float,
    best_of: int,
    without: tuple[str, ...],
    with_parts: tuple[str, ...],
    context: int,
    no_persona: bool,
    skip_bad: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Answer PROMPT the way the author of the notes would.

    \b
    ppedge personalize --history notes.jsonl "Write a short note about the rain"
    cat notes.jsonl | ppedge personalize --history - --json "Reply to Ann: see you at nine?"
    ppedge notes add notes.jsonl; ppedge personalize "Write a short note about bread"

    PROMPT may be - to read it from stdin.
    """
    ensure_one_source(history, folder)
    scope = given_scope(only, since, until)
    if history is None and not no_persona:
        folder = kept_notes(folder)
    prompt = given_prompt(prompt, history)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    blend = Blend().with_parts(*with_parts).without(*without)
    asked = Asked(prompt, sampling, strength, best_of, blend)
    began = time.perf_counter()
    with ExitStack() as stack:
        personalizer = stack.enter_context(
            opened_personalizer(model, plug, context, verbose=verbose)
        )
        seconds = {"load": time.perf_counter() - began}
        if no_persona:
            history = folder = None
        persona = stack.enter_context(
            opened_persona(
                personalizer,
                history,
                folder,
                skip_bad,
                seconds,
                scope=scope,
                incognito=incognito,
            )
        )
        _answer(personalizer, asked, persona, as_json, seconds)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of `Personalizer.stream`."""

    prompt: str
    sampling: Sampling
    strength: float
    best_of: int
    blend: Blend

    def of(self, personalizer: Personalizer, persona: Persona | None) -> Answer:
        """Ask it."""
        return personalizer.stream(
            self.prompt,
            persona,
            self.sampling,
            strength=self.strength,
            best_of=self.best_of,
            blend=self.blend,
        )


def _answer(
    personalizer: Personalizer,
    asked: Asked,
    persona: Persona | None,
    as_json: bool,
    seconds: dict[str, float],
) -> None:
    answer = asked.of(personalizer, persona)
    try:
        with closing(read_pieces(answer)) as pieces:
            for piece in pieces:
                if not as_json:
                    click.echo(piece, nl=False)
    except KeyboardInterrupt:
        # What was written stays on the screen; the shell must see that it was cut short.
        if not as_json:
            click.echo()
        raise
    if as_json:
        notes = None if persona is None else len(persona)
        report = _report(personalizer, asked, answer, notes, seconds)
        click.echo(json.dumps(report, ensure_ascii=False))
    else:
        click.echo()


def _report(
    personalizer: Personalizer,
    asked: Asked,
    answer: Answer,
    notes: int | None,
    seconds: dict[str, float],
) -> dict[str, Any]:
    run, heard = answer.generation, answer.conditioning
    report: dict[str, Any] = {
        "text": run.text,
        "finish": run.finish,
        "tokens": {"prompt": run.prompt_tokens, "new": run.new_tokens},
        "seed": run.seed,
        "notes": notes,
        "heaviest": None,
        "null_weight": None,
        "model": str(personalizer.llm.path),
        "plug": personalizer.plug.name,
    }
    if heard is not None:
        seconds |= heard.seconds
        report["tokens"]["soft"] = len(heard.soft) if asked.blend.soft else 0
        report["turns"] = heard.turns
        report["null_weight"] = heard.null_weight
        report["heaviest"] = [
            {"weight": weight, **note_fields(note)} for note, weight in heard.heaviest
        ]
    seconds |= {"prefill": run.seconds_prefill, "decode": run.seconds_decode}
    report["seconds"] = {name: round(value, 6) for name, value in seconds.items()}
    return report
