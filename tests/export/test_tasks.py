import pytest

from export.data.tasks import MOVIE_TAGS, NEWS_CATEGORIES, task_of
from tests.export import lamp

KINDS = {1: "labels", 2: "labels", 3: "rating", 4: "text", 5: "text", 6: "text", 7: "text"}


@pytest.mark.parametrize("number", lamp.TASKS)
def test_every_task_is_found_by_its_number(number):
    task = task_of(number)
    assert (task.number, task.kind) == (number, KINDS[number])


@pytest.mark.parametrize("number", [0, 8, -1])
def test_other_numbers_are_refused(number):
    with pytest.raises(ValueError, match=f"no LaMP task {number}; they are numbered 1 to 7"):
        task_of(number)


@pytest.mark.parametrize("number", lamp.TASKS)
def test_a_closed_task_offers_its_gold_and_an_open_one_nothing(number):
    task = task_of(number)
    for user in range(4):
        prompt, gold = lamp.asked(number, user, 7 + user)
        options = task.options(prompt)
        assert (gold in options) if task.kind != "text" else options == ()


def test_tags_are_those_that_the_prompt_lists_in_its_order():
    news = (
        "Which category does this article relate to among the following categories? Just answer "
        "with the category name without further explanation. categories: [women, religion, food & "
        "drink] article: A loaf [of bread]."
    )
    assert task_of(2).options(news) == ("women", "religion", "food & drink")
    assert task_of(2).source(news) == "A loaf [of bread]."


def test_without_a_list_the_tags_are_the_official_fifteen():
    assert task_of(2).options("Which tag? description: tags of paint []") == MOVIE_TAGS
    assert len(set(MOVIE_TAGS)) == len(set(NEWS_CATEGORIES)) == 15


def test_ratings_and_references_are_fixed():
    assert task_of(3).options("review: a [1] of 2") == ("1", "2", "3", "4", "5")
    assert task_of(1).options("anything") == ("[1]", "[2]")


SOURCES = {
    2: ("... tags: [a, b] description: A ship: it sinks.", "A ship: it sinks."),
    3: ("... explanation. review: Dull. My review: no.", "Dull. My review: no."),
    4: ("Generate a headline for the following article: An article: new.", "An article: new."),
    5: (
        "Generate a title for the following abstract of a paper: This paper: we parse.",
        "This paper: we parse.",
    ),
    6: ("Generate a subject for the following email: re: lunch\n", "re: lunch"),
    7: (
        "Paraphrase the following tweet without any explanation before or after it: go: mets",
        "go: mets",
    ),
}


@pytest.mark.parametrize("number", SOURCES)
def test_the_source_is_what_stands_behind_the_instruction(number):
    prompt, source = SOURCES[number]
    assert task_of(number).source(prompt) == source


def test_the_source_of_a_citation_is_both_titles_quotes_and_all():
    prompt = (
        'For an author who has written the paper with the title "On "Trees"", which reference is '
        'related? Just answer with [1] or [2] without explanation. [1]: "The "Big" Bank" [2]: "B"'
    )
    assert task_of(1).source(prompt) == 'The "Big" Bank B'


@pytest.mark.parametrize("number", lamp.TASKS)
@pytest.mark.parametrize("prompt", ["Do it", "", "Generate a subject:", "paper: "])
def test_a_prompt_without_its_instruction_is_its_own_source(number, prompt):
    assert task_of(number).source(prompt) == prompt


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 7])
def test_asking_about_a_source_gives_the_words_of_the_files(number):
    task = task_of(number)
    prompt, _ = lamp.asked(number, 1, 3)
    source = task.source(prompt)
    assert task.ask(source) == prompt  # the official words
    assert task.ask(source, like=prompt) == prompt
    assert task.source(task.ask("another: matter")) == "another: matter"


def test_asking_keeps_the_words_of_the_prompt_that_it_follows():
    email = "Generate a subject for the following email: lunch?"
    assert task_of(6).ask("dinner", email) == "Generate a subject for the following email: dinner"
    assert task_of(6).ask("dinner", "no colon") == task_of(6).instruction + "dinner"
