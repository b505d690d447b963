"""The command `ppedge`: turns arguments into calls, and errors into one line and an exit code."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import click

from ppedge.defaults import find_plug, history_dir
from ppedge.errors import HistoryError, PpedgeError, StoreError
from ppedge.history import read_notes
from ppedge.persona import Persona
from ppedge.sampling import Sampling
from ppedge.terminal import Progress, tell_skipped


class Group(click.Group):
    """Turns ppedge's errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PpedgeError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ppedge"), prog_name="ppedge")
def main() -> None:
    """Make a small language model on this machine write like you, offline."""


@main.command()
@click.argument("prompt")
@click.option("--history", metavar="FILE", help="Your notes, JSON Lines; - reads them from stdin.")
@click.option("--model", metavar="GGUF", help="Language model; or set PPEDGE_MODEL.")
@click.option("--plug", metavar="PATH", help="Plug, a folder or .zip; or set PPEDGE_PLUG.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), default=0.7, show_default=True)
@click.option("--seed", type=click.IntRange(0), help="The same seed writes the same text.")
@click.option("--no-persona", is_flag=True, help="Answer as the bare model does.")
@click.option("--skip-bad", is_flag=True, help="Pass over bad lines of the history.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Let llama.cpp talk on stderr.")
def personalize(
    prompt: str,
    history: str | None,
    model: str | None,
    plug: str | None,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    no_persona: bool,
    skip_bad: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Answer PROMPT the way the author of the notes would.

    \b
    ppedge personalize --history notes.jsonl "Write a short note about the rain"
    cat notes.jsonl | ppedge personalize --history - --json "Reply to Ann: see you at nine?"

    PROMPT may be - to read it from stdin.
    """
    if history is None and not no_persona:
        raise click.UsageError("give --history FILE, or --no-persona")
    if prompt == "-":
        if history == "-":
            raise click.UsageError("the prompt and the history cannot both come from stdin")
        prompt = sys.stdin.read()
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    # Imported late: loading llama.cpp takes longer than --help should.
    from ppedge.personalizer import Personalizer

    began = time.perf_counter()
    with Personalizer.open(model, plug, verbose=verbose) as personalizer:
        seconds = {"load": time.perf_counter() - began}
        if no_persona or history is None:
            _answer(personalizer, prompt, None, sampling, as_json, seconds)
            return
        with _history(personalizer, history, skip_bad, seconds) as persona:
            _answer(personalizer, prompt, persona, sampling, as_json, seconds)


def _answer(
    personalizer: Any,
    prompt: str,
    persona: Persona | None,
    sampling: Sampling,
    as_json: bool,
    seconds: dict[str, float],
) -> None:
    answer = personalizer.stream(prompt, persona, sampling)
    try:
        for piece in answer:
            if not as_json:
                click.echo(piece, nl=False)
    except KeyboardInterrupt:
        # What was written stays on the screen; the shell must see that it was cut short.
        answer.cancel()
        click.echo()
        raise
    if not as_json:
        click.echo()
        return
    run, heard = answer.generation, answer.conditioning
    report: dict[str, Any] = {
        "text": run.text,
        "finish": run.finish,
        "tokens": {"prompt": run.prompt_tokens, "new": run.new_tokens},
        "notes": None if persona is None else len(persona),
        "heaviest": None,
        "null_weight": None,
        "model": str(personalizer.llm.path),
        "plug": personalizer.plug.manifest.name,
    }
    if heard is not None:
        seconds |= heard.seconds
        report["tokens"]["soft"] = len(heard.soft)
        report["null_weight"] = heard.null_weight
        report["heaviest"] = [
            {"weight": weight, **{k: v for k, v in asdict(note).items() if v not in ("", None)}}
            for note, weight in heard.heaviest
        ]
    seconds |= {"prefill": run.seconds_prefill, "decode": run.seconds_decode}
    report["seconds"] = {name: round(value, 6) for name, value in seconds.items()}
    click.echo(json.dumps(report, ensure_ascii=False))


@contextmanager
def _history(
    personalizer: Any, history: str, skip_bad: bool, seconds: dict[str, float]
) -> Iterator[Persona]:
    """The notes of ``history`` as an open store, encoded as far as they are new."""
    began = time.perf_counter()
    with _store_folder(history) as (folder, stream):
        reader = read_notes(stream, skip_bad=skip_bad, name="stdin" if history == "-" else history)
        with _open_following(folder, personalizer) as persona:
            progress = Progress()
            try:
                report = persona.sync(reader, personalizer.plug.encode_notes, progress=progress)
            finally:
                progress.end()
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
def _store_folder(history: str) -> Iterator[tuple[Path, IO[bytes]]]:
    """Where the vectors of ``history`` are kept: of stdin, only as long as the command runs."""
    if history == "-":
        with tempfile.TemporaryDirectory(prefix="ppedge-") as folder:
            yield Path(folder) / "persona", sys.stdin.buffer
        return
    with _opened(Path(history)) as stream:
        yield history_dir(Path(history)), stream


def _opened(history: Path) -> IO[bytes]:
    try:
        return history.open("rb")
    except OSError as error:
        reason = error.strerror or error
        raise HistoryError(f"{history}: {reason}; give a JSON Lines file") from None


def _open_following(folder: Path, personalizer: Any) -> Persona:
    """Open the store that follows a history file; it is made anew where it cannot be used.

    Everything in it comes from that file, so nothing is lost.
    """
    try:
        opened: Persona = personalizer.persona(folder)
    except StoreError:
        shutil.rmtree(folder, ignore_errors=True)
        opened = personalizer.persona(folder)
    return opened


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
            click.echo(f"{'ok     ' if check.ok else 'MISSING'} {check.name}: {check.detail}")
            if check.mend:
                click.echo(f"        mend: {check.mend}")
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
    encoder, llm = manifest.encoder, manifest.llm
    lines = {
        "name": manifest.name,
        "path": str(plug.path),
        "licence": manifest.licence,
        "model": f"{manifest.llm_name} ({llm.architecture}, {llm.n_embd} wide)",
        "soft tokens": str(manifest.projector.n_soft),
        "key, value": f"{encoder.d_key}, {encoder.d_value} wide",
        "scale": f"{manifest.attention_scale:g}",
        "files": f"{len(manifest.files)}, {size / 1e6:.1f} MB, hashes right",
        "sha256": plug.sha256,
    }
    for name, text in lines.items():
        click.echo(f"{name + ':':<13}{text}")
    for name, value in manifest.about.items():
        click.echo(f"{name + ':':<13}{json.dumps(value, ensure_ascii=False)}")
