"""What an evaluation run leaves on disk: a record a question and method, the run, its journal.

    journal = Journal(Path("OUT.json"), settings)      # OUT.jsonl, resumed if it is there
    if (question.id, "persona") not in journal.done():
        journal.add(Record(...))
    Run(settings, task_name, golds, journal.records).save(Path("OUT.json"))

Everything that a table or a report shows is computed from the run, so a run can be judged anew
(other metrics, another rival) without asking the model again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from export.tools.commands import replacing
from ppedge.closable import Closable

FORMAT = 1  # of a saved run; raised when an older reader would misread a newer file


@dataclass(frozen=True)
class Record:
    """What one method answered to one question.

    Attributes:
        id: the question's.
        user: who was asked; intervals resample users.
        method: its name on the command line.
        task: the LaMP task's number, 1 to 7.
        history: notes in this user's own history, whatever the method saw of them.
        prediction: the greedy answer, or the best of a closed task's options.
        beam: the answer of the beam search, None where there was none.
        nats: -log p of the gold answer (its end included), in nats.
        target_tokens: tokens that ``nats`` sums over, at least 1.
        prompt_tokens: tokens in front of the answer, soft tokens counted.
        first_s: seconds to the first token: retrieval, encoding of the prompt, prefill.
        answer_s: seconds to the whole answer, ``first_s`` included.
    """

    id: str
    user: str
    method: str
    task: int
    history: int
    prediction: str
    beam: str | None
    nats: float
    target_tokens: int
    prompt_tokens: int
    first_s: float
    answer_s: float

    def __post_init__(self) -> None:
        """Refuse values that no run can have.

        Raises:
            ValueError: names the field.
        """
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            # bool is an int to Python, never a count here.
            if not isinstance(value, kinds) or isinstance(value, bool):
                wanted = " or ".join(_WORDS[kind] for kind in kinds)
                raise ValueError(f"field '{name}' must be {wanted}, not {value!r}")
            if isinstance(value, int | float) and not math.isfinite(value):
                raise ValueError(f"field '{name}' must be finite, not {value}")
            # A certain answer's nats may round to just below zero.
            if isinstance(value, int | float) and name != "nats" and value < 0:
                raise ValueError(f"field '{name}' must not be negative, not {value}")
        if self.target_tokens < 1:
            raise ValueError("field 'target_tokens' must be at least 1, not 0")
        if not 1 <= self.task <= 7:
            raise ValueError(f"field 'task' must be 1 to 7, not {self.task}")


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "user", "method", "prediction"), (str,)),
    "beam": (str, type(None)),
    **dict.fromkeys(("task", "history", "target_tokens", "prompt_tokens"), (int,)),
    **dict.fromkeys(("nats", "first_s", "answer_s"), (float, int)),
}
_WORDS = {str: "text", int: "a whole number", float: "a number", type(None): "null"}


def _record(values: object, where: str) -> Record:
    """The record in parsed JSON; ``where`` begins every error."""
    names = [f.name for f in fields(Record)]
    if not isinstance(values, dict):
        raise ValueError(f"{where}: a record must be an object, not {values!r:.60}")
    for name in names:
        if name not in values:
            raise ValueError(f"{where}: field '{name}' is missing")
    if unknown := sorted(set(values) - set(names)):
        raise ValueError(f"{where}: unknown field '{unknown[0]}'; written by a newer version?")
    try:
        return Record(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@dataclass
class Run:
    """A finished evaluation of one task.

    Attributes:
        settings: how it was run; JSON values only.
        task_name: as in the outputs file, for example "LaMP_6_style".
        golds: gold answer by question id, at least of every question that has a record.
        records: at most one a (question, method).
        inputs: what was asked, by question id; examples show it, no figure needs it.
    """

    settings: dict[str, Any]
    task_name: str
    golds: dict[str, str]
    records: list[Record]
    inputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a run that cannot be judged.

        Raises:
            ValueError: no record, one without a gold, two of the same question and method, or
                records of several tasks.
        """
        if not self.records:
            raise ValueError("the run has no records: no question was answered")
        seen: set[tuple[str, str]] = set()
        for record in self.records:
            if record.id not in self.golds:
                raise ValueError(f"question '{record.id}' has a record but no gold answer")
            if (record.id, record.method) in seen:
                raise ValueError(
                    f"question '{record.id}' has two records of method '{record.method}'"
                )
            seen.add((record.id, record.method))
        if len(tasks := {record.task for record in self.records}) > 1:
            raise ValueError(f"records of several tasks in one run: {sorted(tasks)}")

    @property
    def task(self) -> int:
        """The LaMP task's number."""
        return self.records[0].task

    @property
    def methods(self) -> list[str]:
        """The methods that have records, in the order in which they first answered."""
        return list(dict.fromkeys(record.method for record in self.records))

    def save(self, path: Path) -> None:
        """Write the run as JSON; ``path`` holds either the old file or the whole new one."""
        whole = {"format": FORMAT, **asdict(self)}
        with replacing(path, encoding="ascii") as file:
            json.dump(whole, file, indent=1, allow_nan=False)
            file.write("\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a saved run.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a saved run; one line that names file, record and field.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # of JSON or of UTF-8
            raise ValueError(f"{path}: not JSON: {error}") from None
        if not isinstance(values, dict) or "format" not in values:
            raise ValueError(f"{path}: not a run saved by export.evaluate --json")
        if values["format"] != FORMAT:
            raise ValueError(
                f"{path}: saved in format {values['format']!r}, this version reads {FORMAT}; "
                "run export.evaluate again"
            )
        for name, kind in (("settings", dict), ("task_name", str), ("records", list)):
            if not isinstance(values.get(name), kind):
                raise ValueError(f"{path}: field '{name}' is missing or of the wrong kind")
        for name in ("golds", "inputs"):
            if not _is_texts(values.get(name)):
                raise ValueError(f"{path}: field '{name}' must map question ids to texts")
        records = [
            _record(record, f"{path}: record {number}")
            for number, record in enumerate(values["records"], 1)
        ]
        try:
            return cls(
                settings=values["settings"],
                task_name=values["task_name"],
                golds=values["golds"],
                records=records,
                inputs=values["inputs"],
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ between ``a`` and ``b`` as JSON would keep them."""
    missing = object()
    a, b = json.loads(json.dumps(a)), json.loads(json.dumps(b))
    return [name for name in {**a, **b} if a.get(name, missing) != b.get(name, missing)]


class Journal(Closable):
    """The records of an unfinished run, one JSON line each behind a line of the settings.

    A record is on disk once ``add`` returns, so a run that was stopped goes on from there. A last
    line that a crash tore off is forgotten: that question is answered again.

    Attributes:
        path: the journal's file.
        records: what it holds, in the order added.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        """Begin or resume the journal of the run that will be saved at ``out``.

        Args:
            out: the run's own path, say OUT.json; the journal is OUT.jsonl beside it.
            settings: whatever a record depends on.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: it was begun with other settings, or holds a line that is no record.
        """
        self.path = out.with_name(out.name + "l")
        self.records: list[Record] = []
        self._done: set[tuple[str, str]] = set()
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole:
            self._resume(whole, settings)
        self._file = self.path.open("ab")
        if len(whole) < len(text):
            self._file.truncate(len(whole))
        if not whole:
            self._write({"settings": dict(settings)})

    def _resume(self, whole: bytes, settings: Mapping[str, Any]) -> None:
        first, *rest = whole.split(b"\n")[:-1]
        begun = self._parse(first, 1)
        if not isinstance(begun, dict) or not isinstance(begun.get("settings"), dict):
            raise ValueError(f"{self.path}, line 1: not a journal's settings; {self._way_out}")
        if names := differing(begun["settings"], settings):
            raise ValueError(
                f"{self.path}: begun with other settings ({', '.join(names)}); run with those, "
                f"or {self._way_out}"
            )
        for number, line in enumerate(rest, 2):
            where = f"{self.path}, line {number}"
            record = _record(self._parse(line, number), where)
            # Two processes at once may have answered the same; either answer is as good.
            if (record.id, record.method) not in self._done:
                self._keep(record)

    def _parse(self, line: bytes, number: int) -> object:
        try:
            return json.loads(line)
        except ValueError:
            raise ValueError(f"{self.path}, line {number}: not JSON; {self._way_out}") from None

    @property
    def _way_out(self) -> str:
        return "delete the journal to start over"

    def _write(self, values: dict[str, Any]) -> None:
        # One write a line: a process that is killed between two leaves whole lines.
        # ASCII, since half of a split emoji, which tweets do hold, has no UTF-8.
        self._file.write(json.dumps(values, allow_nan=False).encode("ascii") + b"\n")
        self._file.flush()

    def _keep(self, record: Record) -> None:
        self._done.add((record.id, record.method))
        self.records.append(record)

    def done(self) -> set[tuple[str, str]]:
        """(question id, method) of every record."""
        return set(self._done)

    def add(self, record: Record) -> None:
        """Append ``record``.

        Raises:
            OSError: the disk did not take it.
            ValueError: this question and method have a record.
        """
        if (record.id, record.method) in self._done:
            raise ValueError(f"question '{record.id}' has two records of method '{record.method}'")
        self._write(asdict(record))
        self._keep(record)

    def close(self) -> None:
        """Close the file, which stays; safe to call twice."""
        self._file.close()
