"""What is fuzzed: for each reader, good input in bytes, and how it is given."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppedge.llm.gguf import Gguf
from ppedge.llm.preflight import ensure_loadable
from ppedge.notes.importers import FORMATS, importer
from ppedge.notes.importers.job import Job
from ppedge.notes.importers.llm_templates import prompt_of
from ppedge.notes.reader import read_notes
from ppedge.plug.manifest import parse_manifest
from ppedge.server.bodies import FORGET, WHY, read_chat, read_completion
from ppedge.server.errors import ApiError
from ppedge.server.fields import parse
from ppedge.store.archive import read_archive
from tests import tiny_gguf, tiny_plug
from tests.notes.test_llm_logs import log

ME = "anna@example.org"


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        samples: good input.
        read: reads some bytes; ppedge's own errors may come out.
    """

    samples: list[bytes]
    read: Callable[[bytes], object]


# --- notes -------------------------------------------------------------------------------------

LINES = (
    '{"text": "rain again, grüß 🧀", "id": "a1", "time": "2024-05-01T09:30:00+02:00"}\n'
    '{"input": "how is it?", "output": "wet", "tags": ["day/rain"], "source": "v/day.md"}\n'
    '{"text": "a film", "score": 4.5}\n{"title": "t", "abstract": "a", "time": 1714521600}\n'
).encode()
CHATGPT = [
    {
        "title": "Rain",
        "mapping": {
            "1": {
                "message": {
                    "id": "m1",
                    "author": {"role": "user"},
                    "create_time": 1714521600.5,
                    "content": {"content_type": "text", "parts": ["will it rain", {"image": 1}]},
                    "metadata": {"is_visually_hidden_from_conversation": False},
                }
            }
        },
    }
]
CLAUDE = [
    {
        "chat_messages": [
            {"uuid": "1", "sender": "human", "text": "hello", "created_at": "2024-05-01"},
            {"uuid": "2", "sender": "human", "content": [{"type": "text", "text": "two"}]},
        ]
    }
]
TWEETS = (
    b"window.YTD.tweets.part0 = "
    + json.dumps(
        [
            {
                "tweet": {
                    "id_str": "1",
                    "full_text": "wet &amp; cold https://t.co/aBc1",
                    "created_at": "Wed May 01 00:00:00 +0000 2024",
                }
            }
        ]
    ).encode()
)
MARKDOWN = (
    b"---\ntitle: 'wet'\ndate: 2024-05-01\ntags: [a, b/c]\ntag:\n  - d\n---\n"
    b"no #rain today\n\n```\n#none\n```\n"
)
MAIL = (
    f"From: Anna <{ME}>\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\nMessage-ID: <1@x>\n"
    "Date: Wed, 01 May 2024 09:30:00 +0200\nContent-Type: multipart/alternative; boundary=b\n\n"
    "--b\nContent-Type: text/plain; charset=utf-8; format=flowed\n"
    "Content-Transfer-Encoding: quoted-printable\n\nsee you =3D there \nthen\n\n-- \nanna\n"
    "--b\nContent-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: base64\n\n"
    "PHA+c2VlIHlvdTwvcD48YmxvY2txdW90ZT5ubzwvYmxvY2txdW90ZT4=\n--b--\n"
).encode()
REPLY = (
    f"From: {ME}\nSubject: re\nContent-Type: text/html\n\n<p>yes<br>and</p>"
    "<div>On Mon, 1 May 2024, Bob &lt;b@x.org&gt; wrote:</div><blockquote>no</blockquote>\n"
).encode()
SEPARATOR = b"From x@y Wed May  1 09:30:00 2024\n"
TEMPLATE = b"name: t\nprompt: |\n  Write about $thing, in \"$style\"\nsystem: 'kind'\n"


def _history(folder: Path) -> Target:
    def read(data: bytes) -> None:
        list(read_notes(io.BytesIO(data), skip_bad=True))
        list(read_notes(io.BytesIO(data)))

    return Target([LINES], read)


def _imported(name: str, samples: Iterable[bytes], file: str) -> Callable[[Path], Target]:
    """An importer, given a file of one name: that it knows it, and that it reads it."""

    def target(folder: Path) -> Target:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        given = folder / "maildir" if name == "maildir" else path

        def read(data: bytes) -> None:
            path.write_bytes(data)
            importer(name).matches(given)
            list(importer(name).read(given, Job((ME,))))

        return Target(list(samples), read)

    return target


def _zipped(content: object) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("user.json", "{}")
        archive.writestr("conversations.json", json.dumps(content))
    return data.getvalue()


def _llm_logs(folder: Path) -> Target:
    log(folder / "made.db", {"prompt": "what about the rain"}, {"prompt": "and the bread"})
    sample = (folder / "made.db").read_bytes()
    return _imported("llm-logs", [sample], "logs.db")(folder)


def _template(folder: Path) -> Target:
    return Target([TEMPLATE], lambda data: prompt_of(data.decode(errors="replace")))


# --- plugs, models, exports, requests ----------------------------------------------------------


def _manifest(folder: Path) -> Target:
    model = tiny_gguf.write(folder / "tiny.gguf")
    tiny_plug.add_golden(tiny_plug.write(folder / "plug", model, n_control=1), ["rain"])
    sample = (folder / "plug" / "plug.json").read_bytes()
    return Target([sample], lambda data: parse_manifest(data, "plug.json"))


def _gguf(folder: Path) -> Target:
    made = [tiny_gguf.write(folder / f"{name}.gguf", name) for name in ("llama", "gemma2")]
    path = folder / "model.gguf"
    samples = [file.read_bytes()[: 1 << 14] for file in made]
    ends = [file.read_bytes()[1 << 14 :] for file in made]

    def read(data: bytes) -> None:
        # The weights behind the header are long, and any bytes will do for them.
        path.write_bytes(data + ends[data[8:16] != samples[0][8:16]])
        with Gguf(path) as gguf:
            ensure_loadable(gguf)
            gguf.embedding_rows([0, gguf.embedding.shape[1] - 1])

    return Target(samples, read)


def _export(folder: Path) -> Target:
    path = folder / "export.zip"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        settings = {"format": "ppedge persona 1", "notes": 4, "pinned": ["a1"]}
        archive.writestr("settings.json", json.dumps(settings))
        archive.writestr("notes.jsonl", LINES)

    def read(mutated: bytes) -> None:
        path.write_bytes(mutated)
        read_archive(path)

    return Target([data.getvalue()], read)


def _requests(folder: Path) -> Target:
    bodies: list[dict[str, Any]] = [
        {"model": "ppedge:anna", "messages": [{"role": "user", "content": "hi"}], "seed": 1},
        {"model": "ppedge", "prompt": ["hi"], "stop": ["\n"], "only": ["tag:a"], "since": 1.5},
        {"model": "ppedge:anna", "prompt": "hi", "top": 3},
        {"ids": ["a", "b"]},
    ]

    def read(data: bytes) -> None:
        body = parse(data)
        # Each body is what the other addresses refuse; the last that reads it says why not.
        forms: tuple[Callable[[], object], ...] = (
            lambda: read_chat(body),
            lambda: read_completion(body),
            lambda: WHY.read(body),
            lambda: FORGET.read(body),
        )
        _first_that_reads(forms)

    return Target([json.dumps(body).encode() for body in bodies], read)


def _first_that_reads(readers: Iterable[Callable[[], object]]) -> None:
    refused: ApiError | None = None
    for read in readers:
        try:
            read()
        except ApiError as error:
            refused = error
        else:
            return
    if refused is not None:
        raise refused


TARGETS: dict[str, Callable[[Path], Target]] = {
    "history": _history,
    "jsonl": _imported("jsonl", [LINES], "a.jsonl"),
    "csv": _imported("csv", ["text;id\ngrüß;1\n".encode(), b'id,text\n1,"a\nb"\n'], "a.csv"),
    "markdown": _imported("markdown", [MARKDOWN], "a.md"),
    "text": _imported("text", ["one\n---\nzwei, grüß\n".encode()], "a.txt"),
    "mbox": _imported("mbox", [SEPARATOR + MAIL + b"\n" + SEPARATOR + REPLY], "a.mbox"),
    "maildir": _imported("maildir", [MAIL, REPLY], "maildir/cur/1"),
    "chatgpt": _imported("chatgpt", [json.dumps(CHATGPT).encode()], "conversations.json"),
    "claude": _imported("claude", [json.dumps(CLAUDE).encode()], "conversations.json"),
    "twitter": _imported("twitter", [TWEETS], "tweets.js"),
    "zip": _imported("chatgpt", [_zipped(CHATGPT)], "export.zip"),
    "llm-logs": _llm_logs,
    "llm template": _template,
    "persona export": _export,
    "manifest": _manifest,
    "GGUF header": _gguf,
    "request": _requests,
}
"""By name, each made in an empty folder."""

assert set(FORMATS) <= set(TARGETS), "an importer that nobody fuzzes"
