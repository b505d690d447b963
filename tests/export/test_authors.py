import gzip
import json

import pytest

from export.authors import authors, bullets, main, names_somebody
from export.data.authors import read_authors

ENTRY = """\
tool (1.{n}-1) unstable; urgency=medium

  * {first}
  * Rebuild the manual {n} times, as the
    second pass finds what the first one
    left out.
    - and sort its index
{more}
 -- Ann Abel <ann@example.org>  Mon, 02 Jan 2023 13:06:21 +0100

"""
THINGS = ["apples", "pears", "plums", "figs", "nuts", "beans", "peas", "leeks", "kale", "rice"]


def changelog(things=THINGS, more=""):
    return "".join(
        ENTRY.format(n=n, first=f"Read the {thing} only once a day.", more=more)
        for n, thing in enumerate(things)
    )


def test_bullets_are_joined_lines_of_whoever_signed_or_is_named_above_them():
    text = ENTRY.format(
        n=1, first="Say less.", more="\n  [ Bob Bell ]\n  * Write it down,\n    twice.\n"
    )
    assert list(bullets(text)) == [
        ("Ann Abel", "Say less."),
        (
            "Ann Abel",
            "Rebuild the manual 1 times, as the second pass finds what the first one left out."
            "\n- and sort its index",
        ),
        ("Bob Bell", "Write it down, twice."),
    ]


def test_an_author_has_notes_of_some_length_once_each_and_oldest_first():
    [ann] = authors([changelog(), changelog()])
    # What differs by a number only is said once, where it was said last.
    said = [f"Read the {thing} only once a day." for thing in THINGS[::-1]]
    assert [*ann.notes[:-2], ann.notes[-1]] == said
    assert ann.notes[-2].startswith("Rebuild the manual 0 times")
    assert "Abel" not in ann.author
    assert authors([changelog(THINGS[:4])]) == []


def test_what_several_people_say_is_nobodys():
    others = [changelog().replace("Ann Abel", name) for name in ("Bob Bell", "Cid Cole")]
    assert authors([changelog(), *others[:1]])
    assert authors([changelog(), *others]) == []


@pytest.mark.parametrize(
    "text",
    [
        "Write to somebody@example.org about it",
        "Apply a patch by Eve Engel to the parser",
        "New manual page, thanks to all readers",
        "Ask Ann Zobel whether this was meant",
        "Names come with titles: Dr Bell said so",
    ],
)
def test_notes_that_seem_to_name_somebody_are_left_out(text):
    assert names_somebody(text, {"Ann"}, {"Bell"})
    more = f"  * {text}.\n"
    people = [changelog(more=more), changelog().replace("Ann Abel", "Bob Bell")]
    assert all(text not in note for author in authors(people) for note in author.notes)


def test_what_names_nobody_stays():
    assert not names_somebody("Fix the Debian Policy checks (Closes: #12)", {"Ann"}, {"Bell"})


def test_the_command_reads_folders_and_its_file_comes_back(tmp_path, capsys):
    (tmp_path / "doc" / "tool").mkdir(parents=True)
    with gzip.open(tmp_path / "doc" / "tool" / "changelog.Debian.gz", "wt") as file:
        file.write(changelog())
    out = tmp_path / "authors.json"
    main([str(tmp_path / "doc"), "--out", str(out)])
    assert "1 people, 11 notes" in capsys.readouterr().out
    [ann] = read_authors(out)
    assert len(ann.notes) == 11
    assert ann.dev in (True, False)
    assert "Abel" not in out.read_text()


def test_refusals_are_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        main([str(tmp_path / "none"), "--out", str(tmp_path / "a.json")])
    assert refused.value.code == 2
    with pytest.raises(SystemExit, match="nobody has 8 notes"):
        main([str(tmp_path), "--out", str(tmp_path / "a.json")])
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"texts": []}))
    with pytest.raises(ValueError, match=r"not a file of export\.authors"):
        read_authors(other)
