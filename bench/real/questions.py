"""Questions that a small language model can answer in part: eight kinds, each with one answer.

>>> [question] = questions(1)
>>> question["prompt"], question["reference"]
('Answer briefly. What is the capital of France?', 'Paris')
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any

CAPITALS = """France:Paris Italy:Rome Spain:Madrid Germany:Berlin Japan:Tokyo Egypt:Cairo
Portugal:Lisbon Greece:Athens Poland:Warsaw Austria:Vienna Norway:Oslo Sweden:Stockholm
Finland:Helsinki Denmark:Copenhagen Ireland:Dublin Hungary:Budapest Russia:Moscow China:Beijing
Cuba:Havana Kenya:Nairobi Peru:Lima Turkey:Ankara Canada:Ottawa Australia:Canberra Iran:Tehran
Iraq:Baghdad Thailand:Bangkok Vietnam:Hanoi Belgium:Brussels Bulgaria:Sofia Romania:Bucharest
Croatia:Zagreb Serbia:Belgrade Ukraine:Kyiv Estonia:Tallinn Latvia:Riga Lithuania:Vilnius
Slovakia:Bratislava Slovenia:Ljubljana Iceland:Reykjavik Morocco:Rabat Tunisia:Tunis
Algeria:Algiers Ethiopia:Addis_Ababa Ghana:Accra Nigeria:Abuja Senegal:Dakar Uganda:Kampala
Zambia:Lusaka Angola:Luanda Chile:Santiago Bolivia:Sucre Ecuador:Quito Colombia:Bogota
Uruguay:Montevideo Venezuela:Caracas Nepal:Kathmandu Mongolia:Ulaanbaatar Indonesia:Jakarta
Philippines:Manila Cambodia:Phnom_Penh Jordan:Amman Lebanon:Beirut Cyprus:Nicosia"""
ELEMENTS = """hydrogen:H helium:He lithium:Li carbon:C nitrogen:N oxygen:O fluorine:F neon:Ne
sodium:Na magnesium:Mg aluminium:Al silicon:Si phosphorus:P sulfur:S chlorine:Cl argon:Ar
potassium:K calcium:Ca titanium:Ti chromium:Cr manganese:Mn iron:Fe cobalt:Co nickel:Ni copper:Cu
zinc:Zn silver:Ag tin:Sn iodine:I gold:Au mercury:Hg lead:Pb uranium:U"""
NUMBERS = """hydrogen:1 helium:2 lithium:3 beryllium:4 boron:5 carbon:6 nitrogen:7 oxygen:8
fluorine:9 neon:10 sodium:11 magnesium:12 aluminium:13 silicon:14 phosphorus:15 sulfur:16
chlorine:17 argon:18 potassium:19 calcium:20 iron:26 copper:29 zinc:30 silver:47 tin:50 gold:79
mercury:80 lead:82 uranium:92"""
YEARS = """did_the_First_World_War_begin:1914 did_the_First_World_War_end:1918
did_the_Second_World_War_begin:1939 did_the_Second_World_War_end:1945
did_Columbus_first_reach_America:1492 did_humans_first_land_on_the_Moon:1969
did_the_Berlin_Wall_fall:1989 did_the_French_Revolution_begin:1789
was_the_American_Declaration_of_Independence_signed:1776 did_the_Titanic_sink:1912
was_the_Battle_of_Hastings:1066 was_Magna_Carta_sealed:1215 was_the_Battle_of_Waterloo:1815
did_the_Great_Fire_of_London_take_place:1666 was_John_F._Kennedy_shot:1963
did_the_Russian_Revolution_take_place:1917 did_the_American_Civil_War_begin:1861
did_the_American_Civil_War_end:1865 was_the_United_Nations_founded:1945
did_Constantinople_fall_to_the_Ottomans:1453 did_the_Soviet_Union_dissolve:1991
was_Sputnik_launched:1957 did_India_become_independent:1947 did_Napoleon_die:1821
was_Abraham_Lincoln_shot:1865 did_the_Spanish_Armada_sail_against_England:1588
did_the_Chernobyl_disaster_happen:1986 was_Julius_Caesar_murdered:44_BC
was_the_euro_introduced_as_cash:2002 did_the_Wright_brothers_first_fly:1903"""
MONTHS = """January February March April May June July August September October November
December""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
WORDS = """apple bread chair table house river mountain garden window bottle orange yellow
summer winter doctor teacher school church market bridge castle forest island ocean desert planet
rocket engine camera guitar violin carpet blanket pillow kitchen bathroom hospital library museum
theatre station airport village country language question answer number letter pencil paper
scissors hammer""".split()
UNITS = """metres:centimetres:100 kilometres:metres:1000 feet:inches:12 yards:feet:3
hours:minutes:60 minutes:seconds:60 days:hours:24 weeks:days:7 kilograms:grams:1000
centimetres:millimetres:10 years:months:12 decades:years:10""".split()
OPPOSITES = """hot:cold big:small up:down fast:slow happy:sad rich:poor young:old early:late
full:empty hard:soft open:closed wet:dry strong:weak heavy:light day:night black:white good:bad
left:right love:hate friend:enemy begin:end buy:sell win:lose push:pull north:south east:west
true:false alive:dead deep:shallow thick:thin clean:dirty loud:quiet brave:cowardly cheap:expensive
sharp:blunt smooth:rough tall:short wide:narrow near:far first:last remember:forget success:failure
arrive:depart accept:refuse ancient:modern arrival:departure victory:defeat increase:decrease
above:below inside:outside always:never before:after laugh:cry float:sink borrow:lend war:peace
question:answer entrance:exit guilty:innocent public:private"""
PEOPLE = "Anna Boris Clara David Emma Felix Greta Henry Irene Jonas Karin Louis".split()
TOWNS = "Leeds Porto Lyon Graz Turin Ghent Malmo Bergen Cork Split Brno Basel".split()
ANIMALS = "dog cat horse parrot rabbit goat hamster tortoise pony duck".split()
BRIEFLY = "Answer briefly. "  # without it, the model replies to some of them in French or Italian
Pair = tuple[str, Any]


def questions(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """The first `n` questions as rows of a query set, one of each kind in turn; half are `dev`.

    Fewer where the kinds have no more. The same seed gives the same questions.
    """
    kinds = {name: _distinct(draw(Random(f"{name} {seed}"))) for name, draw in KINDS.items()}
    rows: list[dict[str, Any]] = []
    turn = 0
    while kinds and len(rows) < n:
        for name, draws in list(kinds.items()):
            pair = next(draws, None)
            if pair is None:
                del kinds[name]
                continue
            split = "dev" if turn % 2 else "train"
            row = {
                "prompt": BRIEFLY + pair[0],
                "reference": pair[1],
                "domain": name,
                "split": split,
            }
            rows.append({"id": f"{name}-{turn}", **row})
        turn += 1
    return rows[:n]


def _distinct(draws: Iterator[Pair], tries: int = 200) -> Iterator[Pair]:
    """Every prompt once; ends where `tries` draws in a row bring nothing new."""
    prompts: set[str] = set()
    while True:
        pair = next((pair for pair in islice(draws, tries) if pair[0] not in prompts), None)
        if pair is None:
            return
        prompts.add(pair[0])
        yield pair


def _pairs(text: str) -> list[list[str]]:
    return [[part.replace("_", " ") for part in entry.split(":")] for entry in text.split()]


def capitals(rng: Random) -> Iterator[Pair]:
    for country, city in _pairs(CAPITALS):
        yield f"What is the capital of {country}?", city


def elements(rng: Random) -> Iterator[Pair]:
    pairs = [(f"What is the chemical symbol of {name}?", s) for name, s in _pairs(ELEMENTS)]
    pairs += [(f"What is the atomic number of {name}?", n) for name, n in _pairs(NUMBERS)]
    yield from rng.sample(pairs, len(pairs))


def dates(rng: Random) -> Iterator[Pair]:
    pairs = [(f"In which year {what}?", year) for what, year in _pairs(YEARS)]
    for names, unit in ((MONTHS, "month"), (DAYS, "day")):
        following = zip(names, names[1:] + names[:1], strict=True)
        for one, other in following:
            pairs.append((f"Which {unit} comes after {one}?", other))
            pairs.append((f"Which {unit} comes before {other}?", one))
    yield from rng.sample(pairs, len(pairs))


def arithmetic(rng: Random) -> Iterator[Pair]:
    """Sums, differences and products whose numbers grow from one digit to four."""
    count = 0
    while True:
        digits = 1 + count % 4
        a, b = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
        sign = "+-*"[count // 4 % 3]
        a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
        yield f"What is {a} {sign} {b}?", str({"+": a + b, "-": a - b, "*": a * b}[sign])
        count += 1


def units(rng: Random) -> Iterator[Pair]:
    while True:
        large, small, factor = rng.choice(UNITS).split(":")
        n = rng.randrange(1, 25)
        yield f"How many {small} are in {n} {large}?", str(n * int(factor))


def spelling(rng: Random) -> Iterator[Pair]:
    while True:
        word = rng.choice(WORDS)
        ask, answer = rng.choice(
            [
                (f"What is the first letter of the word '{word}'?", word[0]),
                (f"What is the last letter of the word '{word}'?", word[-1]),
                (f"How many letters does the word '{word}' have?", str(len(word))),
                (f"Spell the word '{word}' backwards.", word[::-1]),
            ]
        )
        yield ask, answer


def passages(rng: Random) -> Iterator[Pair]:
    while True:
        (a, b), (x, y), (p, q) = (rng.sample(names, 2) for names in (PEOPLE, TOWNS, ANIMALS))
        year = rng.randrange(1950, 2020)
        text = (
            f"{a} grew up in {x} and kept a {p}. In {year} {a} moved to {y}, where {b} lived"
            f" with a {q}. The two of them opened a bakery there."
        )
        ask, answer = rng.choice(
            [
                (f"Where did {a} grow up?", x),
                (f"Where did {b} live?", y),
                (f"Which animal did {a} keep?", p),
                (f"Which animal did {b} live with?", q),
                (f"In which year did {a} move?", str(year)),
                ("What did the two of them open?", "a bakery"),
                (f"Who lived in {y} before {a} did?", b),
            ]
        )
        yield f"{text}\n\n{ask}", answer


def opposites(rng: Random) -> Iterator[Pair]:
    for word, opposite in _pairs(OPPOSITES):
        yield f"What is the opposite of '{word}'?", opposite


KINDS: dict[str, Callable[[Random], Iterator[Pair]]] = {
    "capitals": capitals,
    "elements": elements,
    "dates": dates,
    "arithmetic": arithmetic,
    "units": units,
    "spelling": spelling,
    "passages": passages,
    "opposites": opposites,
}
