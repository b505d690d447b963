"""The page of `ppedge serve`, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.command import Command
from tests.server.browser import CHROMIUM, chromium
from tests.server.running import Running, keep, running

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
SECONDS = 90_000  # in milliseconds, as Playwright counts; for a busy machine
expect.set_options(timeout=SECONDS)
NASTY = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
NOTES = [{"id": f"n{i:02}", "text": f"note number {i} of the garden"} for i in range(30)] + [
    {"id": "odd/?#&%", "text": NASTY},
    {"id": "bread", "text": "the bread is out."},
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def gardener(
    tmp_path_factory: pytest.TempPathFactory, endless_model: list[str | Path]
) -> Iterator[Running]:
    """A model that writes until it is stopped, and a persona with more than a page of notes."""
    folder = tmp_path_factory.mktemp("gardener")
    command = Command(folder / "home")
    keep(command, "gardener", NOTES, folder, "--plug", "none")
    with running(command, *endless_model) as server:
        yield server


class Seen:
    """What a page asked, and what it complained of."""

    def __init__(self, page: Page) -> None:
        self.urls: list[str] = []
        self.bodies: list[Any] = []
        self.complaints: list[str] = []
        page.on("request", self._take)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda line: self.complaints.append(line.text) if line.type == "error" else None,
        )

    def _take(self, request: Any) -> None:
        self.urls.append(request.url)
        if request.url.endswith("/v1/chat/completions"):
            self.bodies.append(json.loads(request.post_data))


@pytest.fixture
def opened(browser: Browser) -> Iterator[Any]:
    """Opens pages, and looks at the end whether any asked elsewhere or complained."""
    pages: list[tuple[Page, Seen, str]] = []

    def open_page(server: Running, **options: Any) -> tuple[Page, Seen]:
        page = browser.new_page(**options)
        page.set_default_timeout(SECONDS)
        seen = Seen(page)
        pages.append((page, seen, server.base))
        page.goto(server.page)
        expect(page.locator("#found li").first).to_be_visible()
        return page, seen

    yield open_page
    for page, seen, base in pages:
        page.close()
        assert seen.complaints == []
        assert all(url.startswith(base + "/") for url in seen.urls), seen.urls


def ask(page: Page, prompt: str) -> str:
    """Send a prompt by the keyboard; return the whole answer."""
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Prompt").press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    return page.locator("#log li.assistant .text").last.inner_text()


def ask_and_stop(page: Page, prompt: str) -> None:
    """Send a prompt, and stop the answer once it has begun."""
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Prompt").press("Enter")
    expect(page.locator("#log li.assistant .text").last).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()


# --- the token ---


def test_the_token_leaves_the_address_at_once(opened: Any, served: Running) -> None:
    page, seen = opened(served)
    assert page.url == f"{served.base}/"
    assert all("token" not in url for url in seen.urls)
    assert page.evaluate("document.cookie") == ""
    page.reload()
    expect(page.locator("#found li").first).to_be_visible()


def test_without_a_token_the_page_asks_for_it(browser: Browser, served: Running) -> None:
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(served.base)
    field = page.get_by_label("The token that ppedge serve shows at its start")
    expect(field).to_be_visible()
    field.fill("wrong")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("give the token")
    expect(field).to_be_visible()
    field.fill(served.token)
    field.press("Enter")
    expect(page.locator("#found li").first).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    page.close()


# --- a conversation ---


def test_an_answer_comes_with_the_notes_behind_it(opened: Any, served: Running) -> None:
    page, seen = opened(served)
    answer = ask(page, "Write a short note about the rain")
    assert answer.strip()
    expect(page.locator("#why li")).to_have_count(4)
    expect(page.locator("#why-said")).to_contain_text("4 of 4 notes stood before the prompt")
    expect(page.locator("#why")).to_contain_text(re.compile(r"a2 · turn · \d+\.\d %"))
    assert page.locator("#why meter").count() == 4
    expect(page.get_by_role("status")).to_have_text(f"Answer: {answer}".replace("\n", " "))
    expect(page.get_by_label("Prompt")).to_be_focused()
    second = ask(page, "And the bread?")
    said = [(message["role"], message["content"]) for message in seen.bodies[1]["messages"]]
    assert [role for role, _ in said] == ["user", "assistant", "user"]
    assert said[1][1].strip() == answer.strip()
    assert second.strip()


def test_the_heaviest_notes_are_listed_as_far_as_they_count(opened: Any, served: Running) -> None:
    page, _ = opened(served)
    page.get_by_label("Write as").select_option("carl")
    expect(page.locator("#found li").first).to_contain_text("day 0")
    ask(page, "What did you sow?")
    expect(page.locator("#why li").first).to_be_visible()
    found = served.said("/why", {"model": "ppedge:carl", "prompt": "What did you sow?"})
    turns = [note["name"] for note in found["turns"]]
    others = [note["name"] for note in found["heaviest"] if note["name"] not in turns]
    wanted = [f"{name} · turn" for name in turns]
    if found["bears"]["attention"]:
        wanted += [f"{name} · attention" for name in others]
    shown = page.locator("#why .row").all_inner_texts()
    assert [" · ".join(line.split(" · ")[:2]) for line in shown] == wanted
    assert len(turns) == 8
    assert others


def test_another_persona_begins_another_conversation(opened: Any, served: Running) -> None:
    page, seen = opened(served)
    ask(page, "How is the bread?")
    page.get_by_label("Write as").select_option("bert")
    expect(page.locator("#log li")).to_have_count(0)
    expect(page.locator("#found li").first).to_contain_text("YOURS, BERT!")
    shouted = ask(page, "How is the bread?")
    assert shouted == shouted.upper() != shouted.lower()
    page.get_by_label("Write as").select_option("nobody (bare model)")
    expect(page.locator("#found-said")).to_have_text("The bare model has no notes.")
    assert [body["model"] for body in seen.bodies] == ["ppedge:anna", "ppedge:bert"]


def test_the_slider_says_how_much_of_the_persona(opened: Any, served: Running) -> None:
    page, seen = opened(served)
    slider = page.get_by_role("slider", name="Strength")
    assert slider.get_attribute("max") == "2"
    slider.press("Home")
    expect(page.locator("#strength-shown")).to_have_text("0.0")
    ask_and_stop(page, "rain?")
    expect(page.locator("#why-said")).to_contain_text("No note bears on this answer")
    slider.press("End")
    expect(page.locator("#strength-shown")).to_have_text("2.0")
    slider.press("ArrowLeft")
    ask_and_stop(page, "rain?")
    assert [body["strength"] for body in seen.bodies] == [0, 1.9]


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stopping_keeps_what_is_there_and_frees_the_model(
    opened: Any, gardener: Running, way: str
) -> None:
    page, _ = opened(gardener)
    page.get_by_role("slider").press("Home")
    page.get_by_label("Prompt").fill("go on")
    page.get_by_role("button", name="Send").click()
    answer = page.locator("#log li.assistant .text")
    expect(answer).to_contain_text("onagi onagi")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    expect(page.get_by_label("Prompt")).to_be_focused()
    assert "onagi onagi" in answer.inner_text()
    body = {"model": "ppedge", "prompt": "x", "max_tokens": 2, "temperature": 0}
    gardener.said("/v1/completions", body)


def test_an_answer_is_shown_once_a_frame_however_fast_it_comes(
    opened: Any, gardener: Running
) -> None:
    page, _ = opened(gardener)
    page.evaluate("""() => {
      window.shown = [];
      const seen = new MutationObserver(() => window.shown.push(performance.now()));
      seen.observe(document.getElementById("log"), { characterData: true, subtree: true });
    }""")
    page.get_by_role("slider").press("Home")
    page.get_by_label("Prompt").fill("go on")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#log li.assistant .text")).to_contain_text("onagi onagi")
    send = page.get_by_role("button", name="Send")
    while page.evaluate("window.shown.length") < 20 and not send.is_enabled():
        page.wait_for_timeout(30)
    page.evaluate("document.getElementById('stop').click()")  # It may have come to its end.
    expect(send).to_be_enabled()
    shown = page.evaluate("window.shown")[1:-1]  # The prompt is shown at once, and the rest is.
    assert len(shown) > 5
    assert min(after - before for before, after in pairwise(shown)) > 20  # ms


def test_shift_enter_makes_a_line_and_blank_prompts_are_not_sent(
    opened: Any, served: Running
) -> None:
    page, seen = opened(served)
    prompt = page.get_by_label("Prompt")
    prompt.press("Enter")
    prompt.fill("one")
    prompt.press("Shift+Enter")
    prompt.press_sequentially("two")
    expect(prompt).to_have_value("one\ntwo")
    assert seen.bodies == []


def test_an_error_is_told_and_the_prompt_comes_back(browser: Browser, served: Running) -> None:
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(served.page)
    expect(page.locator("#found li").first).to_be_visible()
    long = "rain " * 3000
    page.get_by_label("Prompt").fill(long)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("2048 fit; shorten it")
    expect(page.get_by_label("Prompt")).to_have_value(long)
    expect(page.locator("#log li")).to_have_count(0)
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("Is `ppedge serve` still running?")
    page.close()


# --- notes ---


def test_notes_are_searched_and_more_are_shown(opened: Any, gardener: Running) -> None:
    page, _ = opened(gardener)
    expect(page.locator("#found li")).to_have_count(20)
    page.get_by_role("button", name="More notes").click()
    expect(page.locator("#found li")).to_have_count(32)
    expect(page.get_by_role("button", name="More notes")).to_be_hidden()
    field = page.get_by_role("searchbox", name="Search notes")
    field.fill("NUMBER 7")
    field.press("Enter")
    expect(page.locator("#found li")).to_have_count(1)
    expect(page.locator("#found li")).to_contain_text("note number 7 of the garden")
    field.fill("no such words")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#found li")).to_have_count(0)
    expect(page.locator("#found-said")).to_have_text("0 shown; 32 in all")


def test_a_note_is_text_and_never_a_part_of_the_page(opened: Any, gardener: Running) -> None:
    page, _ = opened(gardener)
    field = page.get_by_role("searchbox", name="Search notes")
    field.fill("onerror")
    field.press("Enter")
    expect(page.locator("#found li")).to_have_count(1)
    assert page.locator("#found li p").first.inner_text() == NASTY
    assert page.locator("#found img, #found script").count() == 0
    assert page.title() == "ppedge"


def test_forgetting_asks_first_and_then_is_for_good(opened: Any, gardener: Running) -> None:
    page, _ = opened(gardener)
    before = len(gardener.get("/personas/gardener/notes?limit=200").json()["notes"])
    field = page.get_by_role("searchbox", name="Search notes")
    field.fill("the bread is out")
    field.press("Enter")
    expect(page.locator("#found li")).to_have_count(1)
    opener = page.get_by_role("button", name="Forget note bread…")
    dialog = page.get_by_role("dialog", name="Forget this note for good?")
    for refuse in ("Enter", "Escape"):  # Enter is on "Keep it", which has the focus.
        opener.press("Enter")
        expect(dialog).to_contain_text("the bread is out.")
        expect(page.get_by_role("button", name="Keep it")).to_be_focused()
        page.keyboard.press(refuse)
        expect(dialog).to_be_hidden()
        expect(opener).to_be_focused()
    found = gardener.get("/personas/gardener/notes?limit=200").json()["notes"]
    assert len(found) == before
    opener.click()
    page.get_by_role("button", name="Forget it").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#found li")).to_have_count(0)
    expect(page.get_by_role("status")).to_have_text(f"Forgotten. {before - 1} notes are left.")
    expect(field).to_be_focused()
    left = gardener.get("/personas/gardener/notes?limit=200").json()["notes"]
    assert len(left) == before - 1
    assert "bread" not in {note["name"] for note in left}


# --- for everybody ---


def test_the_keyboard_alone_reaches_everything_in_order(opened: Any, served: Running) -> None:
    page, _ = opened(served)
    skip = page.get_by_role("link", name="Skip to the prompt")
    skip.focus()
    expect(skip).to_be_in_viewport()
    reached: list[str] = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        )
    assert reached[:6] == ["persona", "strength", "again", "log", "prompt", "send"]
    assert reached[6:8] == ["wanted", "Search"]
    assert reached[8:] == ["Forget…"] * 4
    page.locator("#persona").press("Shift+Tab")
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Prompt")).to_be_focused()


def test_a_screen_reader_has_a_name_for_everything(opened: Any, served: Running) -> None:
    page, _ = opened(served)
    ask(page, "rain?")
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select, textarea, meter, dialog")]
        .filter((each) => !(each.labels?.length || each.textContent.trim()
            || each.getAttribute("aria-label") || each.getAttribute("aria-labelledby")))
        .map((each) => each.outerHTML)"""
    )
    assert unnamed == []
    tree = page.locator("body").aria_snapshot()
    for line in (
        'heading "ppedge" [level=1]',
        'combobox "Write as"',
        'slider "Strength"',
        'region "Conversation"',
        'textbox "Prompt"',
        'complementary "Notes"',
        'heading "Notes behind the answer" [level=2]',
        'searchbox "Search notes"',
        'button "Forget note a1…"',
        "status",
    ):
        assert line in tree, tree
    assert page.evaluate("document.documentElement.lang") == "en"


CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (each) => {
    for (; each; each = each.parentElement) {
      const colour = rgb(getComputedStyle(each).backgroundColor);
      if (colour[3] === 255) return colour;
    }
  };
  return [...document.querySelectorAll("body *")]
    .filter((each) => each.checkVisibility() && !each.disabled
      && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((each) => {
      const [one, two] = [light(rgb(getComputedStyle(each).color)), light(ground(each))];
      return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), each.outerHTML];
    });
}"""


def test_light_and_dark_are_as_the_system_has_it_and_readable(opened: Any, served: Running) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        page, _ = opened(served, color_scheme=scheme)
        ask(page, "rain?")
        expect(page.locator("#why li").first).to_be_visible()
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 20
        # WCAG 2.2, 1.4.3 (AA).
        assert [each for each in contrasts if each[0] < 4.5] == []
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_a_narrow_screen_needs_no_scrolling_sideways(opened: Any, served: Running) -> None:
    page, _ = opened(served, viewport={"width": 320, "height": 600})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_the_page_can_ask_nobody_else(browser: Browser, served: Running) -> None:
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(served.page)
    blocked = page.evaluate(
        """async () => {
            const told = [];
            document.addEventListener("securitypolicyviolation",
                (event) => told.push(event.effectiveDirective));
            await fetch("http://127.0.0.1:9/").catch(() => {});
            const image = new Image();
            image.src = "http://127.0.0.1:9/x.png";
            try {
                const script = document.createElement("script");
                script.textContent = "document.title = 'run'";
                document.body.append(script);
            } catch (error) {
                told.push(error.name);
            }
            await new Promise((done) => setTimeout(done, 200));
            return told;
        }"""
    )
    assert {"connect-src", "img-src", "TypeError"} <= set(blocked)
    assert page.title() == "ppedge"
    page.close()
