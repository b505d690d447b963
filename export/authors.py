"""People who write free text, from the changelogs of Debian packages.

    python -m export.authors /usr/share/doc runs/changelogs --out runs/authors.json

Each ``changelog.Debian.gz`` below the folders is read. A bullet is a note, and whoever signs the
entry, or is named in brackets above the bullet, is its author. The file holds a hash in place of
every name, and a note that seems to name somebody is left out. A text that several people have in
the same words says nothing of either, and is left out too.

The file is not for passing on as it is: the licences of the changelogs are those of the packages.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from export.data.authors import Author
from export.tools.commands import check_output, one_line_errors, positive, replacing
from export.tools.json_files import DataError

LEAST_WORDS, MOST_WORDS = 5, 80  # of a note
SHARED_BY = 3  # people who have a text in the same words, from whom on it is nobody's

_HEAD = re.compile(r"^\S+ \([^)]+\) .*;")
_SIGNED = re.compile(r"^ -- (.*?) *<")
_SECTION = re.compile(r"^  \[ (.+?) \]\s*$")
_BULLET = re.compile(r"^  [*+-] ?(.*)$")
_MORE = re.compile(r"^ {3,}(.*)$")
# What is said beside a name. A second capital word is wanted too: "by Debian" names nobody.
_CREDIT = re.compile(
    r"@|\b[Tt]hanks?\b|\b[Tt]hank you\b|\b(?:[Bb]y|[Ff]rom|[Tt]o|[Ff]or|[Aa]dd|[Rr]emove|[Dd]rop)"
    r" [A-Z][\w'’-]+ (?:[A-Z]\.? )?[A-Z][\w'’-]+|\b[Uu]ploaders?\b|\b[Mm]aintainer\b|\bNMU\b"
)


def bullets(text: str) -> Iterator[tuple[str, str]]:
    """Yield (who, what) of every bullet of a changelog, newest entry first.

    Lines that are cut for width become one; a bullet within a bullet keeps its line.
    """
    waiting: list[tuple[str | None, list[str]]] = []
    named: str | None = None
    for line in text.splitlines():
        if _HEAD.match(line):
            waiting, named = [], None
        elif signed := _SIGNED.match(line):
            for who, lines in waiting:
                yield who or signed[1], _joined(lines)
            waiting = []
        elif section := _SECTION.match(line):
            named = section[1]
        elif bullet := _BULLET.match(line):
            waiting.append((named, [bullet[1]]))
        elif (more := _MORE.match(line)) and waiting:
            waiting[-1][1].append(more[1])


def _joined(lines: Sequence[str]) -> str:
    text = ""
    for line in map(str.strip, lines):
        inner = re.match(r"[*+-] ", line)
        text += ("\n" if inner else " ") + line if text and line else line
    return text


def authors(changelogs: Iterable[str], least: int = 8, most: int = 120) -> list[Author]:
    """The people who wrote ``least`` notes or more, at most their latest ``most``.

    Args:
        changelogs: texts; one that comes twice counts once.
        least: notes of a person.
        most: likewise.
    """
    written: dict[str, dict[str, str]] = {}  # who -> text without its numbers -> text
    for changelog in dict.fromkeys(changelogs):
        for who, what in bullets(changelog):
            written.setdefault(who.strip(), {}).setdefault(_bare(what), what)
    shared = Counter(bare for notes in written.values() for bare in notes)
    names = [who.split() for who in written]
    first, last = {name[0] for name in names if name[1:]}, {n[-1] for n in names if n[1:]}
    found = []
    for who in sorted(written):
        notes = [
            text
            for bare, text in written[who].items()
            if LEAST_WORDS <= len(text.split()) <= MOST_WORDS
            and shared[bare] < SHARED_BY
            and not names_somebody(text, first, last)
        ]
        if len(notes) >= least:
            digest = hashlib.sha256(who.encode()).hexdigest()[:16]
            found.append(Author("debian", digest, tuple(reversed(notes[:most]))))
    return sorted(found, key=lambda author: author.author)


def _bare(text: str) -> str:
    """A text without what differs from one time to the next that the same is said."""
    return re.sub(r"[\W\d_]+", " ", text).casefold().strip()


def names_somebody(text: str, first: set[str], last: set[str]) -> bool:
    """Whether a text has an address, a credit, or a first or last name beside a capital word."""
    if _CREDIT.search(text):
        return True
    pairs = re.findall(r"\b(?=(\w[\w'’-]*)\W{1,2}(\w[\w'’-]*))", text)
    return any(a[0].isupper() and b[0].isupper() and (a in first or b in last) for a, b in pairs)


def _texts(folders: Sequence[Path]) -> Iterator[str]:
    for folder in folders:
        for path in sorted(folder.rglob("changelog.Debian*.gz")):
            with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
                yield file.read()


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.authors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="DIR", help="folders to look for changelogs in")
    add("--out", type=Path, required=True, help="JSON file to write")
    add("--least", type=positive, default=8, help="notes of a person (default: 8)")
    args = parser.parse_args(words)
    check_output(parser, args.out)
    for folder in args.folders:
        if not folder.is_dir():
            parser.error(f"{folder}: there is no such folder")
    with one_line_errors("export.authors"):
        found = authors(_texts(args.folders), args.least)
        if not found:
            raise DataError(f"nobody has {args.least} notes in the changelogs of these folders")
        with replacing(args.out) as file:
            json.dump({"people": [asdict(author) for author in found]}, file, indent=0)
        print(f"{len(found)} people, {sum(len(a.notes) for a in found)} notes: {args.out}")


if __name__ == "__main__":
    main()
