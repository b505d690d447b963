import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from xml.etree.ElementTree import Element

import html5lib
import numpy as np
import pytest

from export.evaluation.records import Run
from export.evaluation.report_plots import MARKERS, Axis, axis_over, bins_of, duel, plain
from export.evaluation.summary import series_of, summarise, table
from export.report import main, report
from tests.export.runs import make_run

# What a page could fetch something by, or run.
REFERENCES = {"src", "href", "xlink:href", "srcset", "action", "formaction", "data", "poster"}
FORBIDDEN = {"script", "link", "iframe", "img", "object", "embed", "base", "form", "image", "use"}
HOSTILE = (
    "</style></title></svg><script>alert(1)</script>",
    '" onload="alert(1)" x="',
    "<img src=https://example.com/x.png onerror=alert(1)>",
    "]]> <!-- --> &amp; &lt;b&gt; \x00\x08\x7f\x85 \ud83d \ufffe \u202e rtl \r\n next",
    "https://example.com/plain",
)


def page_of(run: Run, against: str | None = None, **options) -> str:
    return report(run, summarise(run, against, 0), **options)


def parse(page: str) -> Element:
    """The page's tree; any parse error of the HTML standard raises."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def named(tree: Element, tag: str, kind: str | None = None) -> list[Element]:
    """Elements by tag, SVG's too, and by class."""
    return [
        element
        for element in tree.iter()
        if isinstance(element.tag, str)
        and element.tag.split("}")[-1] == tag
        and (kind is None or kind in element.get("class", "").split())
    ]


def words(element: Element) -> str:
    return "".join(element.itertext()).replace("\u00a0", " ")


def hostile_run() -> Run:
    """Every text that a run can hold, hostile in turn."""
    run = make_run(methods=("none", "persona"), users=len(HOSTILE), beam=("persona",))
    texts = {id_: HOSTILE[i % len(HOSTILE)] for i, id_ in enumerate(run.golds)}
    names = {id_: f"{i} {text}" for i, (id_, text) in enumerate(texts.items())}
    return Run(
        settings={HOSTILE[0]: HOSTILE[2], "list": list(HOSTILE)},
        task_name="LaMP_6" + HOSTILE[0],
        golds={names[id_]: text for id_, text in texts.items()},
        records=[
            replace(
                r,
                id=names[r.id],
                user=texts[r.id],
                method=r.method if r.method == "persona" else HOSTILE[0],
                prediction=texts[r.id],
                beam=r.beam and texts[r.id],
            )
            for r in run.records
        ],
        inputs={names[id_]: text * 30 for id_, text in texts.items()},
    )


def runs() -> dict[str, Run]:
    labels = make_run(users=12, task=2)
    ratings = make_run(users=12, task=3)
    return {
        "full": make_run(users=24, beam=("none", "persona"), sample={"swapped": 5}),
        "one question": replace(
            make_run(methods=("none",), users=1), records=make_run(users=1).records[:1]
        ),
        "one user": make_run(users=1),
        "no persona": make_run(methods=("none", "bm25-4"), users=6),
        "labels": labels,
        "ratings": replace(
            ratings,
            golds=dict.fromkeys(ratings.golds, "4"),
            records=[replace(r, prediction=str(1 + i % 5)) for i, r in enumerate(ratings.records)],
        ),
        "hostile": hostile_run(),
    }


@pytest.mark.parametrize("name", list(runs()))
def test_the_page_is_valid_and_asks_for_nothing(name):
    run = runs()[name]
    page = page_of(run, run.methods[0], examples=20)
    tree = parse(page)
    page.encode("utf-8")
    for element in tree.iter():
        if isinstance(element.tag, str):
            assert element.tag.split("}")[-1] not in FORBIDDEN
            assert not REFERENCES & set(element.attrib)
            assert not any(key.startswith("on") for key in element.attrib)
            assert "url(" not in element.get("style", "")
    [style] = named(tree, "style")
    assert "@import" not in words(style)
    assert "url(" not in words(style)
    assert [e.get("content") for e in named(tree, "meta") if e.get("http-equiv")] == [
        "default-src 'none'; style-src 'unsafe-inline'"
    ]


def test_hostile_text_is_shown_as_it_stands():
    shown = words(parse(page_of(hostile_run(), examples=20)))
    for text in HOSTILE[:3] + HOSTILE[4:]:
        assert text in shown
    assert "]]> <!-- --> &amp; &lt;b&gt; \ufffd\ufffd\ufffd\ufffd \ufffd \ufffd" in shown


def test_plain_keeps_text_and_drops_what_cannot_be_shown():
    assert plain("a < b & 'c' \t\n é 🎉") == "a &lt; b &amp; &#x27;c&#x27; \t\n é 🎉"
    assert plain("a\r\nb\rc\x0c\U0001ffff\ufdd0") == "a\nb\ufffdc\ufffd\ufffd\ufffd"


def test_the_page_can_be_read_by_ear_and_in_the_dark():
    page = page_of(make_run(users=12), "none")
    tree = parse(page)
    assert tree.get("lang") == "en"
    assert words(named(tree, "title")[0]) == "LaMP_6_style: 36 questions of 12 users"
    assert len(named(tree, "h1")) == 1
    assert [words(h) for h in named(tree, "h2")] == [
        "All methods",
        "Score against history length",
        "persona against each method, user by user",
        "Examples",
    ]
    assert all(cell.get("scope") in ("col", "row") for cell in named(tree, "th"))
    for drawing in named(tree, "svg"):
        assert drawing.get("aria-hidden") or (
            drawing.get("role") == "img" and drawing.get("aria-label")
        )
    assert any(meta.get("name") == "viewport" for meta in named(tree, "meta"))
    assert "prefers-color-scheme: dark" in words(named(tree, "style")[0])


def test_the_tables_numbers_are_the_summarys():
    run = make_run(users=24, beam=("persona",), sample={"swapped": 5})
    rows = summarise(run, "none", 0)
    tree = parse(report(run, rows))
    first = named(tree, "table", "figures")[0]
    head, *body = named(first, "tr")
    shown = table(rows)
    assert [words(cell) for cell in head] == shown.head
    assert [[words(cell) for cell in line] for line in body] == [
        [cell.text for cell in line] for line in shown.body
    ]
    strong = [[bool(named(cell, "strong")) for cell in line] for line in body]
    assert strong == [[cell.strong for cell in line] for line in shown.body]


def test_the_settings_are_shown():
    tree = parse(page_of(make_run(users=2, plug="a.zip", limit=None)))
    lines = [
        [words(cell) for cell in line] for line in named(named(tree, "table", "settings")[0], "tr")
    ]
    assert lines == [["seed", "0"], ["plug", "a.zip"], ["limit", "null"]]


def test_plots_have_one_series_a_method():
    run = make_run(users=24, beam=("persona",), sample={"swapped": 5})
    tree = parse(page_of(run))
    names = [words(item) for item in named(named(tree, "ul", "legend")[0], "li")]
    assert names == run.methods
    plots = named(tree, "svg", "plot")
    assert len(plots) == 2
    bins = bins_of(run.records)
    assert len(bins) == 5
    for plot in plots:
        series = named(plot, "g", "series")
        assert len(series) == len(names)
        assert len({(g.get("class"), named(g, "path", "dot")[0].get("d")) for g in series}) == len(
            names
        )
        for name, group in zip(names, series, strict=True):
            titles = [words(title) for title in named(group, "title")]
            assert all(title.startswith(f"{name}, ") for title in titles)
            if name == "swapped":
                assert named(group, "path", "dash")
            else:
                assert len(titles) == len(bins)
                assert named(group, "path", "line")


def test_the_plots_points_are_the_tables_below_and_stand_where_they_belong():
    run = make_run(users=24)
    tree = parse(page_of(run))
    plot = named(tree, "svg", "plot")[0]
    below = named(tree, "table", "figures")[1]
    dots, figures = [], []
    for group, line in zip(named(plot, "g", "series"), named(below, "tr")[1:], strict=True):
        for dot, cell in zip(named(group, "path", "dot"), list(line)[1:], strict=True):
            assert words(dot).endswith(f": {words(cell)}")
            dots.append(float(re.findall(r"[\d.]+", dot.get("transform"))[1]))
            figures.append(float(words(cell).split()[0]))
    # Up is more: a straight line with a falling slope, to the rounding of the page's numbers.
    slope, start = np.polyfit(figures, dots, 1)
    assert slope < 0
    assert np.abs(np.array(figures) * slope + start - dots).max() < 0.5


def test_every_method_is_set_against_persona_user_by_user():
    run = make_run(users=24, sample={"swapped": 5})
    tree = parse(page_of(run))
    panels = named(tree, "svg", "panel")
    assert len(panels) == 2 * 3
    users = [24, 24, 5] * 2
    for panel, count in zip(panels, users, strict=True):
        told = [words(title) for title in named(panel, "title")]
        assert sum(int(text.split()[0]) for text in told) == count


def test_a_duel_counts_users_and_sides():
    run = make_run(methods=("none", "persona"), users=4)
    nats = {"none": (2.0, 2.0, 4.0, 4.0), "persona": (1.0, 2.0, 5.0, 2.0)}
    run.records = [
        replace(r, nats=nats[r.method][int(r.user[4:])], target_tokens=2) for r in run.records
    ]
    series = series_of(run)
    found = duel(series["persona"], series["none"], "nll")
    assert found.points == ((1.0, 0.5, 1), (1.0, 1.0, 1), (2.0, 1.0, 1), (2.0, 2.5, 1))
    assert (found.better, found.worse, found.same) == (2, 1, 1)


def test_users_at_one_point_are_one_larger_mark():
    run = make_run(methods=("none", "persona"), users=6)
    run.records = [replace(r, nats=1.0) for r in run.records]
    series = series_of(run)
    [point] = duel(series["persona"], series["none"], "nll").points
    assert point == (pytest.approx(1 / 6), pytest.approx(1 / 6), 6)


def test_bins_hold_every_question_once_and_about_equally():
    run = make_run(users=40)
    bins = bins_of(run.records)
    assert sum(part.questions for part in bins) == len(run.golds)
    for record in run.records:
        assert sum(part.holds(record) for part in bins) == 1
    assert max(b.questions for b in bins) < 2 * min(b.questions for b in bins)


@pytest.mark.parametrize("lengths", [[5] * 30, [0] * 29 + [9], list(range(7)), [3]])
def test_bins_of_odd_histories_hold_every_question_once(lengths):
    template = make_run(users=1).records[0]
    records = [replace(template, id=str(i), history=n) for i, n in enumerate(lengths)]
    bins = bins_of(records)
    assert sum(part.questions for part in bins) == len(lengths)
    assert all(sum(part.holds(record) for part in bins) == 1 for record in records)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.33), (-2, 7.5), (95, 105), (0, 9.99)])
def test_ticks_are_round_and_inside(low, high):
    ticks = Axis(low, high, 0, 1).ticks()
    assert 4 <= len(ticks) <= 11
    assert low <= ticks[0] < ticks[-1] <= high
    assert len({round(b - a, 9) for a, b in pairwise(ticks)}) == 1


def test_an_axis_over_equal_values_still_has_room():
    for value in (0.0, 1.0, -3.0):
        axis = axis_over([value], 100, 0)
        assert 0 < axis.at(value) < 100


def test_marks_and_colours_repeat_together_only_after_56():
    assert len({(i % 8, MARKERS[i % len(MARKERS)]) for i in range(56)}) == 56


def examples(page: str) -> list[str]:
    return [words(s) for s in named(parse(page), "section")]


def test_examples_are_drawn_by_seed_from_all_questions():
    run = make_run(methods=("none", "persona"), users=6)
    rows = summarise(run, "none", 0)
    first = examples(report(run, rows, seed=1))
    assert first == examples(report(run, rows, seed=1))
    assert first != examples(report(run, rows, seed=2))
    assert len(first) == 8
    drawn: Counter[str] = Counter()
    for seed in range(25):
        drawn.update(re.findall(r"Question (\S+):", " ".join(examples(report(run, rows, seed, 5)))))
    assert set(drawn) == set(run.golds)


def test_an_example_holds_what_was_asked_the_gold_and_every_answer():
    run = make_run(users=4, beam=("persona",), sample={"swapped": 1})
    page = page_of(run, examples=99)
    shown = examples(page)
    assert len(shown) == len(run.golds)
    for text in shown:
        id_ = re.match(r"Question (\S+):", text)[1]
        assert run.inputs[id_] in text
        assert run.golds[id_] in text
        for record in run.records:
            if record.id == id_:
                assert record.prediction in text
                assert record.beam is None or record.beam in text
        assert ("did not answer this one" in text) == (not id_.startswith("0-"))


def test_a_run_without_inputs_says_so():
    run = replace(make_run(users=2), inputs={})
    assert all("(not kept in this run)" in text for text in examples(page_of(run)))


def test_a_long_input_is_folded_but_whole():
    run = make_run(users=1)
    long = " ".join(f"word{i}" for i in range(400))
    run.inputs = dict.fromkeys(run.inputs, long)
    tree = parse(page_of(run))
    for section in named(tree, "section"):
        [fold] = named(section, "details")
        assert words(fold).replace("…", "") == long


def test_the_command_writes_the_page_of_the_runs_own_rival(tmp_path):
    run = make_run(users=6, against="bm25-4")
    run.save(tmp_path / "out.json")
    main([str(tmp_path / "out.json"), str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == page_of(run, "bm25-4")
    main([str(tmp_path / "out.json"), str(tmp_path / "page.html"), "--against", "none"])
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page_of(run, "none")


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    make_run(users=2).save(tmp_path / "out.json")
    for words_ in (["missing.json"], ["out.json", "--against", "lora"]):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / words_[0]), str(tmp_path / "page.html"), *words_[1:]])
        assert str(caught.value).startswith("export.report: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(SystemExit) as caught:
        main(["a.json", "b.html", "--examples", "-1"])
    assert caught.value.code == 2
    assert "--examples must be 0 or more, not -1" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
