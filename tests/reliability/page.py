"""The page docs/reliability.md, written from the figures."""

# ruff: noqa: E501 (the page's own lines)

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Told = dict[str, Any]

HEAD = """# Hard to break

What people lose with tools like this one is lost when something ends in the middle, when a file is not what it should be, when
others use the machine too. So each of these is tried here on the real program, many times, and what came of it is counted. This
page is written by the command that counts:

```sh
python -m tests.reliability --docs docs/reliability.md
```

`--quick` does a little of each in seconds, as the test suite does; `--only PART --json FILE` does one part and adds its figures to
those in a file, from which `--docs` writes the page. The command fails where anything was lost, crashed, or came out that may not.
Seeds are fixed, so the same input comes again; when a process is killed is up to the machine.
"""


def page(told: Told, machine: str) -> str:
    """The page, of the parts that have figures."""
    parts = [SECTIONS[name](part) for name, part in told.items() if name in SECTIONS]
    wrong = [f"- {name}: {line}" for name, part in told.items() for line in part["wrong"]]
    if wrong:
        parts.append("\n".join(["## What went wrong", "", *wrong]))
    return "\n".join([HEAD, f"Made on {machine}.", "", *(part + "\n" for part in parts)])


def _kills(told: Told) -> str:
    figures = told["figures"]
    kinds = ", ".join(f"{kind} {count}" for kind, count in figures["kinds"].items())
    return f"""## Killed at random moments

`add`, `sync`, `forget`, `import` and `watch` run on the same two stores, and each is killed (SIGKILL) somewhere between half the time
that it takes and its end. Afterwards each note that was stored and was to stay must be there, every note must say what somebody wrote
of it, and the store's own check, which reads every byte, must find nothing.

| {figures["kills"]:,} kills | |
|---|---:|
| kinds | {kinds} |
| the store was left as before, in between, as after | {figures["left as before"]}, \
{figures["left in between"]}, {figures["left as after"]} |
| notes in the stores at the end | {figures["notes at the end"]:,} |
| notes lost | {figures["notes lost"]} |
| half-written files read | {figures["half-written files read"]} |"""


def _interrupts(told: Told) -> str:
    figures = told["figures"]
    kinds = ", ".join(f"{kind} {count}" for kind, count in figures["kinds"].items())
    return f"""## Interrupted

The same with Ctrl-C, and with an answer that is being written: {figures["interrupts"]:,} times ({kinds}). Notes lost or half-written: \
{figures["notes lost or half-written"]}, of {figures["notes at the end"]:,} in the end."""


def _native(told: Told) -> str:
    figures = told["figures"]
    return f"""## The C API

{figures["executions"]:,} calls of `ppedge_pool` with arguments made of random bytes (`tests/native/fuzz_pool.c`), under the address and
undefined-behaviour sanitizers: {figures.get("crashes", "no")} crashes. Each call must return a status that is listed, and where it pools, \
a mean of the rows."""


def _readers(told: Told) -> str:
    figures = told["figures"]
    rows = (
        f"| {name} | {each['executions']:,} | {each['read']:,} | {each['refused']:,} "
        f"| {each['tracebacks']} | {each['slowest_ms']} |"
        for name, each in figures["targets"].items()
    )
    return _lines(
        f"""## What others wrote

Every reader is given good input that was changed: bits turned, pieces cut out, doubled, or put in, such as ends of ranges, halves
of characters, thousands of brackets. It may read it, or refuse it with one of ppedge's errors in one line; a crash ends its process,
anything else is a traceback. {figures["executions"]:,} inputs: {figures["crashes"]} crashes, {figures["tracebacks"]} tracebacks.

| reader | inputs | read | refused | tracebacks | slowest, ms |
|---|---:|---:|---:|---:|---:|""",
        rows,
    )


def _forgetting(told: Told) -> str:
    figures = told["figures"]
    return f"""## Forgotten

Notes of random letters are kept, answered from, so that the model's state behind them is kept too, and forgotten: by id, by words,
and by leaving the history. Then every file below the data folder, write-ahead logs included, is searched for eight bytes in a row of
their text, ids and sources, for their vectors, and for their hashes; and no kept state may be one from before.

| {figures["rounds"]:,} rounds | |
|---|---:|
| notes forgotten | {figures["notes forgotten"]:,} |
| kept states that had to go | {figures["kept states removed"]:,} |
| bytes searched | {figures["bytes searched"]:,} |
| notes of which something was left | {figures["notes of which something was left"]} |"""


def _clients(told: Told) -> str:
    figures = told["figures"]
    return f"""## Many clients

`ppedge serve` with eight personas, and {figures["clients at once"]} clients at once: honest ones, slow ones that read 64 bytes at a time,
some that hang up in the middle, and hostile ones (wrong tokens, hosts and origins, names that lead elsewhere, heads without end, bytes
that are no HTTP). What each person is answered alone is known, and no two are answered alike.

| | |
|---|---:|
| answers, each the one that its person gets alone | {figures.get("answers", 0):,} |
| answers of another person | {figures["answers of another person"]} |
| times that a client was told to come back (503, 408) | {figures.get("told to come back", 0):,} |
| streams read slowly; clients that hung up; attacks | {figures.get("slow streams", 0)}; \
{figures.get("hung up", 0)}; {figures.get("attacks", 0)} |
| exit code after SIGTERM, and seconds until then | {figures["exit code"]}; {figures["seconds to end"]} |"""


def _openings(told: Told) -> str:
    figures = told["figures"]
    return f"""## Opened and closed

One process opens a model, a plug and a persona, syncs three notes, answers, and closes all of it, {figures["openings"]:,} times.

| | after a fifth | at the end |
|---|---:|---:|
| memory, MiB | {figures["memory early, MiB"]} | {figures["memory at the end, MiB"]} |
| file descriptors | {figures["file descriptors early"]} | {figures["file descriptors at the end"]} |
| threads | {figures["threads early"]} | {figures["threads at the end"]} |"""


def _many_notes(told: Told) -> str:
    figures = dict(told["figures"])
    memory = figures.pop("most memory of a command, MiB")
    rows = [
        f"| {name.removesuffix(' notes, seconds')} | "
        + " | ".join(f"{seconds:,}" for seconds in each.values())
        + " |"
        for name, each in figures.items()
    ]
    steps = [*next(iter(figures.values()))]
    return _lines(
        f"""## Very many notes

Seconds of whole commands, the first row with a (tiny) plug, which encodes every note, the second without one. No command took more
than {memory:,} MiB of memory.

| notes | {" | ".join(steps)} |
|---|{"---:|" * len(steps)}""",
        rows,
    )


def _lines(head: str, rows: Iterable[str]) -> str:
    return "\n".join([head, *rows])


SECTIONS: dict[str, Callable[[Told], str]] = {
    "kills": _kills,
    "interrupts": _interrupts,
    "native": _native,
    "readers": _readers,
    "forgetting": _forgetting,
    "clients": _clients,
    "openings": _openings,
    "many_notes": _many_notes,
}
"""By the name of the part."""
