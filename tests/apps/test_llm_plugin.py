"""The program `llm` with ppedge's models, run as a person's shell would."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppedge import Personalizer, Sampling
from ppedge.llm.sampling import MAX_SEED, MAX_STRENGTH
from ppedge.turns.form import Turn
from tests import tiny_gguf
from tests.apps.conftest import PEOPLE
from tests.command import SECONDS, Command

LLM = Path(sys.executable).with_name("llm")
PROMPT = "Write a short note about the weather"
FEW = ("-o", "seed", "4", "-o", "max_tokens", "8")
SAMPLING = Sampling(seed=4, max_tokens=8)


class Llm(Command):
    """`llm` with a folder of its own, and ppedge's data folder beside it."""

    program = LLM

    @property
    def ppedge(self) -> Command:
        """`ppedge` with the same data folder."""
        return Command(self.home)

    def environment(self, **more: str) -> dict[str, str]:
        folder = self.home.parent / "llm"
        folder.mkdir(exist_ok=True)
        hidden = [name for name in os.environ if name.startswith("LLM_")]
        # Other plugins load llama.cpp whenever llm starts; one test has them all.
        ours = {"LLM_USER_PATH": str(folder), "LLM_LOAD_PLUGINS": "ppedge"}
        env = super().environment(**{**ours, **more})
        return {
            name: value for name, value in env.items() if name not in hidden or name in ours | more
        }

    def run(self, *arguments: str, stdin: bytes = b"", **env: str) -> tuple[int, str, str]:
        done = self(*arguments, stdin=stdin, **env)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def says(self, *arguments: str, stdin: bytes = b"", **env: str) -> str:
        code, out, err = self.run(*arguments, stdin=stdin, **env)
        assert code == 0, err
        return out

    def fails(self, *arguments: str, **env: str) -> list[str]:
        """Run it, expecting no answer; the last line is the error."""
        code, out, err = self.run(*arguments, **env)
        assert (code, out) == (1, ""), err
        lines = err.splitlines()
        assert [line for line in lines if not line.startswith("ppedge: ")] == lines[-1:]
        assert lines[-1].startswith("Error: ")
        return lines

    def logged(self, count: int = 1) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.says("logs", "-n", str(count), "--json"))
        return found


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Llm:
    """Two personas are kept: the default one, and one called doctor."""
    command = Llm(tmp_path_factory.mktemp("plugin") / "home")
    command.ppedge.good("notes", "add", PEOPLE / "captain.jsonl")
    command.ppedge.good("notes", "add", "--persona", "doctor", PEOPLE / "doctor.jsonl")
    command.says("-m", "ppedge", PROMPT, *FEW)  # What is read of the notes is kept.
    return command


@pytest.fixture
def expected(llm: Llm, personalizer: Personalizer) -> Callable[..., str]:
    """What ppedge itself answers, as llm prints it."""

    def answer(persona: str, prompt: str, sampling: Sampling = SAMPLING, **options: Any) -> str:
        with personalizer.persona(llm.home / "personas" / persona) as notes:
            return personalizer.stream(prompt, notes, sampling, **options).read() + "\n"

    return answer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model that is loaded in no time, and that no plug was made for."""
    folder = tmp_path_factory.mktemp("model")
    return {"PPEDGE_MODEL": str(tiny_gguf.write(folder / "tiny.gguf", n_ctx=2048))}


def test_it_answers_by_the_default_persona_and_logs_what_it_took(
    llm: Llm, expected: Callable[..., str]
) -> None:
    out = llm.says("-m", "ppedge", "-s", "Be brief.", PROMPT, *FEW)
    assert out == expected("default", f"Be brief.\n\n{PROMPT}")
    [logged] = llm.logged()
    assert (logged["model"], logged["prompt"], logged["response"]) == ("ppedge", PROMPT, out[:-1])
    assert logged["output_tokens"] == 8
    assert logged["input_tokens"] > 100
    assert logged["response_json"] == {"finish": "length", "seed": 4}


def test_each_persona_is_a_model_and_an_option(llm: Llm, expected: Callable[..., str]) -> None:
    wanted = expected("doctor", PROMPT)
    assert wanted.startswith("Dear colleague")
    assert llm.says("-m", "ppedge/doctor", PROMPT, *FEW) == wanted
    options = ("-o", "persona", "doctor", *FEW)
    assert llm.says("-m", "ppedge", PROMPT, *options, "--no-stream") == wanted
    assert llm.says("--async", "-m", "ppedge", PROMPT, *options) == wanted


def test_every_option_counts(llm: Llm, expected: Callable[..., str]) -> None:
    options = ("-o", "temperature", "1.3", "-o", "strength", "0.5")
    sampling = replace(SAMPLING, temperature=1.3)
    out = llm.says("-m", "ppedge", PROMPT, *FEW, *options)
    assert out == expected("default", PROMPT, sampling, strength=0.5)


def test_a_conversation_goes_on(llm: Llm, expected: Callable[..., str]) -> None:
    asked = ["How is the weather?", "And tomorrow?", "And then?"]
    chat = "".join(f"{prompt}\n" for prompt in [*asked[:2], "exit"])
    llm.says("chat", "-m", "ppedge/doctor", *FEW, stdin=chat.encode())
    llm.says("-c", asked[2], *FEW)
    logged = sorted(llm.logged(3), key=lambda each: str(each["datetime_utc"]))
    assert [each["prompt"] for each in logged] == asked
    assert len({each["conversation_id"] for each in logged}) == 1
    said: list[Turn] = []
    for each in logged:
        wanted = expected("doctor", each["prompt"], conversation=said)
        assert each["response"] + "\n" == wanted
        said.append(Turn(each["prompt"], each["response"]))


def test_beside_all_other_plugins_it_is_listed(llm: Llm) -> None:
    env = llm.environment()
    del env["LLM_LOAD_PLUGINS"]
    done = subprocess.run([LLM, "models"], env=env, capture_output=True, text=True, check=True)
    listed = [line for line in done.stdout.splitlines() if "pedge" in line or "SmolLM2" in line]
    assert listed == ["Ppedge: ppedge", "Ppedge: ppedge/doctor", "SmolLM2: SmolLM2"]


def test_pieces_come_before_the_answer_is_whole(llm: Llm) -> None:
    env = llm.environment()
    arguments = [LLM, "-m", "ppedge", "-o", "seed", "4", "-o", "temperature", "0.9", PROMPT]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=env) as running:
        assert running.stdout is not None
        reads = []
        while data := os.read(running.stdout.fileno(), 1 << 16):
            reads.append(data)
    assert running.returncode == 0
    assert len(reads) > 4


def test_ctrl_c_ends_an_answer(llm: Llm) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = [LLM, "-m", "ppedge", "-o", "strength", "0", "-o", "max_tokens", "1500", "Go on"]
    try:
        running = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=llm.environment()
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert running.stdout is not None
    os.read(running.stdout.fileno(), 1)
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=SECONDS)
    assert time.monotonic() - began < 10
    assert running.returncode != 0


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (("-m", "ppedge", "-o", "persona", "nobody", "hi"), {}, "no notes of persona 'nobody'"),
        (("-m", "ppedge", "-o", "persona", "a:b", "hi"), {}, '"a:b" cannot be the name'),
        (("-m", "ppedge", "hi"), {"PPEDGE_MODEL": "/no/such.gguf"}, "/no/such.gguf: no such file"),
        (("-m", "ppedge", "hi"), {"PPEDGE_PLUG": "/no/plug"}, "/no/plug: no such plug"),
        (("-m", "ppedge", "word " * 4000), {}, r"the prompt takes \d+ tokens, and 2048 fit"),
        (("-m", "ppedge", " "), {}, "the prompt is blank"),
        (("-m", "ppedge/nobody", "hi"), {}, "Unknown model: ppedge/nobody"),
    ],
)
def test_what_goes_wrong_is_one_line(
    llm: Llm, tiny: dict[str, str], arguments: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    *_, line = llm.fails(*arguments, **{**tiny, **env})
    assert re.search(said, line)


def test_options_out_of_range_are_refused_before_anything_is_loaded(llm: Llm) -> None:
    wrong = {"temperature": "-1", "seed": "-1", "strength": "9", "max_tokens": "0", "mood": "x"}
    options = [word for name, value in wrong.items() for word in ("-o", name, value)]
    code, out, err = llm.run("-m", "ppedge", *options, "hi", PPEDGE_MODEL="/no/such.gguf")
    assert (code, out) == (1, "")
    assert [line.removeprefix("Error: ") for line in err.splitlines()[::2]] == list(wrong)


def test_the_bounds_of_options_are_those_of_answers() -> None:
    from ppedge.llm_plugin import PpedgeOptions  # Late: it imports llm.

    options = PpedgeOptions.model_json_schema()["properties"]
    bounds = {name: options[name]["anyOf"][0].get("maximum") for name in ("seed", "strength")}
    assert bounds == {"seed": MAX_SEED, "strength": MAX_STRENGTH}


def test_without_notes_it_says_how_to_keep_some(tmp_path: Path) -> None:
    llm = Llm(tmp_path / "home")
    [line] = llm.fails("-m", "ppedge", "hi")
    assert "keep some with `ppedge notes add FILE`" in line
    assert not llm.home.exists()


def test_a_model_without_a_plug_answers(llm: Llm, tiny: dict[str, str]) -> None:
    code, out, err = llm.run("-m", "ppedge", "hi", *FEW, **tiny)
    assert code == 0
    assert out.strip()
    assert "no plug for tiny.gguf" in err


def test_llm_starts_as_fast_as_without_it(llm: Llm) -> None:
    program = (
        "import sys, llm\n"
        "models = llm.get_models_with_aliases()\n"
        "print(any(each.model.model_id == 'ppedge/doctor' for each in models))\n"
        "print(sorted(sys.modules))\n"
    )

    def start(plugins: str) -> tuple[list[str], str]:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", program],
            env=llm.environment(LLM_LOAD_PLUGINS=plugins),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines(), done.stderr

    (found, modules), times = start("ppedge")
    (bare_found, bare), _ = start("")
    assert (found, bare_found) == ("True", "False")
    added = set(ast.literal_eval(modules)) - set(ast.literal_eval(bare))
    ours = {name for name in added if name.startswith("ppedge")}
    small = ("defaults", "errors", "llm_plugin", "version")
    assert ours == {"ppedge", *(f"ppedge.{name}" for name in small)}
    assert not {name.split(".")[0] for name in added} & {"numpy", "onnxruntime", "llama_cpp"}
    own = re.findall(r"import time: +(\d+) \| +\d+ \| +ppedge", times)
    assert sum(map(int, own)) < 50_000  # microseconds


def test_an_unreadable_data_folder_keeps_llm_from_nothing(llm: Llm, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "personas").write_text("no folder")
    assert "Ppedge: ppedge\n" in llm.says("models", PPEDGE_HOME=str(tmp_path / "home"))


def test_what_llm_logged_comes_back_as_notes(
    llm: Llm, tiny: dict[str, str], tmp_path: Path
) -> None:
    """The whole way round: fragments, templates and system prompts are left behind."""
    path = llm.home.parent / "llm" / "logs.db"
    path.unlink(missing_ok=True)
    fragment = tmp_path / "book.txt"
    fragment.write_text("a whole book")
    llm.says("--save", "around", "-s", "Be kind.", "Rewrite this: $input\nThank you!")
    short = ("-m", "ppedge", "-o", "max_tokens", "2")
    llm.says(*short, "-s", "You are a pirate.", "my own words", **tiny)
    llm.says(*short, "-t", "around", "-f", str(fragment), "in the middle", **tiny)
    done = llm.ppedge("notes", "import", "--persona", "logs", path)
    assert done.returncode == 0
    assert f"ppedge: {path}: llm-logs, found 2, added 2\n" == done.stderr.decode()
    lines = llm.ppedge.good("notes", "list", "--json", "--persona", "logs").splitlines()
    notes = [json.loads(line) for line in lines]
    assert [note["output"] for note in notes] == ["my own words", "in the middle"]
    assert all(abs(note["time"] - time.time()) < 600 for note in notes)
    assert llm.ppedge.good("notes", "import", "--persona", "logs", path) == "unchanged 2, notes 2\n"


def test_the_async_model_never_keeps_the_event_loop(
    llm: Llm, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llm as library

    from ppedge.llm_plugin import AsyncPpedge, register_models

    monkeypatch.setenv("PPEDGE_HOME", str(llm.home))
    models: list[AsyncPpedge] = []
    register_models(lambda model, async_model: models.append(async_model))

    async def ask() -> tuple[str, float]:
        gaps = [0.0]

        async def beat() -> None:
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.01)
                gaps.append(time.monotonic() - began)

        beating = asyncio.create_task(beat())
        text = await models[0].prompt(PROMPT, seed=4, max_tokens=12).text()
        beating.cancel()
        with pytest.raises(library.ModelError, match="no notes of persona 'nobody'"):
            await models[0].prompt(PROMPT, persona="nobody").text()
        return text, max(gaps)

    began = time.monotonic()
    text, gap = asyncio.run(ask())
    assert text
    assert gap < (time.monotonic() - began) / 2
    models[0]._opened.get().close()
