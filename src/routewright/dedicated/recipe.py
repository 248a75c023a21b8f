"""The options with which a dedicated model is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from routewright.errors import BadInput
from routewright.prediction import language_models

TAG = "<DEFER>"
WITHIN = 10.0  # logits by which the tag must be unlikely inside an answer: the room for a bias

Kind = Literal["tag", "gate"]
Progress = Callable[[str, float], None]  # a description of the work, and the finished share of it


def quiet(description: str, share: float) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class Recipe:
    """The options of a training; their names are those of `predictors.transformer`.

    `defer_weight` is the weight of a failed query in the decision, relative to a query that the
    base answers right; with None, failures and successes have the same total weight.
    `answer_weight` is the weight of an answer relative to a decision. Raises BadInput for an
    unknown kind, tune or precision, and for a tag with blanks around it.
    """

    kind: Kind = "tag"
    tag: str = TAG
    tune: str = "lora"
    epochs: int = 3
    learning_rate: float | None = None  # of the base; None: 2e-4 for lora, 2e-5 for full
    head_rate: float = 1e-3  # learning rate of the tag's row, or of the gate
    batch: int = 16
    accumulate: int = 1
    max_tokens: int = 1024  # of a prompt, and of an answer
    rank: int = 8
    defer_weight: float | None = 1.0
    answer_weight: float = 5.0
    precision: str = "float32"
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("tag", "gate"):
            raise BadInput(f"kind '{self.kind}' is unknown: choose tag or gate")
        if self.tune not in language_models.TUNES:
            raise BadInput(f"tune '{self.tune}' is unknown: choose lora, full or frozen")
        if self.precision not in language_models.PRECISIONS:
            choices = " or ".join(language_models.PRECISIONS)
            raise BadInput(f"precision '{self.precision}' is unknown: choose {choices}")
        if not self.tag.strip() or self.tag != self.tag.strip():
            raise BadInput(
                f"tag '{self.tag}' is empty or has blanks around it: choose a text such as {TAG}"
            )
