"""The command `ppedge`: turns arguments into calls, and errors into one line and an exit code."""

from __future__ import annotations

import errno
import io
import json
import sys
from dataclasses import asdict
from typing import Any

import click

from ppedge.cli.lazy import LazyGroup
from ppedge.defaults import find_plug
from ppedge.errors import PpedgeError
from ppedge.version import __version__

# Imported when they are called: numpy and SQLite take longer than --help should.
COMMANDS = {
    "bench": (
        "ppedge.cli.bench",
        "bench",
        "Measure how long a person waits, on this machine.",
    ),
    "chat": (
        "ppedge.cli.chat",
        "chat",
        "Answer one prompt after another the way the author of the notes would.",
    ),
    "import": (
        "ppedge.cli.imports",
        "import_command",
        "Add what you wrote in other programs; also `ppedge notes import`.",
    ),
    "notes": (
        "ppedge.cli.notes",
        "notes",
        "Keep, list and forget the notes that ppedge learns your voice from.",
    ),
    "persona": (
        "ppedge.cli.persona",
        "persona",
        "Keep several personas apart: one for work, one for home.",
    ),
    "personalize": (
        "ppedge.cli.personalize",
        "personalize",
        "Answer PROMPT the way the author of the notes would.",
    ),
    "serve": (
        "ppedge.cli.serve",
        "serve",
        "Serve the model and the kept notes to programs on this machine, and a page to talk to it.",
    ),
    "watch": (
        "ppedge.cli.watch",
        "watch",
        "Keep a persona in step with FOLDER: notes come, change and go as its files do.",
    ),
    "why": ("ppedge.cli.why", "why", "Show which notes bear on the answer to PROMPT."),
}


class Group(LazyGroup):
    """Turns ppedge's errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PpedgeError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            # click would exit with 1, as if something had failed.
            click.echo("Aborted!", err=True)
            raise click.exceptions.Exit(130) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # The reader has gone; click ends quietly.
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from None


@click.group(cls=Group, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ppedge")
def main() -> None:
    """Make a small language model on this machine write like you, offline."""
    for stream in (sys.stdout, sys.stderr):
        # An emoji must not end an answer where the terminal's encoding has none.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@main.command()
@click.option("--model", metavar="GGUF", help="Language model; or set PPEDGE_MODEL.")
@click.option("--plug", metavar="PATH", help="Plug, a folder or .zip; or set PPEDGE_PLUG.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def doctor(model: str | None, plug: str | None, as_json: bool) -> None:
    """Say what was found, what is missing, and the command that fixes it."""
    from ppedge.cli.doctor import diagnose

    checks = diagnose(model, plug)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        for check in checks:
            click.echo(f"{'ok   ' if check.ok else 'WRONG'} {check.name}: {check.detail}")
            if check.fix:
                click.echo(f"      fix: {check.fix}")
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
    from ppedge.plug.manifest import manifest_json
    from ppedge.plug.plug import Plug

    plug = Plug(find_plug(path))
    manifest = plug.manifest
    if as_json:
        click.echo(manifest_json(manifest), nl=False)
        return
    size = sum(entry.bytes for entry in manifest.files.values())
    encoder, llm, n_control = manifest.encoder, manifest.llm, manifest.projector.n_control
    kept = manifest.kept
    lines = {
        "name": manifest.name,
        "path": str(plug.path),
        "licence": manifest.licence,
        "model": f"{manifest.llm_name} ({llm.architecture}, {llm.n_embd} wide)",
        "soft tokens": str(manifest.projector.n_soft),
        **({"kept": f"{kept.n_soft} soft tokens, with a person's turns"} if kept else {}),
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
