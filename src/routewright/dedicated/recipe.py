"""How a dedicated model is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from routewright.errors import BadInput
from routewright.prediction import language_models

TAG = "<DEFER>"
WITHIN = 10.0  # logits by which the tag must be unlikely within an answer: room for a bias

Kind = Literal["tag", "gate"]
Progress = Callable[[str, float], None]  # what is being done, share of it that is done


def quiet(doing: str, share: float) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class Recipe:
    """How a dedicated model is trained; names as in `predictors.transformer`.

    `defer_weight` is what a query that the base fails weighs against one that it answers right,
    in the decision; None weighs them so that both sides count alike. `answer_weight` is what an
    answer weighs against a decision.
    """

    kind: Kind = "tag"
    tag: str = TAG
    tune: str = "lora"
    epochs: int = 3
    learning_rate: float | None = None  # of the base; None: 2e-4 for lora, 2e-5 for full
    head_rate: float = 1e-3  # of the tag's row, or of the gate
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
            known = " or ".join(language_models.PRECISIONS)
            raise BadInput(f"precision '{self.precision}' is unknown: choose {known}")
        if not self.tag.strip() or self.tag != self.tag.strip():
            raise BadInput(f"tag '{self.tag}' must be a text without blanks around it")
