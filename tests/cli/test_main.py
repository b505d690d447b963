"""The installed command, run as a person would: what it prints, where, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from ppedge import defaults
from ppedge.cli.main import COMMANDS, main
from ppedge.version import __version__
from tests import tiny_gguf, tiny_plug
from tests.command import PPEDGE, Command
from tests.tiny_plug import N_SOFT

PROMPT = "write about rain"
NOTES: list[dict[str, Any]] = [
    {"text": "the bread is out. it is fine.", "id": "b1", "time": "2024-05-01"},
    {"input": "how is the bicycle?", "output": "the bicycle sulks.", "time": 1700000000},
    {"text": "no rain today — we waited 🧀"},
]
POSIX_LOCALE = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def plug(model: Path) -> Path:
    return tiny_plug.write(model.parent / "plug", model)


@pytest.fixture(scope="session")
def slow_plug(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny plug for the default model, which takes its time."""
    path = tmp_path_factory.mktemp("slow") / "plug"
    return tiny_plug.write(
        path, defaults.find_model(), template=tiny_plug.CHAT_TEMPLATE, soft_size=0.1
    )


@pytest.fixture
def ppedge(tmp_path: Path, model: Path, plug: Path) -> Command:
    """The command on the tiny model and plug."""
    files = {"PPEDGE_MODEL": str(model), "PPEDGE_PLUG": str(plug)}
    return Command(tmp_path / "home", files)


@pytest.fixture
def default(tmp_path: Path) -> Command:
    """The command as it comes."""
    return Command(tmp_path / "home")


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return written(tmp_path / "notes.jsonl", NOTES)


def written(path: Path, notes: list[dict[str, Any]]) -> Path:
    path.write_bytes(lines(notes))
    return path


def lines(notes: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(note, ensure_ascii=False) + "\n" for note in notes).encode()


def many(n: int) -> list[dict[str, Any]]:
    return [{"text": f"note {i} about the bread", "id": str(i)} for i in range(n)]


def answer(history: Path | str, *more: str | Path) -> list[str | Path]:
    """The arguments of a short answer with a fixed seed."""
    return ["personalize", "--history", history, "--max-tokens", "12", "--seed", "3", *more]


# --- the answer, and where it goes ---


def test_stdout_is_the_answer_and_nothing_else(ppedge: Command, history: Path) -> None:
    text = ppedge.json(*answer(history, PROMPT))["text"]
    done = ppedge(*answer(history, PROMPT))
    assert done.stdout.decode() == text + "\n"
    assert text


def test_what_was_encoded_is_said_on_stderr(ppedge: Command, history: Path) -> None:
    encoded, read = ppedge(*answer(history, PROMPT)).stderr.splitlines()
    assert encoded == b"ppedge: encoded 3 of 3 notes"
    said = rb"ppedge: reading [1-3] of the notes, as nothing of them is kept yet"
    assert re.fullmatch(said, read)
    assert ppedge(*answer(history, PROMPT)).stderr == b""


def test_on_a_terminal_stderr_counts_the_notes(ppedge: Command, tmp_path: Path) -> None:
    history = written(tmp_path / "notes.jsonl", many(300))
    terminal, end = os.openpty()
    run = subprocess.run(
        [PPEDGE, *answer(history, PROMPT)],
        env=ppedge.environment(),
        stdout=subprocess.PIPE,
        stderr=end,
        check=True,
    )
    os.close(end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert "\rppedge: notes 300/300" in shown
    assert "encoded 300 of 300 notes" in shown
    assert b"ppedge:" not in run.stdout


def test_a_second_run_says_nothing_and_answers_the_same(ppedge: Command, history: Path) -> None:
    first, second = (ppedge(*answer(history, PROMPT)) for _ in range(2))
    assert second.stderr == b""
    assert second.stdout == first.stdout


def test_a_second_run_encodes_no_note(ppedge: Command, history: Path, tmp_path: Path) -> None:
    assert len(ppedge.encoded(*answer(history, PROMPT), folder=tmp_path)) == len(NOTES)
    assert ppedge.encoded(*answer(history, PROMPT), folder=tmp_path) == []


def test_an_edited_line_encodes_that_note_alone(
    ppedge: Command, history: Path, tmp_path: Path
) -> None:
    ppedge.good(*answer(history, PROMPT))
    written(history, [*NOTES[:2], {"text": "rain after all"}])
    assert ppedge.encoded(*answer(history, PROMPT), folder=tmp_path) == ["rain after all"]
    assert ppedge.json(*answer(history, PROMPT))["notes"] == 3


def test_a_removed_line_is_forgotten(ppedge: Command, history: Path) -> None:
    ppedge.good(*answer(history, PROMPT))
    written(history, NOTES[:1])
    one = ppedge.json(*answer(history, PROMPT))
    assert one["notes"] == 1
    stores = [file.read_bytes() for file in ppedge.home.rglob("*") if file.is_file()]
    assert stores
    assert not any(b"sulks" in data for data in stores)


def test_json_is_one_object_with_every_field(ppedge: Command, history: Path, plug: Path) -> None:
    report = ppedge.json(*answer(history, PROMPT))
    assert list(report) == [
        *("text", "finish", "tokens", "seed", "notes", "heaviest", "null_weight"),
        *("model", "plug", "turns", "seconds"),
    ]
    assert report["finish"] in ("stop", "length")
    assert set(report["tokens"]) == {"prompt", "new", "soft"}
    assert report["tokens"]["soft"] == N_SOFT
    assert ppedge.json(*answer(history, PROMPT), "--without", "soft")["tokens"]["soft"] == 0
    assert 1 <= report["turns"] <= 3
    assert report["notes"] == len(NOTES)
    assert (report["seed"], report["plug"]) == (3, "tiny-0")
    stages = {"load", "history", "encode", "pool", "project", "prefill", "decode"}
    assert set(report["seconds"]) == stages
    assert all(seconds > 0 for seconds in report["seconds"].values())


def test_json_names_the_heaviest_notes_heaviest_first(ppedge: Command, history: Path) -> None:
    report = ppedge.json(*answer(history, PROMPT))
    weights = [note["weight"] for note in report["heaviest"]]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) + report["null_weight"] == pytest.approx(1, abs=1e-5)
    by_output = {note["output"]: note for note in report["heaviest"]}
    assert by_output["the bread is out. it is fine."]["id"] == "b1"
    assert by_output["the bicycle sulks."]["time"] == 1700000000
    assert by_output["the bicycle sulks."]["input"] == "how is the bicycle?"


def test_no_more_than_max_tokens_are_written(ppedge: Command, history: Path) -> None:
    for seed in "12345":
        report = ppedge.json(
            "personalize", "--history", history, "--max-tokens", "5", "--seed", seed, PROMPT
        )
        assert report["tokens"]["new"] <= 5
        assert report["finish"] == "stop" or report["tokens"]["new"] == 5


def test_temperature_0_writes_the_same_whatever_the_seed(ppedge: Command, history: Path) -> None:
    cold = ["personalize", "--history", history, "--temperature", "0", "--max-tokens", "20"]
    texts = {ppedge.good(*cold, "--seed", seed, PROMPT) for seed in "123"}
    assert len(texts) == 1


def test_a_seed_reproduces_an_answer_and_another_does_not(ppedge: Command, history: Path) -> None:
    hot = ["personalize", "--history", history, "--temperature", "2", "--max-tokens", "20"]
    assert ppedge.good(*hot, "--seed", "5", PROMPT) == ppedge.good(*hot, "--seed", "5", PROMPT)
    assert ppedge.good(*hot, "--seed", "5", PROMPT) != ppedge.good(*hot, "--seed", "6", PROMPT)


def test_a_drawn_seed_is_told_and_reproduces_the_answer(ppedge: Command, history: Path) -> None:
    hot = ["personalize", "--history", history, "--temperature", "2", "--max-tokens", "20", PROMPT]
    drawn = ppedge.json(*hot)
    assert ppedge.json(*hot, "--seed", str(drawn["seed"]))["text"] == drawn["text"]


def test_no_persona_answers_as_the_bare_model_and_reads_no_notes(
    ppedge: Command, history: Path
) -> None:
    cold = ["personalize", "--temperature", "0", "--max-tokens", "20", PROMPT]
    bare = ppedge.json(*cold, "--no-persona")
    assert [bare[name] for name in ("notes", "heaviest", "null_weight")] == [None, None, None]
    assert "soft" not in bare["tokens"]
    own = ppedge.json(*cold, "--history", history, "--with", "soft", "--without", "turns")
    assert bare["text"] != own["text"]
    assert bare["tokens"]["prompt"] == own["tokens"]["prompt"] - N_SOFT
    assert ppedge.json(*cold, "--no-persona", "--history", "none.jsonl")["text"] == bare["text"]


def test_flags_win_over_the_environment(
    ppedge: Command, history: Path, model: Path, plug: Path
) -> None:
    report = ppedge.json(
        *answer(history, "--model", model, "--plug", plug, PROMPT),
        PPEDGE_MODEL="/none",
        PPEDGE_PLUG="/none",
    )
    assert report["model"] == str(model)


def test_a_plug_may_be_a_zip(ppedge: Command, history: Path, plug: Path, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", plug)
    zipped = ppedge.good(*answer(history, "--plug", packed, PROMPT))
    assert zipped == ppedge.good(*answer(history, PROMPT))


def test_llama_cpp_is_silent_unless_asked(ppedge: Command, history: Path) -> None:
    ppedge.good(*answer(history, PROMPT))
    assert ppedge(*answer(history, PROMPT)).stderr == b""
    assert b"llama" in ppedge(*answer(history, "-v", PROMPT)).stderr


# --- notes and prompt from stdin ---


def test_history_from_stdin_answers_as_from_a_file(ppedge: Command, history: Path) -> None:
    from_file = ppedge.json(*answer(history, PROMPT))
    from_stdin = ppedge.json(*answer("-", PROMPT), stdin=lines(NOTES))
    assert from_stdin["text"] == from_file["text"]
    assert from_stdin["heaviest"] == from_file["heaviest"]


@pytest.mark.parametrize("way", ["stdin", "pipe"])
def test_notes_from_a_stream_leave_nothing_behind(
    ppedge: Command, tmp_path: Path, way: str
) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"TMPDIR": str(tmp_path / "tmp")}
    if way == "stdin":
        ppedge.good(*answer("-", PROMPT), stdin=lines(NOTES), **env)
    else:
        reader, writer = os.pipe()
        os.write(writer, lines(NOTES))
        os.close(writer)
        done = subprocess.run(
            [PPEDGE, *answer(f"/dev/fd/{reader}", PROMPT)],
            env=ppedge.environment(**env),
            pass_fds=[reader],
            capture_output=True,
            check=True,
        )
        os.close(reader)
        assert b"encoded 3 of 3 notes" in done.stderr
    assert not ppedge.home.exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def started_with_notes_from_stdin(ppedge: Command, scratch: Path) -> subprocess.Popen[bytes]:
    """A command that reads many notes from stdin, and has begun to store them."""
    run = ppedge.start(*answer("-", PROMPT), TMPDIR=str(scratch))
    assert run.stdin
    run.stdin.write(lines(many(20_000)))
    run.stdin.close()
    run.stdin = None
    began = time.monotonic()
    while not list(scratch.rglob("notes.db")):
        assert time.monotonic() - began < 30
        time.sleep(0.02)
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_notes_from_stdin_leave_nothing_behind_when_the_command_is_ended(
    ppedge: Command, tmp_path: Path, number: signal.Signals
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    run = started_with_notes_from_stdin(ppedge, scratch)
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 128 + number
    assert b"Traceback" not in err
    assert list(scratch.iterdir()) == []


def test_notes_from_stdin_of_a_killed_command_are_gone_at_the_next_start(
    ppedge: Command, tmp_path: Path
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    others = scratch / "ppedge-others"
    others.mkdir()  # nothing in it says that it is one of ours
    for _ in range(2):
        run = started_with_notes_from_stdin(ppedge, scratch)
        # A command that still runs keeps its folder.
        ppedge.good(*answer("-", PROMPT), stdin=lines(NOTES), TMPDIR=str(scratch))
        assert list(scratch.rglob("notes.db"))
        run.kill()
        run.wait()
    assert list(scratch.rglob("notes.db"))
    ppedge.good(*answer("-", PROMPT), stdin=lines(NOTES), TMPDIR=str(scratch))
    assert list(scratch.iterdir()) == [others]


def test_nothing_is_written_but_the_store(ppedge: Command, history: Path, tmp_path: Path) -> None:
    # onnxruntime would leave an id and a queue of reports to its maker here.
    places = {"HOME": tmp_path / "me", "TMPDIR": tmp_path / "tmp"}
    for place in places.values():
        place.mkdir()
    env = {name: str(place) for name, place in places.items()}
    ppedge.good(*answer(history, PROMPT), XDG_CACHE_HOME=f"{places['HOME']}/.cache", **env)
    assert [file for place in places.values() for file in place.rglob("*")] == []
    assert [entry.name for entry in ppedge.home.iterdir()] == ["histories"]


def test_a_prompt_from_stdin_is_the_same_prompt(ppedge: Command, history: Path) -> None:
    direct = ppedge.good(*answer(history, "grüß 🧀"))
    assert ppedge.good(*answer(history, "-"), stdin="grüß 🧀".encode()) == direct
    assert ppedge.good(*answer(history, "-"), stdin="grüß 🧀\n".encode()) == direct


def test_a_prompt_from_stdin_that_is_not_utf8_is_refused(ppedge: Command, history: Path) -> None:
    message = ppedge.error(*answer(history, "-"), stdin=b"ok \xff\xfe")
    assert "stdin: byte 4 of the prompt is not UTF-8" in message


@pytest.mark.parametrize("prompt", ["", "  \t\u00a0", "-"])
def test_a_blank_prompt_is_a_usage_error(ppedge: Command, history: Path, prompt: str) -> None:
    message = ppedge.error(*answer(history, prompt), stdin=b" \n", code=2)
    assert "the prompt is blank" in message


@pytest.mark.parametrize("text", ["é🔥", "grüß"])
def test_text_in_a_locale_without_utf8_is_read_as_utf8(
    ppedge: Command, history: Path, text: str
) -> None:
    asked = answer(history, text)
    assert ppedge.json(*asked, **POSIX_LOCALE)["text"] == ppedge.json(*asked)["text"]
    ppedge.good("notes", "add", str(history))
    assert ppedge.good("notes", "list", "--text", text, **POSIX_LOCALE) == ""


@pytest.mark.parametrize("command", ["list", "forget"])
def test_text_that_is_not_utf8_is_one_line_that_names_the_option(
    ppedge: Command, history: Path, command: str
) -> None:
    ppedge.good("notes", "add", str(history))
    assert "'--text'" in ppedge.error("notes", command, "--text", b"caf\xe9", code=2)


def test_a_home_with_a_tilde_is_in_the_home_folder(
    ppedge: Command, history: Path, tmp_path: Path
) -> None:
    ppedge.good("notes", "add", str(history), PPEDGE_HOME="~/x", HOME=str(tmp_path / "me"))
    assert (tmp_path / "me" / "x" / "personas").is_dir()
    assert not (tmp_path / "~").exists()


def test_names_and_scopes_in_a_locale_without_utf8_are_read_as_utf8(
    ppedge: Command, tmp_path: Path
) -> None:
    notes = written(tmp_path / "grüße.jsonl", [{"text": "vom café", "tags": ["café"]}])
    ppedge.good("notes", "add", str(notes), "--persona", "nö", **POSIX_LOCALE)
    for env in ({}, POSIX_LOCALE):
        only = ("--only", "tag:café")
        assert ppedge.good("notes", "list", "--persona", "nö", *only, "--json", **env)
        assert ppedge.good("notes", "list", "--persona", "nö", "--only", "tag:thé", **env) == ""
    assert "nö" in ppedge.good("persona", "list")
    ppedge.good("persona", "new", "çà", **POSIX_LOCALE)
    ppedge.good("persona", "rename", "çà", "là", **POSIX_LOCALE)
    assert "là" in ppedge.good("persona", "list")
    assert '"nö"' in ppedge.error("persona", "new", "nö")
    assert "there is a persona" in ppedge.error("persona", "new", "nö", **POSIX_LOCALE)
    ppedge.good("persona", "delete", "là", "--yes", **POSIX_LOCALE)
    assert "là" not in ppedge.good("persona", "list")


@pytest.mark.parametrize("place", ["/proc/x", "a link to itself", "a long name"])
@pytest.mark.parametrize("command", ["notes add", "persona new", "serve", "watch"])
def test_a_home_that_cannot_be_made_names_its_variable(
    ppedge: Command, tmp_path: Path, place: str, command: str
) -> None:
    home = {"/proc/x": Path("/proc/x"), "a long name": tmp_path / ("n" * 300)}.get(place)
    if home is None:
        home = tmp_path / "loop"
        home.symlink_to(home)
    notes = written(tmp_path / "notes.jsonl", NOTES)
    words = {"notes add": (notes,), "persona new": ("anna",), "watch": (tmp_path,)}
    message = ppedge.error(*command.split(), *words.get(command, ()), PPEDGE_HOME=str(home))
    assert str(home) in message
    assert "PPEDGE_HOME" in message
    assert "check the disk" not in message


@pytest.mark.parametrize("place", ["no folder", "a file as folder", "a long name"])
@pytest.mark.parametrize("command", ["notes export", "persona export default"])
def test_an_export_that_cannot_be_written_asks_for_another_file(
    ppedge: Command, history: Path, tmp_path: Path, place: str, command: str
) -> None:
    ppedge.good("notes", "add", str(history))
    names = {"no folder": "absent/out", "a file as folder": "notes.jsonl/out"}
    out = tmp_path / names.get(place, "n" * 300)
    message = ppedge.error(*command.split(), str(out))
    assert str(out) in message
    assert "name a file in a folder" in message


@pytest.mark.parametrize("kind", ["a file", "a device"])
def test_a_home_that_cannot_hold_a_folder_is_named_with_the_way_out(
    ppedge: Command, history: Path, tmp_path: Path, kind: str
) -> None:
    home = tmp_path / "file" if kind == "a file" else Path("/dev/null")
    if kind == "a file":
        home.touch()
    message = ppedge.error("notes", "add", str(history), PPEDGE_HOME=str(home))
    assert str(home) in message
    assert "a file stands where the folder" in message
    assert "PPEDGE_HOME" in message


@pytest.mark.parametrize("kind", ["a file", "a device", "no home", "a store that is a file"])
def test_a_history_is_answered_from_without_a_place_to_keep_anything(
    ppedge: Command, history: Path, tmp_path: Path, kind: str
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    wanted = ppedge.good(*answer(history, PROMPT))
    env = {"PPEDGE_HOME": str(tmp_path / "file"), "TMPDIR": str(scratch)}
    if kind == "a device":
        env["PPEDGE_HOME"] = "/dev/null"
    elif kind == "no home":
        env["PPEDGE_HOME"] = "~nobody-of-that-name/x"
    elif kind == "a store that is a file":
        (tmp_path / "file").mkdir()
        (tmp_path / "file" / "histories").touch()
    else:
        (tmp_path / "file").touch()
    done = ppedge(*answer(history, PROMPT), **env)
    assert done.returncode == 0
    assert done.stdout.decode() == wanted
    [note] = [line for line in done.stderr.decode().splitlines() if "note: nothing is kept" in line]
    assert "PPEDGE_HOME" in note
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_keeps_nothing(
    ppedge: Command, history: Path, tmp_path: Path
) -> None:
    home = tmp_path / "mine"
    home.mkdir(mode=0o500)
    done = ppedge(*answer(history, PROMPT), PPEDGE_HOME=str(home))
    assert done.returncode == 0
    assert b"note: nothing is kept" in done.stderr


def test_a_relative_xdg_path_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PPEDGE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "some/where")
    monkeypatch.setattr("sys.platform", "linux")
    assert defaults.data_home() == tmp_path / ".local" / "share" / "ppedge"


def test_a_prompt_that_is_not_unicode_is_one_line(ppedge: Command, history: Path) -> None:
    assert "'PROMPT'" in ppedge.error(*answer(history), b"caf\xe9", code=2)


def test_a_closed_stdin_is_one_line(ppedge: Command) -> None:
    command = f"'{PPEDGE}' personalize --history - hi <&-"
    done = subprocess.run(
        ["sh", "-c", command], env=ppedge.environment(), capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"stdin" in done.stderr


# --- histories that are odd or bad ---


def test_an_empty_history_is_answered_and_says_so(ppedge: Command, tmp_path: Path) -> None:
    empty = written(tmp_path / "empty.jsonl", [])
    done = ppedge(*answer(empty, PROMPT))
    assert done.returncode == 0
    assert done.stdout.strip()
    assert b"the history is empty" in done.stderr
    report = ppedge.json(*answer(empty, PROMPT))
    assert (report["notes"], report["null_weight"], report["heaviest"]) == (0, 1.0, [])


def test_a_bad_line_stops_with_file_line_and_field(ppedge: Command, tmp_path: Path) -> None:
    bad = written(tmp_path / "bad.jsonl", [NOTES[0], {"text": 7}, NOTES[1]])
    message = ppedge.error(*answer(bad, PROMPT))
    assert f'{bad}, line 2: field "text"' in message


def test_a_bad_line_of_stdin_says_stdin(ppedge: Command) -> None:
    assert "stdin, line 1:" in ppedge.error(*answer("-", PROMPT), stdin=b"nonsense\n")


def test_skip_bad_goes_on_and_counts(ppedge: Command, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(lines(NOTES[:1]) + b'{"text": 7}\n{"broken\n' + lines(NOTES[1:]))
    done = ppedge(*answer(bad, "--skip-bad", PROMPT))
    assert done.returncode == 0
    said = done.stderr.decode()
    assert "line 2" in said
    assert "line 3" in said
    assert "skipped 2 bad lines" in said
    assert "encoded 3 of 3 notes" in said


def test_lamp_records_and_a_byte_order_mark_are_read(ppedge: Command, tmp_path: Path) -> None:
    lamp = [
        {"title": "On bread", "abstract": "We bake.", "id": "1"},
        {"description": "a film", "tag": "dark comedy", "id": "2"},
        {"text": "fine product", "score": 5, "id": "3"},
    ]
    path = tmp_path / "lamp.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(lamp))
    assert ppedge.json(*answer(path, PROMPT))["notes"] == 3


@pytest.mark.parametrize(
    ("path", "why"), [("none.jsonl", "No such file"), (".", "Is a directory"), ("", "directory")]
)
def test_a_history_that_is_no_file_is_one_line(ppedge: Command, path: str, why: str) -> None:
    message = ppedge.error(*answer(path, PROMPT))
    assert why in message
    assert "give a JSON Lines file" in message


def test_a_history_whose_name_is_odd_is_a_history(ppedge: Command, tmp_path: Path) -> None:
    odd = written(tmp_path / "-my notes\n🧀;$(x).jsonl", NOTES)
    assert ppedge.json(*answer(odd, PROMPT))["notes"] == 3


# --- wrong arguments, missing parts ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["personalize"],
        ["personalize", "hi"],
        ["personalize", "--history", "-", "-"],
        ["personalize", "--no-persona", "hi", "--max-tokens", "0"],
        ["personalize", "--no-persona", "hi", "--temperature", "-1"],
        ["personalize", "--no-persona", "hi", "--seed", "-1"],
        ["personalize", "--no-persona", "hi", "--seed", "x"],
        ["personalize", "--no-persona", "hi", "there"],
        ["personalize", "--no-persona", "hi", "--temperature", "nan"],
        ["personalize", "--no-persona", "hi", "--temperature", "inf"],
        ["personalize", "--no-persona", "hi", "--strength", "nan"],
        ["personalize", "--no-persona", "hi", "--seed", str(2**32)],
        ["personalise"],
        ["--nonsense"],
        ["plug"],
        ["plug", "show", "a", "b"],
    ],
    ids=" ".join,
)
def test_a_wrong_use_exits_with_2(ppedge: Command, arguments: list[str]) -> None:
    done = ppedge(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Usage: ppedge" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--model", "none.gguf"], "none.gguf: no such file"),
        (["--model", "."], ".: "),
        (["--model", __file__], "test_main.py"),
        (["--plug", "missing"], "missing: no such plug"),
        (["--plug", "."], "plug.json is missing"),
        (["--plug", __file__], "neither a folder nor a .zip"),
    ],
)
def test_what_cannot_be_used_is_one_line(ppedge: Command, arguments: list[str], why: str) -> None:
    assert why in ppedge.error("personalize", "--no-persona", "hi", *arguments)


def test_a_pipe_for_a_model_is_one_line(ppedge: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    message = ppedge.error("personalize", "--no-persona", "hi", "--model", tmp_path / "pipe")
    assert "is a pipe; give the .gguf file itself" in message


def test_a_model_that_the_plug_does_not_fit_is_refused_naming_both(ppedge: Command) -> None:
    message = ppedge.error("personalize", "--no-persona", "hi", "--model", defaults.find_model())
    assert "n_embd: wanted 64, found 576" in message
    assert str(defaults.find_model()) in message
    assert "tiny-0" in message


def test_a_prompt_over_the_context_says_how_long_it_is(ppedge: Command, history: Path) -> None:
    message = ppedge.error(*answer(history, "-"), stdin=b"rain " * 20_000)
    assert "tokens, and 512 fit" in message


# --- ends that come early ---


def endless(history: Path, prompt: str) -> list[str | Path]:
    """A command that writes for a long time, by the plug's soft tokens alone."""
    left_out = [word for part in ("turns", "rules") for word in ("--without", part)]
    words = ["--max-tokens", "1500", "--temperature", "0.7", "--with", "soft", *left_out, prompt]
    return ["personalize", "--history", history, *words]


def test_a_reader_that_leaves_ends_the_answer_quietly(
    ppedge: Command, history: Path, slow_plug: Path
) -> None:
    env = {"PPEDGE_MODEL": str(defaults.find_model()), "PPEDGE_PLUG": str(slow_plug)}
    run = ppedge.start(*endless(history, PROMPT), **env)
    assert run.stdout
    assert run.stderr
    assert run.stdout.read(1)
    run.stdout.close()
    began = time.monotonic()
    assert run.wait(30) == 1
    assert time.monotonic() - began < 15
    assert run.stderr.read() == b"ppedge: encoded 3 of 3 notes\n"


def test_a_full_disk_under_stdout_is_one_line(ppedge: Command, history: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [PPEDGE, *answer(history, PROMPT)],
            env=ppedge.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == b"Error: No space left on device"


@pytest.mark.parametrize("moment", ["while it reads the prompt", "in mid-answer"])
def test_ctrl_c_ends_it_at_once(
    ppedge: Command, history: Path, slow_plug: Path, moment: str
) -> None:
    env = {"PPEDGE_MODEL": str(defaults.find_model()), "PPEDGE_PLUG": str(slow_plug)}
    prompt = "rain and bread " * 600 if moment.startswith("while") else PROMPT
    run = ppedge.start(*endless(history, prompt), **env)
    assert run.stdout
    assert run.stderr
    assert run.stderr.readline() == b"ppedge: encoded 3 of 3 notes\n"
    if moment == "in mid-answer":
        assert run.stdout.read(1)
    else:
        time.sleep(0.5)
        assert run.poll() is None
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    # A second on an idle machine; the bound allows for a busy one.
    assert time.monotonic() - began < 5
    assert run.returncode == 130
    assert err.strip() == b"Aborted!"
    if moment.startswith("while"):
        assert out.strip() == b""


def test_ctrl_c_while_encoding_keeps_what_was_done(ppedge: Command, tmp_path: Path) -> None:
    big = written(tmp_path / "big.jsonl", many(40_000))
    run = ppedge.start(*answer(big, PROMPT))
    wait_for_notes(ppedge)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert b"Traceback" not in err
    kept = ppedge.json("notes", "stats", "--persona", store_of(ppedge))["notes"]
    assert 0 < kept < 40_000
    written(big, many(kept + 50))
    assert b"encoded 50 of" in ppedge(*answer(big, PROMPT)).stderr


def wait_for_notes(command: Command) -> None:
    """Wait until a store has committed some notes, however long a busy machine takes."""
    began = time.monotonic()
    while not any(count_notes(file) for file in command.home.rglob("notes.db")):
        assert time.monotonic() - began < 60
        time.sleep(0.05)


def count_notes(file: Path) -> int:
    database = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
    try:
        return database.execute("SELECT count(*) FROM notes").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet, or just being made
        return 0
    finally:
        database.close()


# --- the store that follows a history ---


def store_of(command: Command) -> Path:
    [store] = (command.home / "histories").iterdir()
    return store


def values_of(store: Path) -> Path:
    [values] = store.glob("values.*")
    return values


def database_of(store: Path) -> Path:
    return store / "notes.db"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 64
    path.write_bytes(data)


def fill(path: Path, start: int, byte: bytes) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:start] + byte * (len(data) - start))


def replaced(store: Path) -> None:
    shutil.rmtree(store)
    (store / "holiday").mkdir(parents=True)
    (store / "holiday" / "photo.jpg").write_bytes(b"x")


DAMAGE = {
    "no keys": lambda store: next(store.glob("keys.*")).unlink(),
    "values cut short": lambda store: os.truncate(values_of(store), 5000),
    "no values": lambda store: values_of(store).unlink(),
    "a flipped bit in the values": lambda store: flip(values_of(store), -10),
    "values full of NaN": lambda store: fill(values_of(store), 4096, b"\xff"),
    "no database": lambda store: database_of(store).unlink(),
    "a database of nonsense": lambda store: database_of(store).write_bytes(b"nonsense" * 999),
    "an empty database": lambda store: database_of(store).write_bytes(b""),
    "a database cut short": lambda store: os.truncate(database_of(store), 9000),
    "a hole in the database": lambda store: fill(database_of(store), 8192, b"\0"),
    "files of somebody else": replaced,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_store_is_made_anew(ppedge: Command, tmp_path: Path, damage: Any) -> None:
    history = written(tmp_path / "notes.jsonl", many(120))
    before = ppedge.json(*answer(history, PROMPT))
    damage(store_of(ppedge))
    done = ppedge(*answer(history, PROMPT, "--json"))
    assert done.returncode == 0, done.stderr.decode()
    assert b"encoded 120 of 120 notes" in done.stderr
    after = json.loads(done.stdout)
    assert (after["text"], after["heaviest"]) == (before["text"], before["heaviest"])
    assert ppedge(*answer(history, PROMPT)).stderr == b""


def test_another_plug_encodes_anew(
    ppedge: Command, history: Path, model: Path, tmp_path: Path
) -> None:
    ppedge.good(*answer(history, PROMPT))
    other = tiny_plug.write(tmp_path / "other", model, seed=5)
    assert b"encoded 3 of 3" in ppedge(*answer(history, PROMPT, "--plug", other)).stderr


def test_four_at_once_on_one_history_all_answer_alike(ppedge: Command, tmp_path: Path) -> None:
    history = written(tmp_path / "notes.jsonl", many(2000))
    runs = [ppedge.start(*answer(history, PROMPT)) for _ in range(4)]
    ends = [(*run.communicate(timeout=60), run.returncode) for run in runs]
    assert [code for *_, code in ends] == [0] * 4, [err for _, err, _ in ends]
    assert len({out for out, *_ in ends}) == 1
    assert ppedge(*answer(history, PROMPT)).stderr == b""
    report = ppedge.json("notes", "verify", "--persona", store_of(ppedge))
    assert report == {"notes": 2000, "problems": []}


@pytest.mark.parametrize("kind", ["a file", "a place that cannot be written"])
def test_a_data_folder_that_cannot_be_used_is_one_line(
    ppedge: Command, history: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "file").write_text("x")
    home = tmp_path / "file" if kind == "a file" else Path("/proc/ppedge")
    message = ppedge.error("notes", "add", str(history), PPEDGE_HOME=str(home))
    assert str(home) in message
    done = ppedge(*answer(history, PROMPT), PPEDGE_HOME=str(home))
    assert done.returncode == 0
    assert b"note: nothing is kept" in done.stderr


def test_the_store_is_for_its_owner_alone(ppedge: Command, history: Path) -> None:
    ppedge.good(*answer(history, PROMPT))
    store = store_of(ppedge)
    assert store.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in store.iterdir())


# --- looking at plugs; help ---


def test_plug_show_describes_a_plug(ppedge: Command, plug: Path) -> None:
    shown = ppedge.good("plug", "show", plug)
    for part in ("tiny-0", str(plug), "Apache-2.0", "llama, 64 wide", "hashes right", "random"):
        assert part in shown


def test_plug_show_tells_of_kept_soft_tokens(ppedge: Command, plug: Path, tmp_path: Path) -> None:
    model = Path(ppedge.env["PPEDGE_MODEL"])
    keeping = tiny_plug.write(tmp_path / "keeping", model, n_kept=2)
    assert "2 soft tokens, with a person's turns" in ppedge.good("plug", "show", keeping)
    assert "kept" not in ppedge.good("plug", "show", plug)


def test_plug_show_looks_at_the_plug_in_use(ppedge: Command, plug: Path) -> None:
    assert ppedge.good("plug", "show") == ppedge.good("plug", "show", plug)


def test_plug_show_json_is_the_manifest(ppedge: Command, plug: Path, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", plug)
    manifest = json.loads((plug / "plug.json").read_text("utf-8"))
    assert json.loads(ppedge.good("plug", "show", plug, "--json")) == manifest
    assert json.loads(ppedge.good("plug", "show", packed, "--json")) == manifest


def test_plug_show_refuses_a_damaged_plug(ppedge: Command, plug: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(plug, tmp_path / "copy"))
    flip(copy / tiny_plug.ENCODER, 100)
    message = ppedge.error("plug", "show", copy)
    assert f"{tiny_plug.ENCODER} is not the file that plug.json describes" in message


def test_plug_show_prints_nothing_that_a_terminal_would_obey(
    ppedge: Command, plug: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(plug, tmp_path / "copy"))
    evil = {"\x1b[2Jname\r": "\x1b]0;owned\x07", "c1": "\x9b31m", "bidi": "\u202ereversed"}
    tiny_plug.edit(copy, lambda raw: raw.update(about=evil))
    shown = ppedge.good("plug", "show", copy)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert "reversed" in shown


def test_version_is_the_packages(ppedge: Command) -> None:
    from importlib.metadata import version

    assert ppedge.good("--version").strip() == f"ppedge, version {version('ppedge')}"
    cmake = (Path(__file__).parents[2] / "CMakeLists.txt").read_text("utf-8")
    assert f"project(ppedge VERSION {__version__} " in cmake


def test_help_imports_no_command_and_shows_the_line_of_each() -> None:
    code = "import sys, ppedge.cli.main as m; m.main(['--help'], standalone_mode=False)"
    code += "; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not {"numpy", "sqlite3", "llama_cpp", "onnxruntime"} & set(done.stdout.split())
    context = click.Context(main)
    for name, (_, _, line) in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == line


def test_help_names_every_command(ppedge: Command) -> None:
    shown = ppedge.good("--help")
    for command in ("doctor", "notes", "personalize", "plug", "chat", "why", "import", "persona",
                    "watch", "serve"):  # fmt: skip
        assert f"  {command} " in shown


def test_help_of_personalize_shows_examples_whole(ppedge: Command) -> None:
    shown = ppedge.good("personalize", "-h")
    assert '  ppedge personalize --history notes.jsonl "Write a short note about the rain"' in shown
    assert "cat notes.jsonl | ppedge personalize --history - --json" in shown


def test_an_encoding_without_emoji_does_not_end_an_answer(
    ppedge: Command, history: Path, plug: Path
) -> None:
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    arguments = answer(history, "--temperature", "2", "--json", PROMPT)
    assert json.loads(ppedge.good(*arguments, **env))["heaviest"]


# --- as it comes: the default model and the default plug ---


def test_as_it_comes_it_answers_in_words(default: Command) -> None:
    report = default.json(
        *("personalize", "--history", EXAMPLES / "notes.jsonl", "--seed", "1"),
        *("--max-tokens", "24", "Write a short note about the rain"),
    )
    assert report["model"] == str(defaults.find_model())
    assert report["notes"] >= 40
    assert len(report["text"].split()) > 2
    assert len(report["heaviest"]) == 3


def test_as_it_comes_the_notes_change_the_answer(default: Command, history: Path) -> None:
    cold = ["personalize", "--temperature", "0", "--max-tokens", "24", "Write about your weekend."]
    bare = default.good(*cold, "--no-persona")
    own = default.good(*cold, "--history", EXAMPLES / "notes.jsonl")
    assert bare.strip()
    assert own.strip()
    assert bare != own


def test_as_it_comes_a_second_run_encodes_no_note(default: Command, tmp_path: Path) -> None:
    arguments = answer(EXAMPLES / "notes.jsonl", PROMPT)
    assert len(default.encoded(*arguments, folder=tmp_path)) >= 40
    assert default.encoded(*arguments, folder=tmp_path) == []


def test_as_it_comes_doctor_finds_everything(default: Command) -> None:
    assert all(check["ok"] for check in default.json("doctor"))


def test_as_it_comes_plug_show_describes_the_default_plug(default: Command) -> None:
    assert f"plugs{os.sep}{defaults.DEFAULT_PLUG.name}" in default.good("plug", "show")


# --- parts of a persona, and models without a plug ---


def test_a_model_without_a_plug_answers_from_notes(
    ppedge: Command, history: Path, model: Path
) -> None:
    report = ppedge.json(*answer(history, PROMPT), "--plug", "none")
    assert report["plug"] == "none"
    assert report["turns"] >= 1
    assert (report["heaviest"], report["null_weight"]) == ([], None)


def test_the_best_of_several_is_one_of_them(ppedge: Command, history: Path) -> None:
    report = ppedge.json(*answer(history, PROMPT), "--best-of", "3")
    assert report["text"]
    assert report["tokens"]["new"] >= 3


@pytest.mark.parametrize("part", ["turns", "style", "rules", "topic", "address"])
def test_a_part_left_out_changes_the_command_s_answer_or_nothing(
    ppedge: Command, history: Path, part: str
) -> None:
    assert ppedge.json(*answer(history, PROMPT), "--without", part)["text"]


def test_a_part_by_its_old_name_is_taken_with_a_warning(ppedge: Command, history: Path) -> None:
    done = ppedge(*answer(history, PROMPT), "--with", "literal")
    assert done.returncode == 0
    assert "part literal is now called ngrams" in done.stderr.decode()
    assert done.stdout == ppedge(*answer(history, PROMPT), "--with", "ngrams").stdout


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--best-of", "0"], "--best-of"),
        (["--best-of", "17"], "--best-of"),
        (["--without", "magic"], "--without"),
        (["--with", ""], "--with"),
    ],
)
def test_what_no_part_is_called_is_a_usage_error(
    ppedge: Command, history: Path, words: list[str], what: str
) -> None:
    done = ppedge(*answer(history, PROMPT), *words)
    assert done.returncode == 2
    assert what in done.stderr.decode()
