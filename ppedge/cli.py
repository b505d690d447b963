"""The command `ppedge`: turns arguments into calls, and errors into one line and an exit code."""

from __future__ import annotations

import errno
import io
import json
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

import click

from ppedge.blend import PARTS, Blend
from ppedge.cli_notes import notes as notes_group
from ppedge.defaults import find_plug, history_dir, persona_dir
from ppedge.errors import HistoryError, PpedgeError
from ppedge.following import open_following
from ppedge.guidance import MAX_STRENGTH
from ppedge.history import read_notes
from ppedge.no_plug import NONE
from ppedge.persona import Persona
from ppedge.sampling import DEFAULT_TEMPERATURE, MAX_CANDIDATES, MAX_SEED, Sampling
from ppedge.terminal import Number, Progress, Words, tell_skipped

if TYPE_CHECKING:
    from ppedge.answer import Answer
    from ppedge.personalizer import Personalizer


class Group(click.Group):
    """Turns ppedge's errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PpedgeError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # The reader has gone; click ends quietly.
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ppedge"), prog_name="ppedge")
def main() -> None:
    """Make a small language model on this machine write like you, offline."""
    for stream in (sys.stdout, sys.stderr):
        # An emoji must not end an answer where the terminal's encoding has none.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


main.add_command(notes_group)


@main.command()
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
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--temperature", type=Number(0), default=DEFAULT_TEMPERATURE, show_default=True)
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
    type=click.Choice(PARTS),
    multiple=True,
    help="Leave a part of the persona out; may be given again.",
)
@click.option(
    "--with",
    "with_parts",
    type=click.Choice(PARTS),
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
    if not prompt.strip():
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
        with open_following(folder, personalizer.plug.space) as persona:
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
            yield history_dir(path, without_plug=plug == NONE), stream
            return
        with tempfile.TemporaryDirectory(prefix="ppedge-") as folder:
            yield Path(folder) / "persona", stream


def _opened(history: Path) -> IO[bytes]:
    try:
        return history.open("rb")
    except OSError as error:
        reason = error.strerror or error
        raise HistoryError(f"{history}: {reason}; give a JSON Lines file") from None


@main.command()
@click.option("--model", metavar="GGUF", help="Language model; or set PPEDGE_MODEL.")
@click.option("--plug", metavar="PATH", help="Plug, a folder or .zip; or set PPEDGE_PLUG.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def doctor(model: str | None, plug: str | None, as_json: bool) -> None:
    """Say what was found, what is missing, and the command that mends it."""
    from ppedge.doctor import diagnose

    checks = diagnose(model, plug)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        for check in checks:
            click.echo(f"{'ok   ' if check.ok else 'WRONG'} {check.name}: {check.detail}")
            if check.mend:
                click.echo(f"      mend: {check.mend}")
    if not all(check.ok for check in checks):
        raise click.exceptions.Exit(1)


@main.group("plug")
def plug_group() -> None:
    """Look at plugs."""


@plug_group.command("show")
@click.argument("path", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
def plug_show(path: str | None, as_json: bool) -> None:
    """Describe the plug at PATH, by default the one in use, after verifying its files."""
    from ppedge.manifest import manifest_json
    from ppedge.plug import Plug

    plug = Plug(find_plug(path))
    manifest = plug.manifest
    if as_json:
        click.echo(manifest_json(manifest), nl=False)
        return
    size = sum(entry.bytes for entry in manifest.files.values())
    encoder, llm, n_control = manifest.encoder, manifest.llm, manifest.projector.n_control
    lines = {
        "name": manifest.name,
        "path": str(plug.path),
        "licence": manifest.licence,
        "model": f"{manifest.llm_name} ({llm.architecture}, {llm.n_embd} wide)",
        "soft tokens": str(manifest.projector.n_soft),
        **({"control": f"a vector for {n_control} layers"} if n_control else {}),
        "key, value": f"{encoder.d_key}, {encoder.d_value} wide",
        "scale": f"{manifest.attention_scale:g}",
        "files": f"{len(manifest.files)}, {size / 1e6:.1f} MB, hashes right",
        "sha256": plug.sha256,
    }
    for name, text in lines.items():
        click.echo(f"{name + ':':<12} {text}")
    for name, value in manifest.about.items():
        # A plug may come from anybody: nothing in it may command the terminal.
        line = f"{name + ':':<12} {json.dumps(value, ensure_ascii=False)}"
        click.echo("".join(char if char.isprintable() else "?" for char in line))
