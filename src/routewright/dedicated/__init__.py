"""A small model of your own that answers or defers: its lessons, its training, its calibration.

A dedicated model (after Leeroo Dedicated Math 7B) is a Hugging Face folder of one of two kinds.
A `tag` model has one token more than its base and writes it first if it would fail. A `gate` model
has a head that predicts failure from the base's state at the end of the prompt; the base's answers
do not change. `dedicated.json`, beside the weights, records the kind and the threshold on the
doubt above which the model defers. Extra: `lm`.
"""

from routewright.dedicated.card import calibrate, offset, read_card
from routewright.dedicated.model import Model, load
from routewright.dedicated.recipe import TAG, Kind, Recipe
from routewright.dedicated.teaching import answers, held_out, lessons, training_queries
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
    "train",
    "training_queries",
]
