"""A model of one's own that answers or defers: what it learns from, how, and when it defers.

A dedicated model (after Leeroo Dedicated Math 7B) is a Hugging Face folder. Either it has one
token more than its base and opens with it where it would fail (kind `tag`), or a head on the
base's state at the prompt's end foretells that, and the base answers as it always did (`gate`).
`dedicated.json` beside the weights says which, and from what doubt on it defers. Extra: `lm`.
"""

from routewright.dedicated.card import calibrate, offset, read_card
from routewright.dedicated.model import Model, load
from routewright.dedicated.recipe import TAG, Kind, Recipe
from routewright.dedicated.teaching import answers, held_out, lessons, taught
from routewright.dedicated.training import train

__all__ = [
    "TAG",
    "Kind",
    "Model",
    "Recipe",
    "answers",
    "calibrate",
    "held_out",
    "lessons",
    "load",
    "offset",
    "read_card",
    "taught",
    "train",
]
