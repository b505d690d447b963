"""What a training run leaves behind, and whether another run may go on from it.

``plug.pt`` holds config, plug, optimizer, step, seconds, settings (option to text), template (as in
plug.json) and inputs (digests of model, encoder and questions). A run of instructions alone also
writes ``instruction.npy``, float32 [n_instruction, n_embd]: soft tokens that know no person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.data.lamp import Question
from export.data.template import TEMPLATE, parse_template
from export.models.plug import PersonaPlug, PlugConfig
from ppedge.plug.template import Part, list_parts

# Where things are, how far to go and what is printed on the way; all else changes the result.
FREE = {"data", "llm", "gguf", "encoder", "out", "features", "template", "steps", "stop_at"}
FREE |= {"corpus", "start", "eval_every", "eval_limit", "authors", "minutes", "save_every"}
FREE |= {"device", "workers"}


def settings_of(args: Mapping[str, object]) -> dict[str, str]:
    """The settings of a run, as text."""
    return {name: str(value) for name, value in args.items()}


def digest_questions(questions: Iterable[Question]) -> str:
    """SHA-256 (hex) over who was asked what: tells training sets apart, whatever their paths."""
    found = hashlib.sha256()
    for q in questions:
        found.update(repr((q.task, q.id, q.user, q.input, q.output, len(q.history))).encode())
    return found.hexdigest()


def digest_texts(texts: Iterable[str]) -> str:
    """SHA-256 (hex) over texts, in order."""
    return hashlib.sha256(repr(list(texts)).encode("utf-8", "surrogatepass")).hexdigest()


def save(
    path: Path,
    plug: PersonaPlug,
    optimizer: torch.optim.Optimizer,
    template: Sequence[Part],
    **more: Any,
) -> None:
    """Write a checkpoint, whole or not at all; ``more``: step, seconds, settings, inputs."""
    state = {
        "config": asdict(plug.config),
        "plug": plug.state_dict(),
        "optimizer": optimizer.state_dict(),
        "template": list_parts(template),
        **more,
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    write_instruction(path, plug)


def write_instruction(path: Path, plug: PersonaPlug) -> None:
    """Write ``instruction.npy`` beside the checkpoint ``path``, if the plug is nothing else."""
    if not plug.config.n_persona:
        rows = plug.instruction.detach().float().cpu().numpy()
        np.save(path.with_name("instruction.npy"), rows)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors come to the CPU.

    Raises:
        ValueError: the file is not one.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # Whatever a damaged file makes torch raise.
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path}: not a checkpoint of export.train ({reason})") from None
    if not {"config", "plug", "step"} <= set(state):
        raise ValueError(f"{path}: not a checkpoint of export.train")
    return state


def template_of(state: Mapping[str, Any]) -> tuple[Part, ...]:
    """The prompt template that a checkpoint was trained with."""
    if "template" not in state:  # The first version had this one only.
        return TEMPLATE
    return parse_template(state["template"], "the checkpoint's template")


def difference(
    state: Mapping[str, Any],
    config: PlugConfig,
    template: Sequence[Part],
    settings: Mapping[str, str],
    defaults: Mapping[str, str],
    inputs: Mapping[str, str],
    options: Mapping[str, str],
) -> str | None:
    """What keeps a run from going on from ``state``: the first thing that differs, or None.

    Args:
        state: a checkpoint.
        config: of the plug that is to go on.
        template: likewise.
        settings: likewise, option to text.
        defaults: of the settings: what a checkpoint means that lacks one.
        inputs: digests of model, encoder and questions, checked where the checkpoint has them.
        options: the option that sets a field of the config, for the message.
    """
    old = PlugConfig(**state["config"])
    for field in fields(PlugConfig):
        was, now = getattr(old, field.name), getattr(config, field.name)
        if was != now:
            return f"{options.get(field.name, field.name)} was {was}, not {now}"
    if template_of(state) != tuple(template):
        return f"the template was {list_parts(template_of(state))}, not {list_parts(template)}"
    for name, now in settings.items():
        was = state["settings"].get(name, defaults.get(name))
        if name not in FREE and name not in _OF_CONFIG and was != now:
            return f"--{name.replace('_', '-')} was {was}, not {now}"
    for name, digest in inputs.items():
        if state.get("inputs", {}).get(name, digest) != digest:
            return f"the {name} has other contents than it had"
    return None


# Options that end in the config, where they are compared as what they come to.
_OF_CONFIG = {field.name for field in fields(PlugConfig)} | {"paper"}
