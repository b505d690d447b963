"""The export of ChatGPT: what its owner wrote, and nothing of the answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppedge.notes.importers.archives import beginning, json_lists
from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note

_NAME = re.compile(r"(^|/)conversations(-\d+)?\.json$")
_TEXTS = ("text", "multimodal_text")


def matches(path: Path) -> bool:
    """Whether it is conversations.json with a mapping of messages, or an export with one."""
    data = beginning(path, _NAME).lstrip()
    return data.startswith(b"[") and b'"mapping"' in data


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield the owner's messages, under the ids and times that the export gives them."""
    for conversation in json_lists(path, _NAME):
        nodes = conversation.get("mapping")
        for node in nodes.values() if isinstance(nodes, dict) else ():
            message = node.get("message") if isinstance(node, dict) else None
            if isinstance(message, dict) and _is_own(message):
                note = job.note(
                    _text(message.get("content")),
                    id=message.get("id"),
                    time=message.get("create_time"),
                )
                if note is not None:
                    yield note


def _is_own(message: dict[str, Any]) -> bool:
    author, metadata = message.get("author"), message.get("metadata")
    # Custom instructions come as messages of the owner in every conversation, hidden.
    hidden = isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation")
    return isinstance(author, dict) and author.get("role") == "user" and not hidden


def _text(content: object) -> str:
    if not isinstance(content, dict) or content.get("content_type", "text") not in _TEXTS:
        return ""
    parts = content.get("parts")
    if not isinstance(parts, list):
        return ""
    return "\n".join(part for part in parts if isinstance(part, str))
