"""The grades of answers as chat models write them agree with those of a person."""

from __future__ import annotations

import pytest

from routewright.answers.claims import claims
from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.grading.graders import Graders, build
from routewright.types import Query

CAPITAL = "What is the capital of Germany?"
CLIPS = "Natalia sold 48 clips in April, and half as many in May. How many in all?"
WHALE = "Is a whale a fish?"
OPTIONS = "Which is a colour?\nA. seven\nB. green\nC. bread\nD. loud"


def grade(question, reference, answer, grader="auto", **facts) -> float:
    item = Item(Query.of(question), reference=reference, facts=facts)
    score: float = Graders([grader]).of(item).grade(item, answer).score
    return score


IPHONE = "In which year was the first iPhone released?"
HIGHEST = "Which is the tallest mountain in Africa?"
RIGHT = [
    ("When did Columbus land?", "1492", "# 1492\n\nHe landed in the Bahamas on 12 October."),
    ("Who discovered radium?", "Marie Curie", "It was Marie Skłodowska Curie."),
    (IPHONE, "2007", "It was released in 2007, a year after the announcement in 2006."),
    (HIGHEST, "Mount Kilimanjaro", "It is Mount Kilimanjaro, just ahead of Mount Kenya."),
    ("What is the currency of Poland?", "złoty", "The Polish zloty (PLN)."),
    ("What is the currency of Poland?", "zloty", "Poland uses the **złoty**."),
    ("Who discovered electromagnetism?", "Hans Christian Ørsted", "Hans Christian Orsted."),
    ("Which letter is it?", "encyclopædia", "It is an encyclopaedia."),
    *(
        (CAPITAL, "Berlin", answer)
        for answer in (
            "Berlin",
            "berlin.",
            "The answer is Berlin.",
            "The capital of Germany is Berlin.",
            "**Berlin**",
            "Answer: Berlin",
            "**Answer:** Berlin",
            "## Answer\n\nBerlin",
            "The capital is **Berlin**. It has 3.7 million people. Let me know if you need more!",
            "Let's think. Bonn was the capital of West Germany. Therefore, it is Berlin.",
            "\\boxed{\\text{Berlin}}",
            "It's Berlin, not Bonn.",
            "It is not Bonn but Berlin.",
            "Germany's capital isn't Bonn, it's Berlin.",
            "Great question! The capital is Berlin. It is large too. Its mayors change often.",
            "<think>Bonn? no</think>Berlin",
            "Berlin is the correct answer, since 1990.",
            "There is no doubt that it is Berlin.",
            "Not only is it the biggest city, Berlin is also the capital.",
            "I think it's Berlin.",
            "- **Capital:** Berlin",
            "The final answer is $\\boxed{Berlin}$.",
        )
    ),
    (CLIPS, "72", "She sold 48/2 = 24 clips in May. Altogether she sold 48 + 24 = 72 clips."),
    (CLIPS, 72, "48 + 24 = **72**\n\nSo she sold **72 clips** in these 2 months."),
    ("When was the Declaration signed?", "1776", "It was signed in 1776, by 56 delegates."),
    ("How tall is the Eiffel Tower?", "330", "It is 330 metres (1,083 ft) tall."),
    ("How tall is the Eiffel Tower?", "330 m", "It is 330 metres tall."),
    ("How many continents are there?", 7, "There are seven continents."),
    ("How many continents are there?", "seven", "There are 7 continents."),
    ("How many people live in Berlin?", "3700000", "About 3.7 million people"),
    ("Which share?", "25%", "It is 25 percent."),
    ("What do they cost?", "$1,250", "So they cost **$1,250.00**."),
    ("What is the probability?", "0.5", "The probability is 1/2."),
    ("Solve x + 1 = 4.", "3", "So x = 3."),
    (WHALE, "no", "No, a whale is a mammal."),
    (WHALE, "no", "A whale breathes air. So the answer is no."),
    (WHALE, "false", "That statement is false."),
    ("When?", "July 4, 1776", "It was signed on the 4th of July, 1776."),
    ("Who wrote it?", ["Mark Twain", "Samuel Clemens"], "It was written by Samuel Clemens."),
    ("Who wrote it?", "J. R. R. Tolkien", "J.R.R. Tolkien wrote The Hobbit."),
    ("Where is the Hermitage?", "St. Petersburg", "It is in St. Petersburg."),
    ("Which city?", "São Paulo", "Sao Paulo."),
    ("Which molecule?", "H2O", "Water is H₂O."),
    (OPTIONS, "B", "**B) green**"),
    (OPTIONS, "B", "The correct answer is option B."),
    (OPTIONS, "green", "Only one of these is a colour: green."),
    (OPTIONS, "B", "It is not A, but B."),
    ("Which? (a) Rust (b) HTTP", "a", "The language is option (a)."),
    ("Who wrote it?\n1) Virgil\n2) Homer", "2", "Homer"),
    ("Is 91 prime?", "no", "If 91 is prime, 7 does not divide it. Therefore 91 is not prime."),
    ("Which tool? A) Rust B) HTTP C) PNG", "A", "The language among these is Rust."),
    ("Which lake is the deepest?", "Lake Baikal", "Baikal"),
    ("Who painted it?", "Pablo Picasso", "Picasso"),
    ("Which code?", "E-204", "**Error code: `E204`**\n\nSwitch off for **30 minutes**."),
    ("Which shortcut?", "Ctrl+K", "Press Ctrl + K (or \u2318K on a Mac)."),
    ("When is it open?", "9 am to 1 pm", "9:00\u201313:00"),
    ("When does it end?", "16:05", "It ends at 4:05 PM."),
    ("How long is it?", "2 hours 30 minutes", "150 minutes"),
    ("How many days?", 28, "They get **28 days**.\n\n- Up to **5 days** can be carried over"),
    ("What is 15% of 240?", 36, "thirty-six"),
    ("When did the wall fall?", 1989, "Nineteen eighty-nine."),
    ("How much is the fee?", "\u20ac15", "If you pay late, a fee of EUR 15 is charged."),
    ("Which area?", "54 cm\u00b2", "54 square centimeters"),
    ("Which method?", "dropna", "Use `df.dropna()`."),
    ("Which command?", "git stash", "Run this:\n\n```bash\ngit stash\n```\n\n- `--all` takes more"),
    ("Is Pluto a planet?", "no", "Pluto is not a planet."),
    ("Which ways to pay?", "PayPal and cash", "- **Cash**\n- **PayPal** (at once)"),
    ("As JSON?", {"name": "Ada", "age": 36}, 'Sure!\n```json\n{"age": 36, "name": "Ada"}\n```'),
    ("Which is larger, Jupiter or Saturn?", "Jupiter", "Jupiter is larger than Saturn."),
    ("Which country?", "USA", "the United States of America"),
    ("Which country won?", "United Kingdom", "The UK won."),
    ("Which vitamin is good for the eyes?", "vitamin A", "It is **vitamin A**."),
    ("When did it land?", "1969-07-20", "It landed on July 20, 1969."),
    ("When did it land?", "July 20, 1969", "20/07/1969"),
    ("When did it land?", "July 20, 1969", "07/20/1969"),
    ("When did it land?", "July 20, 1969", "20.07.1969"),
    ("When did it land?", "July 20, 1969", "It left on July 16, 1969 and landed on July 20, 1969."),
    ("On what day in 1969 did it land?", "July 20, 1969", "On July 20."),
    ("Which war?", "World War II", "World War 2"),
    ("Which king?", "Henry VIII", "Henry the Eighth"),
    ("Who was it?", "Martin Luther King Jr.", "Martin Luther King"),
    ("Who was it?", "John F. Kennedy", "President Kennedy"),
    ("Who was it?", "Neil Armstrong", "Astronaut Neil A. Armstrong was the first."),
    ("Who was it?", "Schr\u00f6dinger", "Schroedinger"),
    ("Which river?", "River Thames", "the Thames"),
    ("Which colours?", "red, white and blue", "blue, white and red"),
    ("List the planets in order.", "Mercury, Venus, Earth", "1. Mercury\n2. Venus\n3. Earth"),
    ("Which gas?", "carbon dioxide (CO2)", "Carbon dioxide"),
    ("Which colour?", "grey/gray", "gray"),
    ("How long?", "24 months", "2 years"),
    ("How long?", "90 minutes", "It takes 1 hour and 30 minutes."),
    ("How far?", "5 km", "5000 m"),
    ("What is pi?", "3.14", "3.14159"),
    ("What share?", "0.25", "a quarter"),
    ("What is left?", "5/8", "$\\frac{5}{8}$"),
    ("How much?", "$5.50", "5 dollars and 50 cents"),
    ("How many?", "150", "a hundred and fifty"),
    ("What is it?", "Ankara", "Ankara. Let me double-check: yes, that is correct."),
    ("What is it?", "Ankara", "I think it's Istanbul. Hmm, no; it is Ankara."),
    (
        "What is the capital of Turkey?",
        "Ankara",
        "| Country | City |\n|---|---|\n| Turkey | Ankara |",
    ),
    ("What is the capital of Turkey?", "Ankara", "# Ankara"),
    ("What is the capital of Turkey?", "Ankara", "The capital of Turkey is:\n\nAnkara\n\nEnjoy!"),
    ("What is the capital of Turkey?", "Ankara", "\\(\\text{Ankara}\\)"),
    ("Who is the CEO?", "Haddad", "**Founder:** Kurz\n**CEO:** Haddad"),
    ("What is the sum?", "11", "- Goalkeeper: 1\n- Players: 10\n\n**Total: 11**"),
    ("Is 17 prime?", "yes", "17 is prime, as it has no divisors other than 1 and itself."),
    ("Which gas?\nA. Nitrogen\nB. Oxygen", "oxygen", "B."),
    ("Who?\nA. Isaac Newton\nB. Albert Einstein", "B", "Einstein, of course."),
    ("Which?\nA. Paris\nB. London", "A", "Option B is wrong, so A."),
    ("Where was she born?", "Paris, France", "Paris"),
]
WRONG = [
    ("Who discovered radium?", "Marie Curie", "Pierre Curie"),
    ("Who was the second president?", "John Adams", "It was John Quincy Adams."),
    (IPHONE, "2007", "It was released in 2008, a year after its announcement in 2007."),
    (HIGHEST, "Mount Kilimanjaro", "It is Mount Kenya, just ahead of Mount Kilimanjaro."),
    *(
        (CAPITAL, "Berlin", answer)
        for answer in (
            "Bonn",
            "The answer is Bonn.",
            "not Berlin",
            "It is not Berlin.",
            "either Bonn or Berlin",
            "Berlin or Bonn",
            "It could be Berlin or Bonn.",
            "It might be Berlin.",
            "Berlin isn't the capital; Bonn is.",
            "Many people think it is Berlin, but the capital is Bonn.",
            "Is it Berlin? No.",
            "The answer is Bonn, not Berlin.",
            "I don't know.",
            "",
            "Berliner",
            "The capital is Bonn rather than Berlin.",
            "Unlike Berlin, Bonn is the capital.",
            "Berlin, however, is not the capital. It is Bonn.",
            "The candidates are Bonn, Berlin and Hamburg. The answer is Hamburg.",
            "I can't decide between Bonn and Berlin.",
            "It's neither Bonn nor Berlin.",
            "**Bonn** or **Berlin**",
        )
    ),
    (CLIPS, "24", "She sold 48/2 = 24 clips in May. Altogether she sold 48 + 24 = 72 clips."),
    ("When was the Declaration signed?", "1776", "It was signed in 1777."),
    ("When was the Declaration signed?", "1776", "either 1775 or 1776"),
    ("When was the Declaration signed?", "1776", "It was not 1776."),
    ("How tall is the Eiffel Tower?", "330 m", "It is 330 feet tall."),
    ("How many continents are there?", "8", "There are seven continents."),
    ("How cold?", "5", "The answer is -5."),
    (WHALE, "no", "Yes, it is."),
    (WHALE, "true", "That is not true."),
    ("When?", "July 4, 1776", "July 5, 1776"),
    (CAPITAL, "Berlin", "Ist es Berlin oder Bonn? Bonn und nicht Berlin."),
    ("Which planet is the largest?", "Jupiter", "Saturn, which is even larger than Jupiter."),
    ("Who discovered it?", "Fleming", "Pasteur discovered it, and Fleming later got the prize."),
    ("What is the user of the Vantage?", "vantage", 'The user of the Vantage is "admin".'),
    ("Where is it?", "Dresden", "It's in Leipzig, about 100 km from Dresden."),
    ("How many legs?", "8", "**6 legs** (8 eyes, though!)"),
    ("Which capital?", "Ankara", "Ankara. Actually, the capital is Istanbul."),
    ("When did it start?", 1949, "In 1990, 41 years after 1949."),
    ("Which port?", "443", "It is **80** or **443**, as configured."),
    (OPTIONS, "B", "B or C"),
    (OPTIONS, "B", "It is not B."),
    (OPTIONS, "B", "The answer is (C)."),
    ("As JSON?", {"name": "Ada", "age": 36}, '{"name": "Ada", "age": "36"}'),
    ("In which city is the Minster?", "York", "It is in New York."),
    ("Which model?", "GPT-4o", "GPT-4o mini"),
    ("Who was it?", "John Adams", "John Quincy Adams"),
    ("Who was it?", "Maria Lindqvist", "It was Jonas Lindqvist."),
    ("Which language?", "C", "It is written in C++."),
    ("Which vitamin is good for the eyes?", "vitamin A", "Vitamin C is."),
    (
        "When did it land?",
        "July 20, 1969",
        "It left on July 20, 1968, and landed on July 24, 1969.",
    ),
    ("Which colours?", "red, white and blue", "The flag is red, white, blue and green."),
    ("List the planets in order.", "Mercury, Venus, Earth", "Venus, Mercury, Earth"),
    ("How far?", "5 km", "5 miles"),
    ("Which company developed the iPhone?", "Apple", "Google developed the iPhone, as did Apple."),
    ("Who is the CEO?", "Haddad", "**Founder:** Haddad\n**CEO:** Kurz"),
    (
        "What is the capital of Turkey?",
        "Ankara",
        "| Country | City |\n|---|---|\n| Turkey | Bursa |",
    ),
    ("Is it blue?", "yes", "Yes and no."),
    ("Is it blue?", "yes", "It depends."),
    ("Is it blue?", "yes", "Not quite."),
    ("Can I return it after 20 days?", "yes", "Therefore, you cannot return it."),
    ("Which?\nA. Paris\nB. London", "A", "A and B"),
]


@pytest.mark.parametrize(("question", "reference", "answer"), RIGHT)
def test_a_right_answer_counts_in_whatever_style(question, reference, answer):
    assert grade(question, reference, answer) == 1


@pytest.mark.parametrize(("question", "reference", "answer"), WRONG)
def test_a_wrong_negated_or_hedged_answer_does_not_count(question, reference, answer):
    assert grade(question, reference, answer) == 0


@pytest.mark.parametrize(
    ("reference", "facts", "name"),
    [
        ("72", {}, "numeric"),
        (0.5, {}, "numeric"),
        ("Berlin", {}, "match"),
        (["NYC", "New York"], {}, "match"),
        ('{"a": 1}', {}, "json"),
        ({"a": 1}, {}, "json"),
        ("B", {"choices": ["one", "two"]}, "multiple_choice"),
        (None, {"schema": {"type": "object"}}, "json_schema"),
        ("B", {}, "match"),
        ("word " * 30, {}, None),
        (None, {}, None),
        (None, {"rubric": "be kind"}, None),
    ],
)
def test_auto_chooses_by_the_reference(reference, facts, name):
    item = Item(Query.of("question"), reference=reference, facts=facts)
    assert Graders(["auto"]).name_of(item) == name
    assert Graders(["auto", "judge=wise"]).name_of(item) == (name or "judge")


def test_auto_counts_its_graders_and_refuses_a_set_that_nobody_can_grade():
    joke = Item(Query.of("Tell a joke."))
    number = Item(Query.of("2 + 2?"), reference="4")
    assert Graders(["auto"]).check([number, number, joke]) == {"numeric": 2, "none": 1}
    with pytest.raises(BadInput, match="--grader judge=EXPERT"):
        Graders(["auto"]).check([joke])
    with pytest.raises(BadInput, match="reference"):
        Graders(["exact"]).check([joke])
    assert Graders(["auto", "judge=wise"]).check([joke]) == {"judge": 1}


@pytest.mark.parametrize(
    ("grader", "answer", "score"),
    [
        ("includes", "it was not berlin", 1),
        ("includes=case", "it was not berlin", 0),
        ("match=end", "It is Berlin.", 1),
        ("match=end", "Berlin it is", 0),
        ("match=begin", "  berlin it is", 1),
        ("match=any", "not Berlin at all", 1),
        ("match=exact", "Berlin!", 1),
        ("match=exact", "It is Berlin", 0),
        ("pattern=ANSWER: (\\w+)", "so answer: berlin", 1),
        ("pattern=ANSWER: (\\w+)", "answer: bonn", 0),
        ("pattern=(\\w+) or (\\w+)", "Bonn or Berlin", 1),
        ("pattern=\\w+$", "It is Berlin", 1),
        ("pattern=ANSWER", "no mark", 0),
    ],
)
def test_the_graders_that_inspect_ai_has_mean_the_same(grader, answer, score):
    assert grade(CAPITAL, "Berlin", answer, grader) == score


def test_a_pattern_that_takes_for_ever_leaves_an_answer_ungraded():
    grader = build("pattern=(a+)+$")
    result = grader.grade(Item(Query.of("q"), reference="b"), "a" * 5000 + "!")
    assert "took longer" in result.why
    with pytest.raises(BadInput, match="regular expression"):
        build("pattern=(a")


def test_an_answer_of_any_shape_is_read():
    for answer in (
        "\\boxed{" * 5000,
        "**" * 9999,
        "####" * 9999,
        "= " * 9999,
        "9" * 9999,
        "\ud800",
    ):
        claims(answer)
        for reference in ("4", "Berlin", "yes", "July 4, 1776"):
            assert grade("question", reference, answer) in (0, 1) or answer[0] in "9\\"


REJECTED = "Many people believe the answer is {}, but that is wrong. {}"


@pytest.mark.parametrize("form_of_answer", ["{}", "Great question! {}"])
@pytest.mark.parametrize(
    ("question", "right", "wrong", "sentence"),
    [
        (CAPITAL, "Berlin", "Bonn", "The capital of Germany is {}."),
        ("How long is a marathon?", "42.195 km", "40 km", "A marathon is {} long."),
        ("What is the average of 4, 8 and 15?", "9", "8", "The average is {}."),
        ("Was kostet beides zusammen?", "3,70 \u20ac", "3,50 \u20ac", "Zusammen kostet das {}."),
    ],
)
def test_an_answer_that_is_named_only_to_be_rejected_is_no_claim(
    question, right, wrong, sentence, form_of_answer
):
    german = question.startswith("Was kostet")
    form = "Viele denken an {}, aber das stimmt nicht. {}" if german else REJECTED
    answers = [
        form_of_answer.format(form.format(a, sentence.format(b)))
        for a, b in [(wrong, right), (right, wrong)]
    ]
    assert [grade(question, right, answer) for answer in answers] == [1, 0]


def test_a_rejected_view_after_the_answer_takes_nothing_back():
    answer = "The answer is Berlin. Many say Bonn, but that is wrong. Bonn was it until 1990."
    assert grade(CAPITAL, "Berlin", answer) == 1
