"""Bytes drawn from good ones by a seed: bits turned, pieces cut out, doubled, or put in."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

HARMFUL = (
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\n",
    b"\r",
    b'"',
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"[",
    b"[" * 3000,
    b"}",
    b"]",
    b"null",
    b"true",
    b"-1",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"18446744073709551616",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"../../etc/passwd",
    b"\x1b[2J",
    b"\xe2\x80\xae",
    b"%s%n",
    b"=?utf-8?b?////?=",
)
"""What other readers broke on: ends of ranges, halves of characters, depth, paths, escapes."""

MOST_BYTES = 1 << 20


def mutant(samples: Sequence[bytes], chance: random.Random) -> bytes:
    """One of the samples, changed one to eight times."""
    data = bytearray(chance.choice(samples))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice(_CHANGES)(data, samples, chance)
    return bytes(data[:MOST_BYTES])


Change = Callable[[bytearray, Sequence[bytes], random.Random], None]


def _turn(data: bytearray, samples: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _replace(data: bytearray, samples: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)


def _span(data: bytearray, chance: random.Random) -> slice:
    begin = chance.randrange(len(data) + 1)
    return slice(begin, begin + chance.choice((1, 2, 4, 8, 32, 200)))


def _cut(data: bytearray, samples: Sequence[bytes], chance: random.Random) -> None:
    del data[_span(data, chance)]


def _double(data: bytearray, samples: Sequence[bytes], chance: random.Random) -> None:
    span = _span(data, chance)
    data[span.start : span.start] = data[span]


def _end(data: bytearray, samples: Sequence[bytes], chance: random.Random) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _insert(data: bytearray, samples: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.choice(HARMFUL)


def _overwrite(data: bytearray, samples: Sequence[bytes], chance: random.Random) -> None:
    piece = chance.choice(HARMFUL)
    at = chance.randrange(len(data) + 1)
    data[at : at + len(piece)] = piece


def _splice(data: bytearray, samples: Sequence[bytes], chance: random.Random) -> None:
    other = chance.choice(samples)
    at = chance.randrange(len(data) + 1)
    data[at:] = other[chance.randrange(len(other) + 1) :]


_CHANGES: tuple[Change, ...] = (
    _turn, _turn, _replace, _replace, _cut, _double, _end, _insert, _insert, _overwrite, _splice,
)  # fmt: skip
