import gzip
import itertools
import json
import tracemalloc
from datetime import UTC, datetime
from hashlib import sha512

import pytest

from export.data.lamp import (
    WINDOW,
    DataError,
    Question,
    choose,
    open_questions,
    read_golds,
    read_questions,
    swap_histories,
    task_name,
    with_swaps,
    write_predictions,
)
from ppedge.notes.reader import Note
from tests.export import lamp

FORMS = ("shared", "user", "time")
# task: (input, output) of the first profile record of lamp's user 0
NOTES = {
    1: ("", "core: fix the leak 0"),
    2: (lamp.text("leak", 0), "sci-fi"),
    3: (lamp.text("leak", 0), "1"),
    4: (lamp.text("leak", 0), "core: fix the leak"),
    5: (lamp.text("leak", 0), "core: fix the leak"),
    6: (lamp.text("leak", 0), "core: fix the leak"),
    7: ("", "core: fix the leak #Leak https://t.co/0"),
}


def question(history=(), task=6, user="ann", output="x y") -> Question:
    return Question("q", user, task, "Generate it", output, tuple(history))


def one(tmp_path, task=6, golds=None, **fields):
    """Files of one question with these fields (None leaves one out); returns their paths."""
    record = {"id": "7", "user_id": "ann", "input": "Do it", "profile": []} | fields
    record = {name: value for name, value in record.items() if value is not None}
    golds = [{"id": "7", "output": "done"}] if golds is None else golds
    return (
        lamp.write_json(tmp_path / "q.json", [record]),
        lamp.write_json(tmp_path / "o.json", {"task": f"LaMP_{task}", "golds": golds}),
    )


def only_note(tmp_path, task, record) -> Note:
    [read] = open_questions(*one(tmp_path, task, profile=[record]))
    [note] = read.history
    return note


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", lamp.TASKS)
def test_every_task_in_every_form_is_read_in_order(tmp_path, task, form):
    records, outputs = lamp.records(task, form)
    read = list(read_questions(lamp.write(tmp_path, task, form), "dev"))
    assert [q.id for q in read] == [r["id"] for r in records]
    assert [q.input for q in read] == [r["input"] for r in records]
    assert [q.output for q in read] == [g["output"] for g in outputs["golds"]]
    assert {q.task for q in read} == {task}
    assert [len(q.history) for q in read] == [6] * 6
    note = read[0].history[0]
    assert (note.input, note.output, note.id) == (*NOTES[task], "0")


def test_a_file_without_users_makes_every_question_its_own_user(tmp_path):
    named = list(read_questions(lamp.write(tmp_path, 6, "shared"), "dev"))
    nameless = list(read_questions(lamp.write(tmp_path, 6, "user"), "dev"))
    assert [q.user for q in named] == [f"user-{i}" for i in (0, 0, 1, 1, 2, 2)]
    assert [q.user for q in nameless] == [q.id for q in nameless]


def test_a_user_id_may_be_a_number(tmp_path):
    [read] = open_questions(*one(tmp_path, user_id=3))
    assert read.user == "3"


@pytest.mark.parametrize(
    ("date", "moment"),
    [
        ("2014-03-07", (2014, 3, 7)),
        ("2014-3-7", (2014, 3, 7)),
        ("2014-03", (2014, 3, 1)),
        ("2014", (2014, 1, 1)),
        (2014, (2014, 1, 1)),
        ("2014-03-07T10:00:00", (2014, 3, 7, 10)),
        (1394150400, (2014, 3, 7)),
        ("1394150400", (2014, 3, 7)),
    ],
)
def test_dates_of_a_profile_become_times(tmp_path, date, moment):
    note = only_note(tmp_path, 7, {"id": "0", "text": "Go!", "date": date})
    assert note.time == datetime(*moment, tzinfo=UTC).timestamp()


def test_records_without_a_date_have_no_time(tmp_path):
    assert only_note(tmp_path, 7, {"id": "0", "text": "Go!"}).time is None
    assert only_note(tmp_path, 7, {"id": "0", "text": "Go!", "date": None}).time is None


def test_news_of_the_first_task_2_are_read_by_their_category(tmp_path):
    news = {"id": "0", "text": "A loaf.", "title": "Bread", "category": "food & drink"}
    note = only_note(tmp_path, 2, news)
    assert (note.input, note.output) == ("A loaf.", "food & drink")


def test_a_score_may_be_an_integer(tmp_path):
    assert only_note(tmp_path, 3, {"id": "0", "text": "Dull.", "score": 2}).output == "2"


@pytest.mark.parametrize("blank", ["", " \n", None])
def test_a_record_in_which_nothing_was_written_is_no_note(tmp_path, blank):
    profile = [{"id": "0", "text": "Noon?", "title": blank}, {"id": "1", "text": "", "title": "a"}]
    [read] = open_questions(*one(tmp_path, profile=profile))
    assert read.history == (Note("a", "", "1"),)


def test_names_of_files_are_free_and_packing_is_seen_from_the_bytes(tmp_path):
    questions, outputs = one(tmp_path)
    packed = tmp_path / "packed.bin"
    packed.write_bytes(gzip.compress(questions.read_bytes()))
    assert list(open_questions(packed, outputs)) == list(open_questions(questions, outputs))


def test_a_packed_file_is_found_under_its_unpacked_name(tmp_path):
    folder = lamp.write(tmp_path, 6, "shared")
    assert not (folder / "dev_questions.json").exists()
    assert list(open_questions(folder / "dev_questions.json", folder / "dev_outputs.json"))


def test_a_byte_order_mark_and_space_before_the_array_do_no_harm(tmp_path):
    questions, outputs = one(tmp_path)
    for path in (questions, outputs):
        path.write_bytes(b"\xef\xbb\xbf \r\n\t" + path.read_bytes())
    assert [read.id for read in open_questions(questions, outputs)] == ["7"]


@pytest.mark.parametrize("name", ["LaMP_6", "LaMP_6_style", "LaMP_6_time"])
def test_the_task_s_name_is_kept_as_found(tmp_path, name):
    golds = [{"id": "2", "output": "b"}, {"id": "1", "output": "a"}]
    path = lamp.write_json(tmp_path / "o.json", {"task": name, "golds": golds})
    assert task_name(path) == name
    assert list(read_golds(path).items()) == [("2", "b"), ("1", "a")]


# --- streaming --------------------------------------------------------------------------------


def big_files(tmp_path, count):
    """``count`` questions of some 50 kB each, written as a stream; their paths."""
    # Text that gzip cannot shrink to nothing: what is read of the file is in proportion to it.
    texts = ["".join(sha512(f"{i} {j}".encode()).hexdigest() for j in range(40)) for i in range(10)]
    profile = [{"id": str(i), "text": text, "title": f"t {i}"} for i, text in enumerate(texts)]
    questions, outputs = tmp_path / "q.json.gz", tmp_path / "o.json"
    with gzip.open(questions, "wt", compresslevel=1) as file:
        for i in range(count):
            record = {"id": str(i), "input": f"Do: {i}", "profile": profile}
            file.write("[,"[i > 0] + json.dumps(record))
        file.write("]")
    golds = [{"id": str(i), "output": "done it"} for i in range(count)]
    return questions, lamp.write_json(outputs, {"task": "LaMP_6", "golds": golds})


def test_memory_holds_a_window_of_questions_and_not_the_file(tmp_path):
    questions, outputs = big_files(tmp_path, 500)
    with gzip.open(questions) as file:
        size = sum(len(block) for block in iter(lambda: file.read(1 << 20), b""))
    assert size > 25e6
    tracemalloc.start()
    try:
        count = sum(1 for _ in open_questions(questions, outputs))
        streamed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        few = list(choose(questions, outputs, 5, 0))
        chosen = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        for _, history in itertools.islice(with_swaps(open_questions(questions, outputs), 0), 100):
            assert history
        swapped = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (count, len(few)) == (500, 5)
    assert streamed < 2e6
    assert chosen < 3e6
    assert swapped < 3 * WINDOW * size / count


def test_the_first_question_comes_before_the_file_is_read(tmp_path):
    questions, outputs = big_files(tmp_path, 40)
    # What follows the first questions is not even JSON, and not even packed.
    whole = questions.read_bytes()
    questions.write_bytes(whole[: len(whole) // 2] + b"no gzip at all")
    stream = open_questions(questions, outputs)
    assert [next(stream).id for _ in range(5)] == ["0", "1", "2", "3", "4"]
    with pytest.raises(DataError, match=r"q\.json\.gz: cannot be read to its end"):
        list(stream)


# --- what is refused --------------------------------------------------------------------------


def refusal(questions, outputs) -> str:
    with pytest.raises(DataError) as caught:
        list(open_questions(questions, outputs))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": None}, "question 1: field 'id' is missing or null; text is wanted"),
        ({"id": 7, "user_id": None}, "question 1: field 'id' is a number; text is wanted"),
        ({"input": None}, "question 1 (id '7'): field 'input' is missing or null"),
        ({"input": ["a"]}, "question 1 (id '7'): field 'input' is a list; text is wanted"),
        ({"profile": None}, "question 1 (id '7'): field 'profile' is missing or null; a list"),
        ({"profile": {}}, "question 1 (id '7'): field 'profile' is an object; a list"),
        ({"user_id": [1]}, "question 1: field 'user_id' is a list"),
        ({"user_id": True}, "question 1: field 'user_id' is true or false"),
        ({"id": "8"}, "question 1 (id '8') has no gold output in "),
    ],
)
def test_a_bad_question_is_named_with_its_field(tmp_path, fields, said):
    questions, outputs = one(tmp_path, **fields)
    assert refusal(questions, outputs).startswith(f"{questions}: {said}")


@pytest.mark.parametrize(
    ("task", "record", "said"),
    [
        (6, 5, " is a number, not an object"),
        (6, {"text": "a"}, " has the fields text; task 6 wants {text, title}"),
        (5, {"title": "a"}, " has the fields title; task 5 wants {abstract, title}"),
        (7, {}, " has the fields none; task 7 wants {text}"),
        (2, {"tag": "a"}, " wants {description, tag} or {text, category}"),
        (6, {"text": "a", "title": 5}, ": field 'title' is a number; write text"),
        (6, {"text": 5, "title": "a"}, ": field 'text' is a number; write text"),
        (3, {"text": "a", "score": True}, ": field 'score' is true or false; write text"),
        (6, {"text": "a", "title": "b\0"}, ": field 'title' holds a NUL at character 2"),
        (7, {"text": "a", "id": []}, ': field "id" is an array'),
        (7, {"text": "a", "date": "soon"}, ': field "date" is "soon"; write ISO 8601'),
        (7, {"text": "a", "date": "2014-13"}, ': field "date" is "2014-13-01"'),
    ],
)
def test_a_bad_profile_record_is_named_with_its_field(tmp_path, task, record, said):
    good = {"text": "a", "title": "b", "abstract": "c", "tag": "d", "description": "", "score": "1"}
    questions, outputs = one(tmp_path, task, profile=[good, record])
    message = refusal(questions, outputs)
    assert message.startswith(f"{questions}: question 1 (id '7'), profile record 2")
    assert said in message


def test_an_id_that_comes_twice_is_refused(tmp_path):
    questions, outputs = one(tmp_path)
    lamp.write_json(questions, json.loads(questions.read_text()) * 2)
    assert refusal(questions, outputs) == f"{questions}: question 2: id '7' comes twice"
    twice = {"task": "LaMP_6", "golds": [{"id": "7", "output": "a"}] * 2}
    lamp.write_json(outputs, twice)
    assert refusal(questions, outputs) == f"{outputs}: gold 2: id '7' comes twice"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], " is a list, not an object with task and golds"),
        ({"golds": []}, ": field 'task' is None, not named LaMP_1 to LaMP_7"),
        ({"task": "LaMP_8", "golds": []}, ": field 'task' is 'LaMP_8', not named"),
        ({"task": "LaMP_60", "golds": []}, ": field 'task' is 'LaMP_60', not named"),
        ({"task": "LaMP_6"}, ": field 'golds' is missing or null; a list is wanted"),
        ({"task": "LaMP_6", "golds": [3]}, ": gold 1 is a number, not an object"),
        (
            {"task": "LaMP_6", "golds": [{"id": "7"}]},
            ": gold 1 (id '7'): field 'output' is missing",
        ),
        ({"task": "LaMP_6", "golds": [{"output": "a"}]}, ": gold 1: field 'id' is missing"),
    ],
)
def test_a_bad_outputs_file_is_named_with_its_field(tmp_path, value, said):
    questions, outputs = one(tmp_path)
    lamp.write_json(outputs, value)
    assert refusal(questions, outputs).startswith(f"{outputs}{said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", " does not start a JSON array"),
        ('{"id": "7"}', " does not start a JSON array"),
        ("[3]", ": question 1 is a number, not an object"),
        ('[{"id": "7", "input": "a", "profile": []}, {"id":', ": not valid JSON after element 1:"),
        ('[{"id": "7", "input": "a", "profile": [}]', ": not valid JSON after element 0:"),
        ('[{"id": "7", "input": "a", "profile": [NaN]}]', ": not valid JSON after element 0:"),
    ],
)
def test_a_questions_file_that_is_no_array_of_questions_is_refused(tmp_path, text, said):
    questions, outputs = one(tmp_path)
    questions.write_text(text)
    assert refusal(questions, outputs).startswith(f"{questions}{said}")


def test_text_that_is_not_utf_8_is_refused(tmp_path):
    questions, outputs = one(tmp_path)
    questions.write_bytes(questions.read_bytes().replace(b"Do it", b"Do \xff"))
    assert refusal(questions, outputs).startswith(f"{questions}: not valid JSON after element 0:")
    outputs.write_bytes(outputs.read_bytes().replace(b"done", b"\xff"))
    assert refusal(questions, outputs).startswith(f"{outputs}: not valid JSON:")


def test_a_missing_file_names_both_forms_of_it(tmp_path):
    with pytest.raises(DataError, match=r"dev_outputs\.json nor dev_outputs\.json\.gz"):
        list(read_questions(tmp_path, "dev"))


def test_a_folder_in_a_file_s_place_is_refused(tmp_path):
    questions, outputs = one(tmp_path)
    questions.unlink()
    questions.mkdir()
    assert refusal(questions, outputs).startswith(f"{questions}: cannot be read: Is a directory")


# --- a chosen subset --------------------------------------------------------------------------


def uneven(tmp_path):
    """Files of 12 questions of user 0 and 2 each of users 1 to 4."""
    many, golds = lamp.records(6, "shared", users=1, each=12)
    few, more = lamp.records(6, "shared", users=5, each=2)
    golds["golds"] += more["golds"][2:]
    questions = lamp.write_json(tmp_path / "q.json", many + few[2:])
    return questions, lamp.write_json(tmp_path / "o.json", golds)


def test_a_subset_is_spread_over_users_and_stays_in_the_file_s_order(tmp_path):
    files = uneven(tmp_path)
    order = [q.id for q in open_questions(*files)]
    assert len(order) == 20
    for limit, most in ((3, 1), (5, 1), (8, 2), (10, 2)):
        chosen = list(choose(*files, limit, 0))
        users = [q.user for q in chosen]
        assert len(chosen) == limit
        assert max(map(users.count, users)) == most
        assert len(set(users)) == min(limit, 5)
        assert sorted(chosen, key=lambda q: order.index(q.id)) == chosen


def test_a_subset_hangs_on_its_seed_and_grows_with_its_limit(tmp_path):
    files = uneven(tmp_path)
    ids = {(seed, n): [q.id for q in choose(*files, n, seed)] for seed in range(6) for n in (4, 9)}
    assert [q.id for q in choose(*files, 4, 0)] == ids[0, 4]
    assert len({tuple(ids[seed, 4]) for seed in range(6)}) > 1
    assert all(set(ids[seed, 4]) < set(ids[seed, 9]) for seed in range(6))


def test_no_limit_or_one_beyond_the_file_chooses_every_question(tmp_path):
    files = uneven(tmp_path)
    everything = list(open_questions(*files))
    assert list(choose(*files, None, 0)) == everything
    assert list(choose(*files, 99, 0)) == everything


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing_is_refused(tmp_path, limit):
    with pytest.raises(DataError, match=f"limit of {limit} leaves no question"):
        list(choose(*uneven(tmp_path), limit, 0))


# --- predictions ------------------------------------------------------------------------------


def test_predictions_pass_the_official_script_s_checks(tmp_path):
    folder = lamp.write(tmp_path, 6, "time")
    golds = json.loads((folder / "dev_outputs.json").read_text())
    answers = {q.id: f"“{q.output}”\n" for q in read_questions(folder, "dev")}
    path = tmp_path / "preds.json"
    write_predictions(path, task_name(folder / "dev_outputs.json"), answers)
    with path.open(encoding="ascii") as file:  # whatever the reader's locale
        read = json.load(file)
    assert set(read) == {"task", "golds"}
    assert read["task"] == golds["task"] == "LaMP_6"
    assert {p["id"] for p in read["golds"]} == {g["id"] for g in golds["golds"]}
    assert {p["id"]: p["output"] for p in read["golds"]} == answers
    assert read_golds(path) == answers  # the form is that of the golds
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["preds.json"]


# --- other people's histories -----------------------------------------------------------------


def crowd(users, each=2) -> list[Question]:
    return [
        Question(f"{u}-{i}", f"u{u}", 6, "Do it", "a b", (Note(f"by u{u} {i}"),))
        for u in range(users)
        for i in range(each)
    ]


@pytest.mark.parametrize(("users", "each"), [(2, 1), (2, WINDOW + 40), (3, 5), (3 * WINDOW, 2)])
def test_every_question_is_paired_with_another_user_s_history(users, each):
    questions = crowd(users, each)
    pairs = list(with_swaps(questions, 0))
    assert [asked for asked, _ in pairs] == questions
    for asked, [note] in pairs:
        assert not note.output.startswith(f"by {asked.user} ")


def test_pairs_hang_on_the_seed_alone_and_many_people_give():
    questions = crowd(WINDOW, 1)
    assert list(with_swaps(iter(questions), 0)) == list(with_swaps(questions, 0))
    assert list(with_swaps(questions, 0)) != list(with_swaps(questions, 1))
    assert len({history for _, history in with_swaps(questions, 0)}) > WINDOW / 3


def test_questions_are_read_ahead_by_a_window_only():
    read = []

    def reading():
        for asked in crowd(10 * WINDOW, 1):
            read.append(asked)
            yield asked

    next(with_swaps(reading(), 0))
    assert len(read) == WINDOW


def test_who_has_no_notes_gives_none_but_is_given_some():
    questions = [*crowd(2, 1), Question("n", "new", 6, "Do it", "a b", ())]
    assert all(history for _, history in with_swaps(questions, 0))


def test_pairing_needs_a_second_user_with_notes():
    newcomer = Question("n", "new", 6, "Do it", "a b", ())
    for questions in (crowd(1, 3), [*crowd(1, 1), newcomer]):
        with pytest.raises(DataError, match="no user but u0 has notes: nobody to swap with"):
            list(with_swaps(questions, 0))


def test_swapped_histories_are_of_another_user_of_the_same_task():
    questions = [
        question([Note(f"note of {user} {task}")], task, user) for task in (4, 6) for user in "abc"
    ]
    for own, theirs in zip(questions, swap_histories(questions, 0), strict=True):
        [note] = theirs
        assert note.output.endswith(str(own.task))
        assert f"of {own.user} " not in note.output


def test_swapping_needs_a_second_user():
    with pytest.raises(ValueError, match="nobody to swap with"):
        swap_histories([question(), question()], 0)
