"""Always ask the same expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from routewright.errors import BadInput
from routewright.types import Ask, Decision, Indices, Plan, Prediction, Query


@dataclass(frozen=True)
class Fixed:
    """Always ask the same expert."""

    light: ClassVar[bool] = True

    expert: str

    def plan(self, query: Query) -> Plan:
        answer = yield Ask(self.expert, final=True)
        return Decision(answer, because=f"always {self.expert}")

    def choose(self, queries: Sequence[Query], prediction: Prediction) -> Indices:
        if self.expert not in prediction.experts:
            names = ", ".join(prediction.experts)
            raise BadInput(f"strategy 'fixed' asks '{self.expert}', the table has {names}")
        return np.full(len(queries), prediction.experts.index(self.expert))
