"""What the commands that answer share: their options, a person's notes opened, an answer read."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, TYPE_CHECKING

import click

from ppedge.blend import PARTS
from ppedge.cli import naming
from ppedge.cli.terminal import Number, Part, Progress, tell_skipped
from ppedge.defaults import find_model, history_dir, persona_dir, profiles
from ppedge.errors import HistoryError, StoreError
from ppedge.llm.sampling import DEFAULT_TEMPERATURE, MAX_SEED, MAX_STRENGTH
from ppedge.notes.reader import read_notes
from ppedge.notes.text import is_blank
from ppedge.store.files import name_from_disk
from ppedge.store.temporary import sweep, temporary_folder

if TYPE_CHECKING:
    from ppedge.answer import Answer
    from ppedge.personalizer import Personalizer
    from ppedge.store.persona import Persona
    from ppedge.store.scope import Scope

# --- options ---

history_option = click.option(
    "--history", metavar="FILE", help="Your notes, JSON Lines; - reads them from stdin."
)
persona_option = naming.persona_option("Without --history, by default the one called default.")
incognito_option = click.option(
    "--incognito",
    is_flag=True,
    help="Leave nothing on the disk: no vectors of a history, no state of what was read.",
)
model_option = click.option("--model", metavar="GGUF", help="Language model; or set PPEDGE_MODEL.")
plug_option = click.option(
    "--plug",
    metavar="PATH",
    help="Plug, a folder or .zip, or none; or set PPEDGE_PLUG. A model that the default plug was "
    "not made for has none.",
)
max_tokens_option = click.option(
    "--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest answer."
)
temperature_option = click.option(
    "--temperature",
    type=Number(0),
    default=DEFAULT_TEMPERATURE,
    show_default=True,
    help="0 takes the likeliest token each time; more strays more.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), help="The same seed writes the same text."
)
strength_option = click.option(
    "--strength",
    type=Number(0, MAX_STRENGTH),
    default=1.0,
    show_default=True,
    help="How much of the persona; above 1 costs sense. Twice the time per token if not 1.",
)
without_option = click.option(
    "--without",
    type=Part(PARTS),
    multiple=True,
    help="Leave a part of the persona out; may be given again.",
)
with_option = click.option(
    "--with",
    "with_parts",
    type=Part(PARTS),
    multiple=True,
    help="Let a part of the persona in that is left out by default; may be given again.",
)
context_option = click.option(
    "--context", type=click.IntRange(16), default=2048, show_default=True, help="Tokens in all."
)
skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Pass over bad lines of the history."
)


# --- the model ---


def opened_personalizer(
    model: str | None, plug: str | None, context: int, *, verbose: bool = False
) -> Personalizer:
    """Open a model and a plug, as `Personalizer.open` does; what it has to tell goes to stderr.

    The model's file is read while Python imports what else an answer needs.
    """
    # Imported late: loading llama.cpp takes longer than --help should.
    from ppedge.llm.binding.importing import binding_alone

    binding_alone()
    from ppedge.llm.opened_file import OpenedFile

    with ThreadPoolExecutor(1, "ppedge-llm") as beside:
        file = beside.submit(lambda: OpenedFile(find_model(model), verbose=verbose))
        from ppedge.personalizer import Personalizer

        return Personalizer.joined(file, plug, n_ctx=context, notify=notify)


# --- notes ---


def kept_notes(folder: Path | None, *, needed: bool = False) -> Path:
    """The folder of kept notes: the one that was named, or else the default.

    Args:
        folder: the one that was named, if any.
        needed: whether the command has nothing to do without notes.

    Raises:
        UsageError: none was named, and none are kept.
    """
    kept = folder or persona_dir("default")
    if folder is not None and not kept.exists() and kept.parent == profiles().root:
        there = ", ".join(profiles().names()) or "none"
        raise click.UsageError(
            f'no persona "{name_from_disk(kept.name)}" (kept are: {there}); '
            "`ppedge notes add FILE --persona NAME` makes one"
        )
    if folder is None and not kept.is_dir():
        ways = ["give --history FILE", "keep some with `ppedge notes add FILE`"]
        if not needed:
            ways.append("ask the bare model with --no-persona")
        *first, last = ways
        comma = "," if first[1:] else ""
        raise click.UsageError(f"no notes: {', '.join(first)}{comma} or {last}")
    return kept


def ensure_one_source(history: str | None, folder: Path | None) -> None:
    """Refuse a history and a folder of kept notes at once.

    Raises:
        UsageError: both were given.
    """
    if history is not None and folder is not None:
        raise click.UsageError("give --history or --persona, not both")


def given_prompt(prompt: str, history: str | None) -> str:
    """The prompt, read from stdin if it is -.

    Raises:
        UsageError: it is blank, or stdin is to be the history too.
        ClickException: what stdin holds is not UTF-8.
    """
    if prompt == "-":
        if history == "-":
            raise click.UsageError("the prompt and the history cannot both come from stdin")
        prompt = _prompt_from_stdin()
    if is_blank(prompt):
        raise click.UsageError("the prompt is blank: say what to write about")
    return prompt


def _prompt_from_stdin() -> str:
    try:
        return stdin().read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise click.ClickException(
            f"stdin: byte {error.start + 1} of the prompt is not UTF-8; send it as UTF-8"
        ) from None


def stdin() -> IO[bytes]:
    """The standard input.

    Raises:
        ClickException: it is closed.
    """
    if sys.stdin is None:
        raise click.ClickException("stdin is closed; there is nothing to read from it")
    return sys.stdin.buffer


def notify(line: str) -> None:
    """Tell a line on stderr."""
    click.echo(f"ppedge: {line}", err=True)


@contextmanager
def opened_persona(
    personalizer: Personalizer,
    history: str | None,
    folder: Path | None,
    skip_bad: bool,
    seconds: dict[str, float],
    *,
    scope: Scope | None = None,
    incognito: bool = False,
) -> Iterator[Persona | None]:
    """The notes of a history or of a folder as an open store; None where neither is given.

    Args:
        personalizer: whose plug encodes them.
        history: a file of notes; - is stdin.
        folder: of kept notes, where there is no history.
        skip_bad: pass over bad lines of the history.
        seconds: gains how long a history took, as "history".
        scope: which of the notes; by default all.
        incognito: leave nothing on the disk.

    Raises:
        HistoryError: the history cannot be read, or a line of it is bad.
        StoreError, PlugError: as `Personalizer.persona` and `Persona.sync`; or no note is in the
            scope.
    """
    sweep()  # Whoever was killed while incognito left a folder.
    if history is not None:
        with _opened_history(personalizer, history, skip_bad, seconds, incognito) as persona:
            yield _scoped(persona, scope)
    elif folder is not None:
        with personalizer.persona(folder, create=False, read_only=incognito) as persona:
            yield _scoped(persona, scope)
    else:
        yield None


def _scoped(persona: Persona, scope: Scope | None) -> Persona:
    if scope is None or scope.is_all:
        return persona
    view = persona.scoped(scope)
    if not len(view):
        raise StoreError(
            f"none of {len(persona)} notes is in that scope; "
            "`ppedge notes list --json` shows tags, sources and times"
        )
    return view


@contextmanager
def _opened_history(
    personalizer: Personalizer,
    history: str,
    skip_bad: bool,
    seconds: dict[str, float],
    incognito: bool,
) -> Iterator[Persona]:
    """The notes of ``history`` as an open store, encoded as far as they are new."""
    from ppedge.store.history_cache import open_history_cache, sync_history

    began = time.perf_counter()
    with _store_folder(history, personalizer.plug.name, incognito) as (folder, stream):
        reader = read_notes(stream, skip_bad=skip_bad, name="stdin" if history == "-" else history)
        with open_history_cache(folder, personalizer.plug.space) as persona:
            file = stream if history != "-" else None
            with Progress() as progress:
                report = sync_history(
                    persona, reader, file, personalizer.plug.encode_notes, progress
                )
            tell_skipped(reader)
            if report.encoded:
                notify(f"encoded {report.encoded} of {report.notes} notes")
            if not report.notes:
                notify("the history is empty; answering as for somebody unknown")
            seconds["history"] = time.perf_counter() - began
            yield persona


@contextmanager
def _store_folder(history: str, plug: str, incognito: bool) -> Iterator[tuple[Path, IO[bytes]]]:
    """Where the vectors of ``history`` are kept: of a stream, as long as the command runs."""
    from ppedge.plug.no_plug import NONE
    from ppedge.store.history_cache import ensure_keepable

    path = Path(history)
    with stdin() if history == "-" else _opened(path) as stream:
        if history != "-" and path.is_file() and not incognito:
            try:
                folder = history_dir(path, without_plug=plug == NONE)
                ensure_keepable(folder)
            except StoreError as error:
                notify(f"note: nothing is kept, so every run encodes all notes: {error}")
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


# --- an answer ---


def read_pieces(answer: Answer) -> Generator[str, None, None]:
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
