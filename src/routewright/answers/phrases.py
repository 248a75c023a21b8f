"""The phrases by which writers of answers signal what a sentence is for: a correction, a
conclusion, a pleasantry, an aside. Each table is a list of expressions, separated by "/"."""

from __future__ import annotations


def any_of(*lines: str) -> str:
    """A pattern of any of the expressions in the lines; apostrophes may be written in either way
    or left out.

    >>> any_of("thanks / let me (?:go|try)")
    'thanks|let me (?:go|try)'
    """
    expressions = [part.strip() for line in lines for part in line.split(" / ")]
    return "|".join(expressions).replace("'", "['\u2019]?")


# What takes back all that stands before it.
CORRECTION = any_of(
    r"correction: / edit: / actually, / wait[,.!\u2026\u2014-] / hold on\b / hmm\b / oops\b",
    r"(?:scratch|strike) that\b / on (?:second thought|reflection)s?\b / my mistake\b",
    r"i (?:mixed|misspoke|misread|miscounted|take that back|stand corrected)",
    r"i made an? (?:mistake|error)",
    r"let me (?:correct|reconsider|recalculate|recount|redo|re-do|rethink|try again|fix)",
    r"no, (?:that's|that is|this is) (?:wrong|incorrect|not right|not correct)",
)
# What confirms it after all.
CONFIRMATION = any_of(
    r"(?:that|this|it|which) ?(?:'s| is| was| seems| looks) (?:indeed )?(?:right|correct|fine)",
    r"checks out / confirm(?:s|ed) / still (?:stands|holds) / same (?:result|answer) / as before",
)
# How a sentence ends that names a view only to reject it.
REJECTION = any_of(
    r"but (?:that|this|it)(?:'s| is| was) (?:wrong|incorrect|false|not (?:right|correct|true|so))",
    r"but (?:that|this|it)(?:'s| is) a (?:common )?(?:mistake|misconception|myth)",
    r"but (?:that|this|it) (?:isn't|is n't) (?:right|correct|true)",
    r"aber das (?:ist (?:falsch|nicht richtig)|stimmt nicht)",
)
# What may stand before an answer in its sentence.
INTERJECTION = any_of(
    r"sure(?: thing)? / certainly / of course / absolutely / (?:great|good) question / okay / ok",
    r"alright / (?:thanks|thank you)(?: for [^.!?,]{1,40})?",
    r"here(?:'s| is| are) (?:the|my|your|a|what)\b[^:.]{0,80}(?=:)",
)
# How a sentence begins that tells no result.
FILLER = any_of(
    r"(?:great|good) question / thanks / thank you / i hope / hope (?:this|that) / good luck",
    r"let me / let's / feel free / if you (?:have|need|want|would) / please (?:let|note) / enjoy\b",
    r"is there anything / (?:i'm |i am )?(?:happy|glad) to help / note(?: that)?\b / tip:",
    r"(?:don't|do not) (?:hesitate|confuse) / not to be confused / would you like / want me to",
    r"for (?:comparison|context|reference|example|instance|more)",
    r"(?:in|by) (?:comparison|contrast)",
    r"source / fun fact / see also / interestingly / incidentally / remember\b",
    r"other (?:notable|famous|options|large|major)",
    r"(?:the|this) (?:question|problem|user|query|task) (?:asks|is asking|wants|is about|gives)",
    r"(?:we|i) (?:need|are asked|have|want) to (?:find|know|determine|identify|figure|calculate)",
    r"(?:we|i) (?:need|are asked|have|want) to (?:compute|recall|answer|decide|solve|check|work)",
    r"here(?:'s| is| are)\b[^.]{0,100}:$ / to (?:answer|solve|find|determine|figure)",
)
# How a sentence begins that only names what there is to choose from.
LISTING = any_of(
    r"the (?:options|candidates|choices|possibilities)\b",
    r"there are (?:two|three|four|five|six|seven|eight|several|many|various|some)\b[^.:]{0,60}:",
)
# How a sentence begins that concludes.
CONCLUDING = any_of(
    "so / thus / hence / daher / also / donc / por tanto / por lo tanto / overall / altogether",
    "in (?:total|short|summary) / all in all / to sum up / combining / putting",
    "(?:that|this) (?:makes|gives|leaves|means) / i(?:'m| am) (?:confident|sure|certain)",
    "i (?:think|believe)",
)
# What stands in a sentence that concludes.
CONCLUSION = any_of(
    "therefore / consequently / in conclusion / (?:has to|must) be / final answer",
    "i (?:would |will )?(?:choose|pick|go with) / i'(?:d|ll) (?:choose|pick|go with|say)",
    "i (?:count|get|conclude|end up)",
)
# How a sentence begins that says more about what has been answered.
MORE = any_of(
    "it (?:has|had|is also|was also|lies|contains|became|covers) / its / they / their / today",
    "in addition / also / additionally / moreover / furthermore / since then",
)
COMMON = frozenset(  # words that say nothing about what a sentence is about
    "the and for are was were has have had does did can could will would what which who whom whose"
    " where when why how this that these those with from into not but its his her their there you"
    " your our one name many much called known following".split()
)
