"""Prompt templates for training: which text stands around the prompt, and where soft tokens go.

A template file is the list of parts that ``plug.json`` holds too, here of a Llama-3 chat model:

    [{"text": "<|start_header_id|>user<|end_header_id|>\\n\\n"}, {"slot": "prompt"},
     {"text": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n"}, {"slot": "soft"}]

A base model needs no more than ``[{"slot": "prompt"}, {"text": "\\n"}]``. The soft slot may be left
out: it then comes last, right before the answer, or first, right before the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ppedge.plug.template import Part

Place = Literal["after", "before"]


def place_soft(parts: Sequence[Part], place: Place) -> tuple[Part, ...]:
    """``parts`` with the soft slot right before the answer ("after") or the prompt ("before")."""
    rest = [part for part in parts if part.slot != "soft"]
    slots = [part.slot for part in rest]
    rest.insert(len(rest) if place == "after" else slots.index("prompt"), Part(slot="soft"))
    return tuple(rest)


# SmolLM2's chat format; its default system message made no task easier, so it is left out.
CHATML = (
    Part("<|im_start|>user\n"),
    Part(slot="prompt"),
    Part("<|im_end|>\n<|im_start|>assistant\n"),
)
TEMPLATE = place_soft(CHATML, "after")


def soft_place(parts: Sequence[Part]) -> Place | None:
    """Where a template has its soft slot, seen from the prompt; None if it has none."""
    slots = [part.slot for part in parts]
    if "soft" not in slots:
        return None
    return "before" if slots.index("soft") < slots.index("prompt") else "after"


def read_template(path: Path) -> tuple[Part, ...]:
    """Read a template file.

    Raises:
        ValueError: the file is not a list of parts with one prompt and at most one soft slot.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from None
    return parse_template(listed, str(path))


def parse_template(listed: object, where: str) -> tuple[Part, ...]:
    """The parts of a decoded template; ``where`` it came from is named in errors."""
    if not isinstance(listed, list):
        raise ValueError(f"{where}: a template is a list of parts, not {type(listed).__name__}")
    parts = []
    for i, entry in enumerate(listed):
        match entry:
            case {"text": str(text)} if len(entry) == 1:
                parts.append(Part(text))
            case {"slot": "prompt" | "soft" as slot} if len(entry) == 1:
                parts.append(Part(slot=slot))
            case _:
                raise ValueError(
                    f'{where}: part {i} must be {{"text": "..."}}, {{"slot": "prompt"}} or '
                    f'{{"slot": "soft"}}, not {json.dumps(entry)}'
                )
    for slot, least in (("prompt", 1), ("soft", 0)):
        count = sum(part.slot == slot for part in parts)
        if not least <= count <= 1:
            raise ValueError(f"{where}: {count} {slot} slots; a template has one of each")
    return tuple(parts)
