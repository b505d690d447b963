"""The command `ppedge personalize`: a prompt and a person's notes in, an answer out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

import click

from ppedge.blend import PARTS, Blend
from ppedge.cli.terminal import Number, Part, Progress, Words, tell_skipped
from ppedge.defaults import history_dir, persona_dir
from ppedge.errors import HistoryError, StoreError
from ppedge.llm.guidance import MAX_STRENGTH
from ppedge.llm.sampling import DEFAULT_TEMPERATURE, MAX_CANDIDATES, MAX_SEED, Sampling
from ppedge.notes.reader import read_notes
from ppedge.notes.text import is_blank
from ppedge.plug.no_plug import NONE
from ppedge.store.history_cache import ensure_keepable, open_history_cache
from ppedge.store.persona import Persona
from ppedge.store.temporary import temporary_folder

if TYPE_CHECKING:
    from ppedge.answer import Answer
    from ppedge.personalizer import Personalizer


@click.command()
@click.argument("prompt", type=Words())
@click.option("--history", metavar="FILE", help="Your notes, JSON Lines; - reads them from stdin.")
@click.option(
    "--persona",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of notes kept by `ppedge notes`; without --history, by default the one it keeps.",
)
@click.option("--model", metavar="GGUF", help="Language model; or set PPEDGE_MODEL.")
@click.option(
    "--plug",
    metavar="PATH",
    help="Plug, a folder or .zip, or none; or set PPEDGE_PLUG. A model that the default plug was "
    "not made for has none.",
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest answer."
)
@click.option(
    "--temperature",
    type=Number(0),
    default=DEFAULT_TEMPERATURE,
    show_default=True,
    help="0 takes the likeliest token each time; more strays more.",
)
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), help="The same seed writes the same text."
)
@click.option(
    "--strength",
    type=Number(0, MAX_STRENGTH),
    default=1.0,
    show_default=True,
    help="How much of the persona; above 1 costs sense. Twice the time per token if not 1.",
)
@click.option(
    "--best-of",
    type=click.IntRange(1, MAX_CANDIDATES),
    default=1,
    show_default=True,
    help="Write so many answers side by side and give the best; above 1 nothing streams.",
)
@click.option(
    "--without",
    type=Part(PARTS),
    multiple=True,
    help="Leave a part of the persona out; may be given again.",
)
@click.option(
    "--with",
    "with_parts",
    type=Part(PARTS),
    multiple=True,
    help="Let a part of the persona in that is left out by default; may be given again.",
)
@click.option(
    "--context", type=click.IntRange(16), default=2048, show_default=True, help="Tokens in all."
)
@click.option("--no-persona", is_flag=True, help="Answer as the bare model does.")
@click.option("--skip-bad", is_flag=True, help="Pass over bad lines of the history.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Let llama.cpp talk on stderr.")
def personalize(
    prompt: str,
    history: str | None,
    folder: Path | None,
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
    if history is not None and folder is not None:
        raise click.UsageError("give --history or --persona, not both")
    if history is None and not no_persona:
        folder = _kept_notes(folder)
    if prompt == "-":
        if history == "-":
            raise click.UsageError("the prompt and the history cannot both come from stdin")
        prompt = _prompt_from_stdin()
    if is_blank(prompt):
        raise click.UsageError("the prompt is blank: say what to write about")
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    blend = Blend().with_parts(*with_parts).without(*without)
    asked = Asked(prompt, sampling, strength, best_of, blend)
    # Imported late: loading llama.cpp takes longer than --help should.
    from ppedge.personalizer import Personalizer

    began = time.perf_counter()
    with ExitStack() as stack:
        personalizer = stack.enter_context(
            Personalizer.open(model, plug, n_ctx=context, verbose=verbose, notify=_notify)
        )
        seconds = {"load": time.perf_counter() - began}
        persona = None
        if history is not None and not no_persona:
            persona = stack.enter_context(_history(personalizer, history, skip_bad, seconds))
        elif folder is not None and not no_persona:
            persona = stack.enter_context(personalizer.persona(folder, create=False))
        _answer(personalizer, asked, persona, as_json, seconds)


def _kept_notes(folder: Path | None) -> Path:
    kept = folder or persona_dir("default")
    if folder is None and not kept.is_dir():
        raise click.UsageError(
            "no notes: give --history FILE, keep some with `ppedge notes add FILE`, "
            "or ask the bare model with --no-persona"
        )
    return kept


def _prompt_from_stdin() -> str:
    try:
        return _stdin().read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise click.ClickException(
            f"stdin: byte {error.start + 1} of the prompt is not UTF-8; send it as UTF-8"
        ) from None


def _stdin() -> IO[bytes]:
    if sys.stdin is None:
        raise click.ClickException("stdin is closed; there is nothing to read from it")
    return sys.stdin.buffer


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


def _notify(line: str) -> None:
    click.echo(f"ppedge: {line}", err=True)


def _answer(
    personalizer: Personalizer,
    asked: Asked,
    persona: Persona | None,
    as_json: bool,
    seconds: dict[str, float],
) -> None:
    answer = asked.of(personalizer, persona)
    try:
        with closing(_pieces(answer)) as pieces:
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


def _pieces(answer: Answer) -> Generator[str, None, None]:
    """The answer's pieces, written on a thread of their own.

    Python sees Ctrl-C only between two calls into llama.cpp, and one may take many seconds.
    """
    pieces: SimpleQueue[str | BaseException | None] = SimpleQueue()

    def write() -> None:
        try:
            for piece in answer:
                pieces.put(piece)
            pieces.put(None)
        except BaseException as error:  # it belongs to the thread that reads
            pieces.put(error)

    writer = Thread(target=write)
    writer.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        answer.cancel()
        writer.join()


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
            {"weight": weight, **{k: v for k, v in asdict(note).items() if v not in ("", None)}}
            for note, weight in heard.heaviest
        ]
    seconds |= {"prefill": run.seconds_prefill, "decode": run.seconds_decode}
    report["seconds"] = {name: round(value, 6) for name, value in seconds.items()}
    return report


@contextmanager
def _history(
    personalizer: Personalizer, history: str, skip_bad: bool, seconds: dict[str, float]
) -> Iterator[Persona]:
    """The notes of ``history`` as an open store, encoded as far as they are new."""
    began = time.perf_counter()
    with _store_folder(history, personalizer.plug.name) as (folder, stream):
        reader = read_notes(stream, skip_bad=skip_bad, name="stdin" if history == "-" else history)
        with open_history_cache(folder, personalizer.plug.space) as persona:
            with Progress() as progress:
                report = persona.sync(reader, personalizer.plug.encode_notes, progress=progress)
            tell_skipped(reader)
            if report.encoded:
                click.echo(f"ppedge: encoded {report.encoded} of {report.notes} notes", err=True)
            if not report.notes:
                click.echo(
                    "ppedge: the history is empty; answering as for somebody unknown", err=True
                )
            seconds["history"] = time.perf_counter() - began
            yield persona


@contextmanager
def _store_folder(history: str, plug: str) -> Iterator[tuple[Path, IO[bytes]]]:
    """Where the vectors of ``history`` are kept: of a stream, as long as the command runs."""
    path = Path(history)
    with _stdin() if history == "-" else _opened(path) as stream:
        if history != "-" and path.is_file():
            try:
                folder = history_dir(path, without_plug=plug == NONE)
                ensure_keepable(folder)
            except StoreError as error:
                _notify(f"note: nothing is kept, so every run encodes all notes: {error}")
            else:
                yield folder, stream
                return
        with temporary_folder() as home:
            yield home / "persona", stream


def _opened(history: Path) -> IO[bytes]:
    try:
        return history.open("rb")
    except OSError as error:
        reason = error.strerror or error
        raise HistoryError(f"{history}: {reason}; give a JSON Lines file") from None
