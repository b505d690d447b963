"""Every relative link, and every anchor, of the pages points to something that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCED = re.compile(r"^(\s*)(`{3,}|~{3,}).*?^\1\2`*\s*?$", re.M | re.S)
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.S)
LINK = re.compile(
    r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(<?([^()\s>]+(?:\([^()\s]*\)[^()\s>]*)?)>?[^)]*\)"
)
REFERENCE = re.compile(r"^\[[^\]]+\]:\s+<?(\S+?)>?\s*$", re.M)
HREF = re.compile(r"""(?:href|src)=["']([^"']+)["']""")
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?$", re.M)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.I)


def links(page: Path) -> Iterator[str]:
    text = CODE.sub("", FENCED.sub("", page.read_text(encoding="utf-8")))
    for pattern in (LINK, REFERENCE, HREF):
        yield from pattern.findall(text)


@cache
def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings, and those that are set by hand."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    found, seen = set(re.findall(r"""(?:id|name)=["']([^"']+)["']""", text)), dict[str, int]()
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = seen.get(anchor, 0)
        seen[anchor] = count + 1
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{page.relative_to(ROOT)}: {', '.join(broken)}"


def test_the_finder_sees_links_and_passes_over_code(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `name` of *it*\n\n## Twice\n\n## Twice\n\n"
        "[one](a.md#x), [`two`](b.md), ![three](c.png), [[4]](d.md) and `[no](e.md)`\n\n"
        "```sh\n[no](f.md)\n# no heading\n```\n\n[five]: g.md\n\n<a href='h.md'>six</a>\n"
    )
    assert list(links(page)) == ["a.md#x", "b.md", "c.png", "d.md", "g.md", "h.md"]
    assert anchors(page) == {"a-name-of-it", "twice", "twice-1"}


def test_there_are_links_to_look_at() -> None:
    assert sum(len(list(links(page))) for page in PAGES) > 100
