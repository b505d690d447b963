"""A window that writes as the author of some notes would: it streams, stops, and shows the notes.

python examples/desktop/window.py
python examples/desktop/window.py my-notes.jsonl --store my-store

Ctrl+Enter writes, Escape stops, Ctrl+Up brings the last prompt back, Ctrl+Q ends; Tab goes on to
the next field. Needs Tk, which comes with Python; on Debian it is the package python3-tk.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
import tkinter as tk
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tkinter import ttk

from ppedge import (
    Answer,
    Explanation,
    Note,
    Persona,
    Personalizer,
    PpedgeError,
    Sampling,
    read_notes,
)

NOTES = Path(__file__).parents[1] / "notes.jsonl"
POLL_MILLISECONDS = 30
WRITE, STOP = "Write  (Ctrl+Enter)", "Stop  (Esc)"


class Writer:
    """The model and the notes, on the one thread that may wait for them.

    What comes of it is put into `told`, for the window to take when it has time.
    """

    def __init__(self, notes: Path, store: Path) -> None:
        """Begin to open both; `told` says when that is done."""
        self.told: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._stack = ExitStack()
        self._answer: Answer | None = None
        self._stopped = False
        self._work(self._open, notes, store)

    def write(self, prompt: str, sampling: Sampling) -> None:
        """Answer a prompt: ("notes", Explanation), ("piece", str) ..., ("end", finish)."""
        self._stopped = False
        self._work(self._write, prompt, sampling)

    def stop(self) -> None:
        """End the answer soon."""
        self._stopped = True
        if self._answer is not None:
            self._answer.cancel()

    def close(self) -> None:
        """End the answer, and let go of everything."""
        self.stop()
        self._thread.submit(self._stack.close)
        self._thread.shutdown(wait=True)

    def _work(self, work: Callable[..., None], *arguments: object) -> None:
        def tell_error(done: Future[None]) -> None:
            if error := done.exception():
                self.told.put(("error", error))

        self._thread.submit(work, *arguments).add_done_callback(tell_error)

    def _open(self, notes: Path, store: Path) -> None:
        tell = self._stack.enter_context
        self._personalizer: Personalizer = tell(Personalizer.open(notify=self._tell_line))
        self._persona: Persona = tell(self._personalizer.persona(store))
        encode = self._personalizer.plug.encode_notes
        report = self._persona.sync(read_notes(notes), encode)
        self.told.put(("ready", report.notes))

    def _write(self, prompt: str, sampling: Sampling) -> None:
        self.told.put(("notes", self._personalizer.explain(prompt, self._persona)))
        self._answer = answer = self._personalizer.stream(prompt, self._persona, sampling)
        if self._stopped:
            answer.cancel()
        for piece in answer:
            self.told.put(("piece", piece))
        self.told.put(("end", answer.finish))

    def _tell_line(self, line: str) -> None:
        self.told.put(("line", line))


class Window:
    """The window. It asks `Writer` now and then, and waits for nothing."""

    def __init__(self, root: tk.Tk, writer: Writer, sampling: Sampling) -> None:
        """Lay out the fields."""
        self.root, self.writer, self.sampling = root, writer, sampling
        self.last_prompt = ""
        self.busy, self.ready, self.closed = True, False, False
        root.title("ppedge")
        root.minsize(560, 420)
        root.columnconfigure(0, weight=1)
        root.rowconfigure(1, weight=1)
        self._lay_out_prompt(ttk.Frame(root, padding=(12, 12, 12, 6)))
        self.answer = tk.Text(root, wrap="word", height=9, state="disabled", padx=8, pady=6)
        self.answer.configure(font="TkDefaultFont", relief="flat", highlightthickness=1)
        self.answer.grid(row=1, sticky="nsew", padx=12)
        # A field that cannot be typed into can still be marked and copied from.
        self.answer.bind("<Button-1>", lambda _: self.answer.focus_set())
        self._lay_out_notes(ttk.Frame(root, padding=(12, 6, 12, 0)))
        self.status = ttk.Label(root, text="opening the model and the notes…", padding=(12, 6))
        self.status.grid(row=3, sticky="ew")
        # Each on its field first: there Ctrl+Enter and Ctrl+Up would do something else.
        for keys, call, where in (
            ("<Control-Return>", self.write, (self.prompt, root)),
            ("<Control-Up>", self.recall, (self.prompt, root)),
            ("<Escape>", self.stop, (root,)),
            ("<Control-q>", self.close, (root,)),
            ("<Tab>", self._go_on, (self.prompt,)),
        ):
            for widget in where:
                widget.bind(keys, _calls(call))
        root.protocol("WM_DELETE_WINDOW", self.close)
        self.prompt.focus_set()
        self._show_busy()
        root.after(POLL_MILLISECONDS, self._poll)

    def _lay_out_prompt(self, frame: ttk.Frame) -> None:
        frame.grid(row=0, sticky="ew")
        frame.columnconfigure(0, weight=1)
        self.prompt = tk.Text(frame, height=3, wrap="word", undo=True, padx=8, pady=6)
        self.prompt.configure(font="TkDefaultFont", highlightthickness=1)
        self.prompt.grid(row=0, column=0, rowspan=2, sticky="ew", padx=(0, 8))
        self.write_button = ttk.Button(frame, text=WRITE, command=self.write, width=18)
        self.write_button.grid(row=0, column=1, sticky="ew")
        self.stop_button = ttk.Button(frame, text=STOP, command=self.stop)
        self.stop_button.grid(row=1, column=1, sticky="ew")

    def _lay_out_notes(self, frame: ttk.Frame) -> None:
        frame.grid(row=2, sticky="ew")
        frame.columnconfigure(0, weight=1)
        ttk.Label(frame, text="The heaviest notes for this prompt:").grid(sticky="w")
        self.notes = ttk.Treeview(frame, columns=("weight", "note"), show="headings", height=5)
        self.notes.heading("weight", text="weight")
        self.notes.heading("note", text="note", anchor="w")
        self.notes.column("weight", width=70, stretch=False, anchor="e")
        self.notes.column("note", width=440)
        self.notes.grid(sticky="ew")

    # --- what a person does ---

    def write(self) -> None:
        """Have the prompt answered."""
        prompt = self.prompt.get("1.0", "end").strip()
        if self.busy or not prompt:
            return
        self.busy, self.last_prompt = True, prompt
        self._set_answer("")
        self.notes.delete(*self.notes.get_children())
        self.status["text"] = "reading the notes…"
        self._show_busy()
        self.writer.write(prompt, self.sampling)

    def stop(self) -> None:
        """End the answer; what was written stays."""
        if self.busy:
            self.writer.stop()

    def recall(self) -> None:
        """Bring the last prompt back, to change it."""
        self.prompt.delete("1.0", "end")
        self.prompt.insert("1.0", self.last_prompt)

    def close(self) -> None:
        """End the program, and the answer with it."""
        self.closed = True
        self.writer.stop()
        self.root.destroy()

    def _go_on(self) -> None:
        following = self.prompt.tk_focusNext()
        if following is not None:
            following.focus_set()

    # --- what comes from the writer ---

    def _poll(self) -> None:
        self.root.after(POLL_MILLISECONDS, self._poll)
        while not (self.closed or self.writer.told.empty()):
            kind, value = self.writer.told.get()
            getattr(self, f"_take_{kind}")(value)

    def _take_ready(self, n_notes: int) -> None:
        self.ready = True
        self._rest(f"{n_notes} notes; type a prompt and press Ctrl+Enter")

    def _take_line(self, line: str) -> None:
        self.status["text"] = line

    def _take_notes(self, found: Explanation) -> None:
        notes: list[tuple[Note, float | None]] = [*found.heaviest] or found.turns
        for note, weight in notes:  # Without a plug there are turns, and no weights.
            text = " ".join(note.output.split())
            self.notes.insert("", "end", values=("" if weight is None else f"{weight:.1%}", text))

    def _take_piece(self, piece: str) -> None:
        self.status["text"] = "writing…"
        self._set_answer(self.answer.get("1.0", "end-1c") + piece)

    def _take_end(self, finish: str) -> None:
        said = {"stop": "done", "length": "as long as it may get", "cancelled": "stopped"}
        self._rest(said.get(finish, finish))

    def _take_error(self, error: BaseException) -> None:
        if not isinstance(error, PpedgeError):
            raise error
        self._rest(f"Error: {error}")

    def _rest(self, status: str) -> None:
        self.busy = not self.ready  # What could not be opened does not write.
        self.status["text"] = status
        self._show_busy()

    def _show_busy(self) -> None:
        self.write_button.state(["disabled" if self.busy else "!disabled"])
        self.stop_button.state(["!disabled" if self.busy else "disabled"])

    def _set_answer(self, text: str) -> None:
        self.answer["state"] = "normal"
        self.answer.delete("1.0", "end")
        self.answer.insert("1.0", text)
        self.answer.see("end")
        self.answer["state"] = "disabled"


def _calls(call: Callable[[], None]) -> Callable[[object], str]:
    def called(event: object) -> str:
        call()
        return "break"

    return called


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Write as the author of some notes would.")
    parser.add_argument("notes", nargs="?", default=NOTES, type=Path, help="JSON Lines")
    parser.add_argument("--store", type=Path, help="folder that keeps the encoded notes")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    try:
        root = tk.Tk()
    except tk.TclError as error:
        sys.exit(f"Error: no window can be opened ({error}); run this on a desktop")
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(given.notes, given.store or Path(folder) / "persona")
        try:
            Window(root, writer, Sampling(max_tokens=given.max_tokens, seed=given.seed))
            root.mainloop()
        finally:
            writer.close()


if __name__ == "__main__":
    main()
