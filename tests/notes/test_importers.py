"""Every importer, on small real files and on damaged ones."""

from __future__ import annotations

import io
import json
import mailbox
import os
import shutil
import stat
import subprocess
import zipfile
from contextlib import suppress
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppedge.errors import HistoryError
from ppedge.notes.importers import FORMATS, archives, detect, files, importer
from ppedge.notes.importers.job import MAX_NOTE_CHARACTERS, Job, moment, too_short
from ppedge.notes.importers.mail import mail_note
from ppedge.notes.importers.mail_text import cut_quotes, text_of_html, unflow
from ppedge.notes.reader import Note, parse_time

ME = "anna@example.org"


def load(name: str, path: Path, job: Job | None = None) -> list[Note]:
    return list(importer(name).read(path, job or Job([ME])))


def refused(name: str, path: Path) -> str:
    with pytest.raises(HistoryError) as caught:
        load(name, path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def write(path: Path, data: str | bytes | object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(data, str | bytes):
        data = json.dumps(data)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def pack(path: Path, members: dict[str, str | bytes | object]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data if isinstance(data, str | bytes) else json.dumps(data))
    return path


# --- what all have in common ---


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_says_what_it_is(name: str) -> None:
    assert importer(name).__doc__


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-01", 0.0),
        ("2024-05-01T09:30:00+02:00", 1714548600.0),
        ("20240501", 1714521600.0),
        (1714521600, 1714521600.0),
        (1714521600.5, 1714521600.5),
        ("1714521600", 1714521600.0),
        ("1714521600123", 1714521600.123),
        (1714521600123, 1714521600.123),
        ("Wed, 01 May 2024 09:30:00 +0200", 1714548600.0),
        ("Wed, 01 May 2024 09:30:00", 1714555800.0),
        *((value, None) for value in ("", "soon", "2024", "5", 5, True, None, [], "01/02/2024")),
        *((value, None) for value in (float("nan"), float("inf"), 10**400, "9" * 400, "1" * 25)),
        ("Wed, 99 May 2024 09:30:00", None),
    ],
)
def test_a_time_is_read_in_any_usual_form_or_is_unknown(value: object, seconds: float) -> None:
    assert moment(value) == seconds


@pytest.mark.parametrize("text", ["", " \n", "a", "🧀", "e\u0301", "\u200b.\u200b"])
def test_a_note_of_less_than_two_visible_characters_is_too_short(text: str) -> None:
    job = Job()
    assert too_short(text)
    assert job.note(text) is None
    assert job.passed == {"too short": 1}


def test_a_note_holds_nothing_that_a_store_cannot_keep() -> None:
    job = Job()
    note = job.note(" a\0b\r\nc\ud800 ", input="x\0", id="i" * 2000, time="never")
    assert note is not None
    assert (note.output, note.input, note.time) == ("ab\nc\ufffd", "x", None)
    assert note.id.startswith("sha256-")
    assert job.note("x" * (MAX_NOTE_CHARACTERS + 1)) is None
    assert job.passed == {"too long": 1}


@pytest.mark.parametrize(
    ("name", "file", "data"),
    [
        ("jsonl", "a.jsonl", ""),
        ("jsonl", "a.json", '{"text": "one"}\n{"text": "two"}'),
        ("csv", "a.CSV", ""),
        ("markdown", "a.md", "text"),
        ("markdown", "a.Markdown", ""),
        ("text", "a.txt", "From the start\n"),
        ("mbox", "anything", "From a@b Mon Jan  1 10:00:00 2024\n\nx\n"),
        ("mbox", "mail.txt", "From 17@xxx Mon Jan 01 10:00:00 +0000 2024\n\nx\n"),
        ("chatgpt", "c.json", '\ufeff[{"title": "x", "mapping": {}}]'),
        ("claude", "c.json", '[{"uuid": "x", "chat_messages": []}]'),
        ("twitter", "tweets.js", "window.YTD.tweets.part0 = []"),
        ("twitter", "tweet.js", "window.YTD.tweet.part0 = []"),
    ],
)
def test_a_file_is_known_by_its_content_or_else_its_name(
    tmp_path: Path, name: str, file: str, data: str
) -> None:
    assert detect(write(tmp_path / file, data)) == name


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n", b"{", b"[]", b"From here on", b"[" * 9999])
def test_what_is_no_known_format_is_none(tmp_path: Path, data: bytes) -> None:
    assert detect(write(tmp_path / "thing.bin", data)) is None
    assert detect(tmp_path) is None


def test_archives_and_folders_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    chats = [{"mapping": {}}]
    assert detect(pack(tmp_path / "1.zip", {"x/conversations.json": chats})) == "chatgpt"
    assert detect(pack(tmp_path / "2.zip", {"conversations-000.json": chats})) == "chatgpt"
    chats = [{"chat_messages": []}]
    assert detect(pack(tmp_path / "3.zip", {"conversations.json": chats})) == "claude"
    tweets = {"data/tweets.js": "window.YTD.tweets.part0 = []"}
    assert detect(pack(tmp_path / "4.zip", tweets)) == "twitter"
    assert detect(pack(tmp_path / "5.zip", {"holiday.jpg": "x"})) is None
    assert detect(pack(tmp_path / "6.zip", {})) is None
    write(tmp_path / "vault/deep/er/a.md", "x")
    write(tmp_path / "vault/b.txt", "x")
    write(tmp_path / "texts/a/b.txt", "x")
    mailbox.Maildir(tmp_path / "mail", create=True).add_folder("Sent")
    (tmp_path / "mail/cur").rmdir()
    assert [detect(tmp_path / name) for name in ("vault", "texts", "mail", "mail/.Sent")] == [
        "markdown",
        "text",
        "maildir",
        "maildir",
    ]


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(
        [
            b"",
            b"PK\x03\x04",
            b"From a Mon 10:00\nFrom: anna@example.org\n",
            b"window.YTD.tweets.part0 = ",
            b"text,id\n",
            b"---\n",
            b'[{"mapping": {"a": {"message": ',
            b"From a 10:00\nFrom: <anna@example.org>\nContent-Type: text/html; charset=",
            b"From 10:00\nFrom: anna@example.org\nContent-Type: multipart/mixed; boundary=a\n\n--a",
        ]
    ),
    st.binary(max_size=200),
)
@pytest.mark.parametrize("name", FORMATS)
def test_any_bytes_are_notes_or_a_history_error(
    tmp_path: Path, name: str, start: bytes, data: bytes
) -> None:
    path = write(tmp_path / "file", start + data)
    if name == "maildir":
        path = write(tmp_path / "maildir/cur/1", (start + data).partition(b"\n")[2])
        path = path.parents[1]
    try:
        importer(name).matches(path)
        notes = load(name, path)
    except HistoryError:
        return
    for note in notes:
        assert not too_short(note.output)
        (note.output + note.input + note.id).encode()


FIELDS = ["mapping", "message", "author", "role", "content", "parts", "metadata", "create_time"]
FIELDS += ["chat_messages", "sender", "text", "id", "created_at", "tweet", "full_text"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner | st.sampled_from(["user", "human"]),
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(JSON, max_size=3))
def test_any_json_is_notes_or_a_history_error(tmp_path: Path, value: object) -> None:
    for name in ("chatgpt", "claude", "twitter"):
        prefix = "window.YTD.tweets.part0 = " if name == "twitter" else ""
        path = write(tmp_path / "file.json", prefix + json.dumps(value))
        with suppress(HistoryError):
            load(name, path)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "maildir"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    assert "cannot be read: No such file" in refused(name, tmp_path / "absent")


@pytest.mark.parametrize("name", ["csv", "markdown", "text", "chatgpt", "claude", "twitter"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("window.text,id\ngrüß".encode("latin-1"), "line 2: byte 0xfc is not UTF-8"),
        (
            "\ufefftext".encode("utf-16-le"),
            "the file is UTF-16; convert it to UTF-8, for example with: iconv -f UTF-16 ",
        ),
    ],
)
def test_another_encoding_is_refused_with_its_line(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    assert said in refused(name, write(tmp_path / "f.md", data))


@pytest.mark.skipif(not shutil.which("iconv"), reason="the advice is a command of another program")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-be", "utf-32-le"])
def test_the_advice_for_another_encoding_works(tmp_path: Path, encoding: str) -> None:
    """And the file that is converted stays, even one that has the name of what is made."""
    path = write(tmp_path / "my notes.csv", "text,id\ngrüß,1\n".encode(encoding))
    command = refused("csv", path).partition("for example with: ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert load("csv", tmp_path / "utf-8-my notes.csv") == [Note("grüß", id="1")]
    assert path.read_bytes() == "text,id\ngrüß,1\n".encode(encoding)


def test_a_member_of_another_encoding_is_named_by_the_advice(tmp_path: Path) -> None:
    path = pack(tmp_path / "e.zip", {"x/conversations.json": "[]".encode("utf-16")})
    said = refused("chatgpt", path)
    assert f"{path}, x/conversations.json: the file is UTF-16;" in said
    assert said.endswith("-t UTF-8 x/conversations.json > utf-8-conversations.json")


# --- tables and lines ---


def test_json_lines_are_read_as_notes_add_reads_them(tmp_path: Path) -> None:
    job = Job()
    path = write(tmp_path / "a.jsonl", '{"text": "one", "id": 1}\n{"text": 5}\n{"text": ""}\n'
                 '{"text": "x"}\n{"input": "q", "output": "two"}\n')  # fmt: skip
    assert load("jsonl", path, job) == [Note("one", id="1"), Note("two", "q")]
    assert job.passed == {"too short": 2}
    assert [str(error) for error in job.damaged] == [
        f'{path}, line 2: field "text" is a number; write text in double quotes'
    ]


def test_csv_takes_its_columns_by_name(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        '\ufeffID;Title;Body;Created At;Mood\r\n7;"Rain; again";"wet\r\n""very""";2024-05-01;x\r\n'
        "\r\n8;;x;;\r\n9\r\n;;dry;soon;\r\n",
    )
    job = Job()
    assert load("csv", path, job) == [
        Note('wet\n"very"', "Rain; again", "7", parse_time("2024-05-01")),
        Note("dry"),
    ]
    assert job.passed == {"too short": 2}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_finds_its_delimiter(tmp_path: Path, delimiter: str) -> None:
    rows = [["input", "text", "time"], ["what?", "a, b; c", "1714521600"]]
    rows[1][1] = f'"{rows[1][1]}"'
    path = write(tmp_path / "a.csv", "\n".join(map(delimiter.join, rows)))
    assert load("csv", path) == [Note("a, b; c", "what?", time=1714521600.0)]


def test_csv_takes_a_note_as_long_as_any(tmp_path: Path) -> None:
    long = "words " * 50_000
    assert load("csv", write(tmp_path / "a.csv", f'text\n"{long}"\n')) == [Note(long.strip())]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("name,age\nanna,7\n", "line 1: no column of text; name one of"),
        ('text\nfine\n"open\n', "line 3: not valid CSV: unexpected end of data"),
        ('text\n"a"b\n', "line 2: not valid CSV"),
    ],
)
def test_a_bad_csv_is_refused_with_its_line(tmp_path: Path, data: str, said: str) -> None:
    assert said in refused("csv", write(tmp_path / "a.csv", data))


# --- text and Markdown ---


def test_markdown_has_its_date_and_title_in_front(tmp_path: Path) -> None:
    front = "---\r\ntitle: 'Rain'\r\ntags:\r\n  - a\r\ndate: 2024-05-01 09:30\r\n# x\r\n---\r\n"
    path = write(tmp_path / "a.md", front + "# Wet\r\n\r\ntext: yes\r\n")
    [note] = load("markdown", path)
    time = parse_time("2024-05-01T09:30")
    assert note == Note("# Wet\n\ntext: yes", "Rain", "a.md", time, ("a",), "a.md")
    path = write(tmp_path / "b.md", "---\ncreated: 2024-05-01\ndate:\n...\nbody")
    assert load("markdown", path)[0].time == parse_time("2024-05-01")


@pytest.mark.parametrize(
    ("front", "tags"),
    [
        ("tags: [work, 'two words', a/b]", ("work", "two words", "a/b")),
        ("tags: a, b", ("a", "b")),
        ("Tags: a b #c", ("a", "b", "c")),
        ("tag: solo\ntags:\n- x\n  - '#y'\n# z\nother:\n- no", ("solo", "x", "y")),
        ("tags:\nkeywords: no", ()),
        ("tags: [a, A, '', ' ']", ("a",)),
    ],
)
def test_markdown_has_its_tags_in_front_and_in_its_text(
    tmp_path: Path, front: str, tags: tuple[str, ...]
) -> None:
    path = write(tmp_path / "v/a.md", f"---\n{front}\n---\nof #rain, not `#code`\n")
    [note] = load("markdown", tmp_path / "v")
    assert note == Note("of #rain, not `#code`", id="v/a.md", tags=(*tags, "rain"), source="v/a.md")
    assert path.exists()


@pytest.mark.parametrize(
    "text",
    ["---\ntitle: x\nno end", "---\nJust a rule.\n---\nmore", "--- \n", "text\n---\ntitle: x\n---"],
)
def test_what_is_no_front_matter_is_text(tmp_path: Path, text: str) -> None:
    [note] = load("markdown", write(tmp_path / "a.md", text))
    assert (note.output, note.input, note.time) == (text.strip(), "", None)


def test_a_folder_of_markdown_is_read_to_its_depth(tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    for name in ("b.md", "a/c.markdown", "a/d.md", ".obsidian/x.md", ".trash/y.md", ".z.md"):
        write(vault / name, f"note {name}")
    write(vault / "picture.png", b"\x89")
    write(vault / "empty.md", "")
    write(vault / "bad.md", b"\xff\xff bad")
    job = Job()
    found = load("markdown", vault, job)
    assert [note.id for note in found] == ["vault/b.md", "vault/a/c.markdown", "vault/a/d.md"]
    assert job.passed == {"files of other kinds": 1, "too short": 1}
    [error] = job.damaged
    assert str(error).startswith(f"{vault / 'bad.md'}, line 1: byte 0xff is not UTF-8")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links")
def test_links_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    secret = write(tmp_path / "outside/secret.md", "secret")
    write(tmp_path / "vault/a.md", "mine")
    (tmp_path / "vault/link.md").symlink_to(secret)
    (tmp_path / "vault/outside").symlink_to(secret.parent)
    (tmp_path / "vault/round").symlink_to(tmp_path / "vault")
    (tmp_path / "vault/gone.md").symlink_to(tmp_path / "gone.md")
    job = Job()
    assert [note.output for note in load("markdown", tmp_path / "vault", job)] == ["mine"]
    assert job.passed == {"links": 4}
    (tmp_path / "shortcut").symlink_to(tmp_path / "vault")
    assert [note.id for note in load("markdown", tmp_path / "shortcut")] == ["vault/a.md"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_in_a_folder_does_not_block(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text")
    os.mkfifo(tmp_path / "b.txt")
    assert len(load("text", tmp_path)) == 1


def test_a_folder_of_too_many_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 3)
    for number in range(4):
        write(tmp_path / f"{number}.txt", "text")
    assert "more than 3 files" in refused("text", tmp_path)


def test_a_file_name_that_is_not_utf_8_is_an_id_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.md")
    try:
        write(tmp_path / name, "text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    [note] = load("markdown", tmp_path)
    assert note.id == f"{tmp_path.name}/caf\\xe9.md"


def test_text_is_one_note_or_several_with_lines_between(tmp_path: Path) -> None:
    assert load("text", write(tmp_path / "a.txt", "\ufeffone\n\ntwo -- three\n")) == [
        Note("one\n\ntwo -- three", id="a.txt", source="a.txt")
    ]
    job = Job()
    path = write(tmp_path / "b.txt", "one\r\n---\r\n\r\ntwo\r\n--- \r\n---\r\n----\r\n")
    wanted = [Note(text, source="b.txt") for text in ("one", "two", "----")]
    assert load("text", path, job) == wanted
    assert job.passed == {"too short": 1}
    assert load("text", write(tmp_path / "c.txt", "")) == []


# --- mail ---


def mail(body: str, **headers: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"From": f"Anna <{ME}>", "Subject": "Re: rain", **headers}.items():
        message[name.replace("_", "-")] = value
    message.set_content(body)
    return message


def note_of(message: EmailMessage | MIMEMultipart | MIMEText | bytes) -> Note | None:
    return mail_note(message if isinstance(message, bytes) else message.as_bytes(), Job([ME]))


def test_a_mail_is_a_note_under_its_message_id() -> None:
    message = mail(
        "grüße aus dem regen\n",
        Subject="Grüße",
        Message_ID="<1@example.org>",
        Date="Wed, 01 May 2024 09:30:00 +0200",
    )
    assert note_of(message) == Note("grüße aus dem regen", "Grüße", "<1@example.org>", 1714548600.0)


def test_mail_of_others_is_counted_and_addresses_are_compared_in_any_case() -> None:
    job = Job(["ANNA@example.org ", "second@example.org"])
    senders = [
        ME,
        "Bob <bob@example.org>",
        "second@EXAMPLE.org",
        "x",
        '"anna@example.org" <b@c.de>',
    ]
    notes = [mail_note(mail("some text", From=sender).as_bytes(), job) for sender in senders]
    assert [note is not None for note in notes] == [True, False, True, False, False]
    assert job.passed == {"mail of others": 3}


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1"])
def test_bodies_are_decoded(encoding: str, charset: str) -> None:
    message = mail("x")
    message.set_content("naïve café = wet\n", charset=charset, cte=encoding)
    note = note_of(message)
    assert note is not None
    assert note.output == "naïve café = wet"


@pytest.mark.parametrize("charset", ["x-unknown", "ascii", "utf-8", "zip", "undefined"])
def test_a_body_of_a_wrong_charset_is_read_as_well_as_can_be(charset: str) -> None:
    head = f"From: {ME}\nContent-Type: text/plain; charset={charset}\n\n".encode()
    for body in ("café".encode(), "café".encode("latin-1")):
        note = note_of(head + body)
        assert note is not None
        assert note.output == "café"


def test_the_plain_form_goes_before_the_page_and_attachments_stay_out() -> None:
    message = mail("the plain form")
    message.add_alternative("<p>the page</p>", subtype="html")
    message.add_attachment("attached text", filename="a.txt")
    message.add_attachment(mail("a forwarded mail"))
    note = note_of(message)
    assert note is not None
    assert note.output == "the plain form"


def test_a_page_alone_is_read_without_markup_quotes_and_signature() -> None:
    message = mail("x")
    message.set_content(
        "<html><head><title>no</title><style>p {}</style></head><body>"
        "<p>Dear&nbsp;Bob,</p>\n<p>it is <b>wet</b>\n here &amp; there.<br>Anna</p>"
        '<div class="gmail_signature">Anna, poet</div>'
        '<div class="gmail_quote"><div>On Wed, Bob wrote:</div>'
        "<blockquote>is it<blockquote>deep</blockquote> wet?</blockquote></div></body></html>",
        subtype="html",
    )
    note = note_of(message)
    assert note is not None
    assert note.output == "Dear Bob,\n\nit is wet here & there.\nAnna"
    assert cut_quotes(text_of_html("<div>one</div><div>-- <br></div><div>Anna</div>")) == "one"
    assert text_of_html("a</blockquote></div><br>b") == "a\n\nb"


@pytest.mark.parametrize("tag", ["<a ", "<", "<!--", "</a"])
def test_a_page_of_tags_without_end_is_read_in_time(tag: str) -> None:
    # Where every tag is looked for to the end of the page, this takes minutes.
    assert text_of_html("before" + tag * 50_000).startswith("before")


def test_a_multipart_mail_without_text_or_with_no_end_is_read_as_far_as_it_goes() -> None:
    message = MIMEMultipart("mixed")
    message["From"] = ME
    assert note_of(message) is None
    message.attach(MIMEText("<b>page</b>", "html"))
    message.attach(MIMEText("more text"))
    cut = message.as_bytes()[:-30]
    note = note_of(cut)
    assert note is not None
    assert "more" in note.output


def test_mail_nested_without_end_is_passed_over() -> None:
    head = f"From: {ME}\n".encode()
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(2000)
    )
    assert note_of(head + deep + b"\ntext") is None


REPLY = """Not today, Bob.

Tomorrow then?

{}"""


@pytest.mark.parametrize(
    "rest",
    [
        "On Wed, 1 May 2024 at 09:30, Bob <bob@example.org> wrote:\n> rain?\n> > yes\n>\n> bye",
        "On Wed, 1 May 2024 at 09:30, Bob Barnaby Longname\n<bob@example.org> wrote:\n\n> rain?",
        "On Wed, 1 May 2024, Bob wrote:\nrain? without marks",
        "Am Mi., 1. Mai 2024 um 09:30 schrieb Bob <bob@example.org>:\n\n> regen?",
        "Le mer. 1 mai 2024 à 09:30, Bob <bob@example.org> a écrit :\n> pluie",
        "2024-05-01 9:30 GMT Bob <bob@example.org>:\n> rain?",
        "-----Original Message-----\nFrom: Bob\nrain?",
        "---------- Forwarded message ---------\nFrom: Bob\nrain?",
        "________________________________\nFrom: Bob\nSent: today\nTo: Anna\nSubject: x\n\nrain",
        "*From:* Bob\n*Date:* Wednesday\n*To:* Anna\n\nrain",
        "-- \nAnna, poet\nhttp://example.org",
        "Sent from my iPhone",
        "> one\n>> two\n> > > three",
        "> quoted\n\n-- \nAnna\nOn 1 May 2024, Bob wrote:\n> more",
    ],
)
def test_what_others_wrote_is_cut_from_a_reply(rest: str) -> None:
    assert cut_quotes(REPLY.format(rest)) == "Not today, Bob.\n\nTomorrow then?"


def test_answers_between_quotes_are_kept_in_their_order() -> None:
    text = "On 1 May 2024, Bob <b@c> wrote:\n> rain?\nyes\n\n> > snow?\n> hail?\n\nno\n-- \nA"
    assert cut_quotes(text) == "yes\n\nno"


@pytest.mark.parametrize(
    "text",
    [
        "On reflection, this is what I wrote:\nnothing",
        "From: here to there\nit rains",
        "dear all:\nit rains in 2024",
        "--\nnot a signature",
        "a -- b\n--- c",
    ],
)
def test_what_only_looks_like_a_quote_stays(text: str) -> None:
    assert cut_quotes(text) == text


def test_flowed_text_is_joined() -> None:
    assert unflow("one \ntwo\n> q \n  three\n-- \nsig") == "one two\n> q \n three\n-- \nsig"
    assert unflow("on \ne", delete_space=True) == "one"
    message = (
        b"From: anna@example.org\nContent-Type: text/plain; format=flowed\n\none \ntwo\n-- \nx"
    )
    note = note_of(message)
    assert note is not None
    assert note.output == "one two"


@pytest.mark.parametrize(
    "head",
    [
        b"Date: soon\nSubject:\n",
        b"Date: Wed, 99 May 2024 99:99:99 +9999\n",
        b"Subject: =?x-unknown?q?caf=E9?=\n",
        b"Subject: =?utf-8?b?!!!?=\n",
        b"Subject: =?u\xfff-8?q?caf=E9?=\n",
        b"Message-ID: \xff\xfe\n",
        b"Subject: \xff\xfe raw\n",
    ],
)
def test_a_broken_header_does_not_lose_the_mail(head: bytes) -> None:
    note = note_of(b"From: anna@example.org\n" + head + b"\nsome text\n")
    assert note is not None
    assert (note.output, note.time) == ("some text", None)


def test_an_mbox_is_parted_into_its_messages(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "sent", create=True)
    for number in range(3):
        box.add(mail(f"text {number}\n\nFrom here on, rain\n", Message_ID=f"<{number}@x>"))
    box.add(mail("hello", From="bob@example.org"))
    box.close()
    assert detect(tmp_path / "sent") == "mbox"
    job = Job([ME])
    found = load("mbox", tmp_path / "sent", job)
    assert [note.output for note in found] == [
        f"text {number}\n\nFrom here on, rain" for number in range(3)
    ]
    assert job.passed == {"mail of others": 1}
    assert load("mbox", write(tmp_path / "empty", "")) == []
    assert 'line 1: no "From " line' in refused("mbox", write(tmp_path / "x", "\nSubject: x\n"))


def test_a_very_large_mail_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppedge.notes.importers.mbox.MAX_MAIL", 1000)
    large, small = mail("large " * 500, Message_ID="<1@x>"), mail("small", Message_ID="<2@x>")
    box = mailbox.mbox(tmp_path / "sent", create=True)
    for message in (large, small):
        box.add(message)
    box.close()
    job = Job([ME])
    assert [note.output for note in load("mbox", tmp_path / "sent", job)] == ["small"]
    assert job.passed == {"mail too large": 1}


def test_a_maildir_is_read_with_its_folders_and_without_drafts(tmp_path: Path) -> None:
    box = mailbox.Maildir(tmp_path / "mail", create=True)
    sent = box.add_folder("Sent")
    box.add(mail("a draft in new", Message_ID="<1@x>"))
    for flags, body in (("S", "sent and seen"), ("DS", "a draft"), ("T", "deleted")):
        message = mailbox.MaildirMessage(mail(body))
        message.set_subdir("cur")
        message.set_flags(flags)
        sent.add(message)
    write(tmp_path / "mail/tmp/x", mail("half written").as_bytes())
    job = Job([ME])
    found = load("maildir", tmp_path / "mail", job)
    assert sorted(note.output for note in found) == ["a draft in new", "sent and seen"]
    assert job.passed == {"drafts and deleted mail": 2}


# --- exports ---


def chat(role: str, parts: list[object], **more: object) -> dict[str, object]:
    content = {"content_type": "text", "parts": parts}
    return {
        "message": {"id": f"m-{parts[0]}", "author": {"role": role}, "content": content, **more}
    }


CHATS = [
    {
        "title": "Rain",
        "mapping": {
            "root": {"message": None},
            "1": chat("user", ["will it rain?"], create_time=1714521600.5),
            "2": chat("assistant", ["yes"]),
            "3": chat("user", ["look", {"image": 1}, "here"], create_time=None),
            "4": chat("system", ["be kind"]),
            "5": chat("user", ["hidden"], metadata={"is_visually_hidden_from_conversation": True}),
            "6": chat("user", ["?"]),
        },
    },
    {"title": "Empty"},
]


def test_chatgpt_gives_the_owners_messages(tmp_path: Path) -> None:
    expected = [
        Note("will it rain?", id="m-will it rain?", time=1714521600.5),
        Note("look\nhere", id="m-look"),
    ]
    job = Job()
    assert load("chatgpt", write(tmp_path / "conversations.json", CHATS), job) == expected
    assert job.passed == {"too short": 1}
    path = pack(tmp_path / "e.zip", {"user.json": "{}", "conversations.json": CHATS})
    assert load("chatgpt", path) == expected
    path = pack(tmp_path / "n.zip", {f"conversations-00{i}.json": CHATS for i in range(2)})
    assert load("chatgpt", path) == expected * 2
    for top in (tmp_path / "u", tmp_path / "v" / "all in one"):
        write(top / "chat.html", "<html>")
        write(top / "conversations.json", CHATS)
    for folder in (tmp_path / "u", tmp_path / "v"):
        assert detect(folder) == "chatgpt"
        assert load("chatgpt", folder) == expected


def test_claude_gives_the_owners_messages(tmp_path: Path) -> None:
    chats = [
        {
            "uuid": "c",
            "chat_messages": [
                {"uuid": "1", "sender": "human", "text": "hello", "created_at": "2024-05-01"},
                {"uuid": "2", "sender": "assistant", "text": "hi, I am not the owner"},
                {"uuid": "3", "sender": "human", "text": "", "content": [
                    {"type": "text", "text": "part one"}, {"type": "image"}, 7]},
                {"uuid": "4", "sender": "human"},
            ],
        }
    ]  # fmt: skip
    expected = [Note("hello", id="1", time=1714521600.0), Note("part one", id="3")]
    assert load("claude", write(tmp_path / "conversations.json", chats)) == expected
    path = pack(tmp_path / "e.zip", {"users.json": [], "conversations.json": chats})
    assert load("claude", path) == expected
    write(tmp_path / "u" / "conversations.json", chats)
    assert detect(tmp_path / "u") == "claude"
    assert load("claude", tmp_path / "u") == expected


TWEETS = [
    {"tweet": {"id_str": "1", "full_text": "wet &amp; cold https://t.co/aBc1 again",
               "created_at": "Wed May 01 00:00:00 +0000 2024"}},
    {"tweet": {"id_str": "2", "full_text": "RT @bob: not mine"}},
    {"id_str": "3", "text": "an old form &lt;3"},
    {"tweet": {"id_str": "4", "full_text": "https://t.co/aBc1"}},
    {"tweet": {"id_str": "5", "full_text": "no date", "created_at": "never"}},
]  # fmt: skip


def test_twitter_gives_the_owners_tweets(tmp_path: Path) -> None:
    expected = [
        Note("wet & cold again", id="1", time=1714521600.0),
        Note("an old form <3", id="3"),
        Note("no date", id="5"),
    ]
    script = "window.YTD.tweets.part0 = " + json.dumps(TWEETS, indent=1)
    job = Job()
    assert load("twitter", write(tmp_path / "tweets.js", script), job) == expected
    assert job.passed == {"retweets": 1, "too short": 1}
    path = pack(tmp_path / "t.zip", {"data/account.js": "", "data/tweets.js": script})
    assert load("twitter", path) == expected
    more = script.replace("part0", "part1")
    path = pack(tmp_path / "u.zip", {"x/data/tweets.js": script, "x/data/tweets-part1.js": more})
    assert load("twitter", path) == expected * 2
    write(tmp_path / "u/data/README.txt", "how to read this archive")
    write(tmp_path / "u/data/tweets.js", script)
    write(tmp_path / "u/Your archive.html", "<html>")
    assert detect(tmp_path / "u") == "twitter"
    assert load("twitter", tmp_path / "u") == expected


def test_an_export_somewhere_in_a_vault_does_not_make_it_one(tmp_path: Path) -> None:
    write(tmp_path / "day.md", "rain again")
    write(tmp_path / "from elsewhere/conversations.json", CHATS)
    assert detect(tmp_path) == "markdown"
    assert "has no file like" in refused("chatgpt", tmp_path)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links")
def test_a_link_in_an_unpacked_export_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "secret.json", CHATS)
    (tmp_path / "e").mkdir()
    (tmp_path / "e/conversations.json").symlink_to(tmp_path / "secret.json")
    assert detect(tmp_path / "e") is None


@pytest.mark.parametrize("name", ["chatgpt", "claude"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "line 1: not valid JSON at character 1: Expecting value"),
        ('[{"mapping": {}},\n{"map', "line 2: not valid JSON at character 2"),
        ('{"mapping": {}}', "not a JSON array; give the file as it was exported"),
        ('[{"mapping": {}}, 7]', "entry 2: not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"a": 1' + "0" * 5000 + "}]", "a number has too many digits"),
    ],
)
def test_a_damaged_export_is_refused_with_its_place(
    tmp_path: Path, name: str, data: str, said: str
) -> None:
    assert said in refused(name, write(tmp_path / "conversations.json", data))
    path = pack(tmp_path / "export.zip", {"conversations.json": data})
    assert f"{path}, conversations.json" in refused(name, path)


def test_tweets_need_their_prefix(tmp_path: Path) -> None:
    assert "not tweets.js" in refused("twitter", write(tmp_path / "tweets.js", TWEETS))


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_archive_is_damaged(tmp_path: Path, kept: float) -> None:
    path = pack(tmp_path / "e.zip", {"conversations.json": CHATS, "x": os.urandom(3000)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(HistoryError, match="the archive is damaged"):
        detect(path)
    assert "download it again" in refused("chatgpt", path)


def test_an_archive_with_a_wrong_byte_is_damaged(tmp_path: Path) -> None:
    path = pack(tmp_path / "e.zip", {"conversations.json": CHATS})
    data = bytearray(path.read_bytes())
    data[80] ^= 0xFF
    path.write_bytes(data)
    assert "the archive is damaged" in refused("chatgpt", path)


def test_an_archive_without_the_file_says_so(tmp_path: Path) -> None:
    assert "the archive has no file like" in refused("claude", pack(tmp_path / "e.zip", {"x": "y"}))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = b"[" + b" " * (5 << 20) + b"]"
    path = pack(tmp_path / "e.zip", {"conversations.json": bomb})
    assert "packed more than 200 times" in refused("chatgpt", path)
    with pytest.raises(HistoryError, match="packed more than"):
        detect(path)


def test_archives_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "e.zip", {"conversations.json": CHATS, "other": "x"})
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    assert "more than 1 files" in refused("chatgpt", path)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    monkeypatch.setattr(archives, "MAX_TOTAL", 10)
    assert "e.zip: larger than" in refused("chatgpt", path)
    monkeypatch.setattr(archives, "MAX_TOTAL", 1 << 20)
    monkeypatch.setattr(archives, "MAX_BYTES", 10)
    assert "conversations.json: larger than" in refused("chatgpt", path)


def test_a_name_in_an_archive_is_never_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a/b/c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    names = ["../../conversations.json", "/tmp/x/conversations.json", "C:/conversations.json"]
    path = pack(tmp_path / "e.zip", dict.fromkeys(names, CHATS))
    assert len(load("chatgpt", path)) == 6
    assert sorted(tmp_path.rglob("*.*")) == [path]


def test_a_link_in_an_archive_is_no_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("conversations.json")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    path = write(tmp_path / "e.zip", buffer.getvalue())
    assert "no file like" in refused("chatgpt", path)


def test_an_archive_with_a_password_says_what_to_do(tmp_path: Path) -> None:
    path = pack(tmp_path / "e.zip", {"conversations.json": CHATS})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    assert "it has a password" in refused("chatgpt", path)
