"""The words of a mail that are its sender's own: no quotes, no signature, no markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_QUOTE = re.compile(r"\s*>")
_SIGNATURE = re.compile(r"-- $|Sent from my [\w ]+$|Get Outlook for \w+")
_ORIGINAL = re.compile(
    r"\s*-{2,}\s*(Original Message|Forwarded message|Ursprüngliche Nachricht|"
    r"Message d.origine|Mensaje original|Messaggio originale)\s*-{2,}|Begin forwarded message:$",
    re.I,
)
_WROTE = re.compile(
    r"(On\b.{5,300}\bwrote|Am\b.{5,300}\bschrieb\b.{0,120}|Le\b.{5,300}\ba écrit|"
    r"El\b.{5,300}\bescribió|Il\b.{5,300}\bha scritto|Op\b.{5,300}\bschreef\b.{0,120})\s?:$"
)
_NAMES_A_MAIL = re.compile(r".{0,300}(@|\b(19|20)\d\d\b).{0,300}:$")
_FROM = re.compile(r"\s*\*?(From|Von|De|Da|Van)\s?:", re.I)
_HEADER = re.compile(
    r"\s*\*?(Sent|Date|To|Cc|Subject|Gesendet|Datum|An|Betreff|Envoyé|À|Objet|Enviado|Fecha|Para|"
    r"Asunto|Inviato|Data|A|Oggetto|Verzonden|Aan|Onderwerp)\s?:",
    re.I,
)
_RULE = re.compile(r"[\s_-]*$")
_ATTRIBUTION_LINES = 3
_HEADER_LINES = 6


def cut_quotes(text: str) -> str:
    """What the sender of a mail added to it.

    Left out are lines that begin with ``>`` and the line that says whose they are, everything
    from a forwarded or an original message on, and everything behind a signature's ``-- ``.
    Where it cannot be told what is whose, the text is cut rather than kept.
    """
    lines = text.split("\n")
    own: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if _SIGNATURE.match(line) or _ORIGINAL.match(line) or _is_header_block(lines, at):
            break
        if n_lines := _attribution(lines, at):
            at += n_lines
            if not _quote_follows(lines, at):
                break
            continue
        if not _QUOTE.match(line):
            own.append(line)
        at += 1
    while own and _RULE.match(own[-1]):
        own.pop()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in own)).strip("\n")


def _attribution(lines: list[str], at: int) -> int:
    """How many lines, from ``at``, say whose the quote is that follows; 0 for none."""
    for n_lines in range(1, _ATTRIBUTION_LINES + 1):
        part = lines[at : at + n_lines]
        if not all(line.strip() and not _QUOTE.match(line) for line in part):
            return 0
        joined = " ".join(line.strip() for line in part)
        if len(joined) > 600:
            return 0
        if _WROTE.match(joined) and re.search(r"[\d@]", joined):
            return n_lines
        if n_lines == 1 and _NAMES_A_MAIL.match(joined) and _quote_follows(lines, at + 1):
            return 1
    return 0


def _quote_follows(lines: list[str], at: int) -> bool:
    return any(_QUOTE.match(line) for line in [ln for ln in lines[at : at + 3] if ln.strip()][:1])


def _is_header_block(lines: list[str], at: int) -> bool:
    if not _FROM.match(lines[at]):
        return False
    below = lines[at + 1 : at + 1 + _HEADER_LINES]
    return sum(_HEADER.match(line) is not None for line in below) >= 2


def unflow(text: str, *, delete_space: bool = False) -> str:
    """Join the lines that ``format=flowed`` (RFC 3676) broke; quoted lines stay as they are."""
    pieces: list[str] = []
    open_line = False
    for line in text.split("\n"):
        fixed = line.startswith(">") or line == "-- "
        if open_line and not fixed:
            pieces[-1] = pieces[-1][:-1] if delete_space else pieces[-1]
        elif pieces:
            pieces.append("\n")
        # A space stands before what would be taken for something else.
        pieces.append(line[1:] if line.startswith(" ") else line)
        open_line = line.endswith(" ") and not fixed
    return "".join(pieces)


def text_of_html(page: str) -> str:
    """The text of a page, with ``> `` before the lines of a quote, and without signature."""
    reader = _Page()
    # The parser would look for the end of each tag that has none, all the way, again and again.
    end = page.rfind(">") + 1
    reader.feed(page[:end] + page[end:].replace("<", "&lt;"))
    reader.close()
    return reader.text()


_HEADINGS = frozenset(f"h{level}" for level in range(1, 7))
_BLOCKS = _HEADINGS | {"p", "div", "li", "ul", "ol", "tr", "table", "hr", "pre", "blockquote"}
_SPACED = frozenset({"p", "blockquote", "ul", "ol"})
_UNSEEN = frozenset({"head", "script", "style", "title", "template"})
_NESTED = frozenset({"div", "blockquote"}) | _UNSEEN
_QUOTES = re.compile(r"gmail_quote|gmail_attr|moz-cite-prefix|yahoo_quoted|divRplyFwdMsg")
_SIGNATURES = re.compile(r"gmail_signature|moz-signature")


class _Page(HTMLParser):
    """Gathers the lines of a page, each with whether it is quoted."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[tuple[bool, str]] = []
        self._line: list[str] = []
        self._open: list[tuple[str, str]] = []  # (tag, "quote", "skip" or "")
        self._counts = {"quote": 0, "skip": 0, "": 0}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br" or tag in _BLOCKS:
            self._break(tag)
        if tag in _NESTED:
            marks = " ".join(value or "" for name, value in attrs if name in ("class", "id"))
            role = "quote" if tag == "blockquote" or _QUOTES.search(marks) else ""
            if tag in _UNSEEN or _SIGNATURES.search(marks):
                role = "skip"
            self._open.append((tag, role))
            self._counts[role] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._break(tag)
        if any(tag == opened for opened, _ in self._open[-50:]):
            while self._open:
                opened, role = self._open.pop()
                self._counts[role] -= 1
                if opened == tag:
                    break

    def handle_data(self, data: str) -> None:
        if not self._counts["skip"]:
            self._line.append(data)

    def _break(self, tag: str) -> None:
        line = " ".join("".join(self._line).split())
        quoted = self._counts["quote"] > 0
        if line or tag == "br":
            # Markup has taken the space from the end of a signature's first line.
            self._lines.append((quoted, "-- " if line == "--" else line))
        elif tag in _SPACED and self._lines and self._lines[-1][1]:
            self._lines.append((quoted, ""))
        self._line = []

    def text(self) -> str:
        self._break("")
        return "\n".join(f"> {line}" if quoted else line for quoted, line in self._lines)
