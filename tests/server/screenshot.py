"""Makes docs/img/page.png: the page in a browser, with an answer of the default model.

python -m tests.server.screenshot
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.command import Command
from tests.server.browser import chromium
from tests.server.running import Running, running

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "img" / "page.png"
PROMPT = "Write a short post about the rain"
SECONDS = 120_000


def take(server: Running, path: Path) -> None:
    """Ask, wait for the answer and its notes, and take the picture."""
    with chromium() as browser:
        page: Page = browser.new_page(viewport={"width": 1100, "height": 720})
        page.goto(server.page)
        expect(page.locator("#found li").first).to_be_visible(timeout=SECONDS)
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_label("Prompt").press("Enter")
        expect(page.locator("#why li").first).to_be_visible(timeout=SECONDS)
        page.screenshot(path=path)


def main() -> None:
    """Serve the example's notes, and take the picture."""
    with tempfile.TemporaryDirectory() as home:
        command = Command(Path(home) / "home")
        command.good("notes", "add", ROOT / "examples" / "notes.jsonl")
        with running(command) as server:
            PICTURE.parent.mkdir(exist_ok=True)
            take(server, PICTURE)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
