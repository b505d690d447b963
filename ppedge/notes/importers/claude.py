"""The export of Claude: what its owner wrote, and nothing of the answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppedge.notes.importers.archives import beginning, json_lists
from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note

_NAME = re.compile(r"(^|/)conversations\.json$")


def matches(path: Path) -> bool:
    """Whether it is conversations.json with chat messages, or an export with one."""
    data = beginning(path, _NAME).lstrip()
    return data.startswith(b"[") and b'"chat_messages"' in data


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield the owner's messages, under the ids and times that the export gives them."""
    for conversation in json_lists(path, _NAME):
        messages = conversation.get("chat_messages")
        for message in messages if isinstance(messages, list) else ():
            if isinstance(message, dict) and message.get("sender") == "human":
                note = job.note(
                    _text(message), id=message.get("uuid"), time=message.get("created_at")
                )
                if note is not None:
                    yield note


def _text(message: dict[str, Any]) -> str:
    text, content = message.get("text"), message.get("content")
    if isinstance(text, str) and text.strip():
        return text
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))
