"""Takes the picture docs/img/desktop.png: the window of this folder, after one answer.

python examples/desktop/screenshot.py docs/img/desktop.png

Needs Xvfb (Debian: xvfb), an X server without a screen; no desktop is touched.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import tkinter as tk
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from window import NOTES, Window, Writer

from ppedge import Sampling

WIDTH, HEIGHT = 720, 520
PROMPT = "Write a short note about the rain"
SECONDS = 120


@contextmanager
def virtual_display(folder: Path) -> Iterator[str]:
    """Run an X server that draws into the file `Xvfb_screen0` of a folder.

    Yields:
        The name of its display, for the environment variable DISPLAY.
    """
    program = shutil.which("Xvfb")
    if program is None:
        sys.exit("Error: Xvfb is missing; on Debian: apt-get install xvfb")
    read, write = os.pipe()
    screen = ("-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-fbdir", str(folder))
    server = subprocess.Popen(
        [program, "-displayfd", str(write), "-nolisten", "tcp", *screen],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as told:
            yield f":{told.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


def png_of_xwd(data: bytes) -> bytes:
    """Turn what Xvfb draws into (an X window dump of 32 bits a pixel) into a PNG."""
    head = struct.unpack(">25I", data[:100])
    header_size, width, height, line, n_colors = head[0], head[4], head[5], head[12], head[19]
    start = header_size + 12 * n_colors
    rows = []
    for y in range(height):
        row = data[start + y * line : start + y * line + 4 * width]
        rgb = bytearray(3 * width)
        rgb[0::3], rgb[1::3], rgb[2::3] = row[2::4], row[1::4], row[0::4]
        rows.append(b"\0" + bytes(rgb))

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    size = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(rows), 9)
    chunks = ((b"IHDR", size), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def wait_for_rest(window: Window) -> None:
    """Let the window work until nothing more is to come."""
    end = time.monotonic() + SECONDS
    while window.busy:
        if time.monotonic() > end:
            sys.exit(f"Error: nothing came in {SECONDS} seconds: {window.status['text']}")
        window.root.update()
        time.sleep(0.01)
    window.root.update()


def main() -> None:
    """Run the program."""
    if len(sys.argv) != 2:
        sys.exit("Usage: python examples/desktop/screenshot.py FILE.png")
    with tempfile.TemporaryDirectory() as name, virtual_display(Path(name)) as display:
        root = tk.Tk(screenName=display)
        root.geometry(f"{WIDTH}x{HEIGHT}+0+0")
        writer = Writer(NOTES, Path(name) / "persona")
        try:
            window = Window(root, writer, Sampling(max_tokens=80, seed=7))
            wait_for_rest(window)
            window.prompt.insert("1.0", PROMPT)
            window.prompt.event_generate("<Control-Return>")
            wait_for_rest(window)
            Path(sys.argv[1]).write_bytes(png_of_xwd((Path(name) / "Xvfb_screen0").read_bytes()))
        finally:
            writer.close()
            root.destroy()


if __name__ == "__main__":
    main()
