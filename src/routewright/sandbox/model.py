"""Run the sandbox language models in numpy: a decoder-only transformer with a key-value cache.

>>> TinyLM.load("abacus").generate("What is 2 + 3?").text
'5'
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from routewright.sandbox.skills import VERIFY_TEMPLATE

MODELS = ("abacus", "lexis", "sage")
WEIGHTS = Path(__file__).parent / "weights"

PAD, UNKNOWN, ANSWER, END = range(4)
SPECIAL = ("<pad>", "<unknown>", "<answer>", "<end>")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,?!:;+-*/=<>()'\"%"

# OpenBLAS uses one thread for products below these two sizes and several above them. On a busy
# machine, waiting for the second thread takes thirty times as long as the product.
CELLS = 2304 * 4  # numbers in a matrix that multiplies one vector
ROWS = 65536 * 4 // CELLS  # vectors that such a matrix multiplies at a time

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of a model; ``context`` is its maximum number of tokens, prompt plus answer."""

    name: str
    dim: int
    heads: int
    layers: int
    context: int
    words: tuple[str, ...]

    @classmethod
    def from_json(cls, text: str) -> Config:
        fields = json.loads(text)
        return cls(**{**fields, "words": tuple(fields["words"])})


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, with the log-probability of each token at temperature 1, in nats."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    logprobs: list[float]
    finish_reason: str
    """``"stop"`` if the model ended its answer, ``"length"`` if the answer was cut off."""
    top_logprobs: list[dict[str, float]] = field(default_factory=list)
    """For each position, the most likely tokens, best first; empty if not requested."""


class Tokenizer:
    """Text to tokens: words of the vocabulary whole, other words by letter, numbers reversed.

    A sum is easiest to write from its last digit, where the carry starts, so ``encode`` and
    ``decode`` reverse every number. Case and repeated blanks are ignored.

    >>> t = Tokenizer(["add", "and"])
    >>> t.decode(t.encode("Add 482 and 39"))
    'add 482 and 39'
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.tokens = (*SPECIAL, *CHARACTERS, *words)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        longest_first = "|".join(sorted(words, key=len, reverse=True))
        # The blank before a word of the vocabulary gets no token, because decode puts it back.
        self._pattern = re.compile(rf" ?(?<![a-z])({longest_first})(?![a-z])|([0-9]+)|(.)")

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; a character outside the vocabulary becomes UNKNOWN."""
        matches = self._pattern.finditer(" ".join(text.lower().split()))
        parts = ((m[1] and [m[1]]) or (m[2] or m[3])[::-1] for m in matches)
        return [self._ids.get(token, UNKNOWN) for part in parts for token in part]

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.pieces(tokens))

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens as they arrive; a number is yielded once all its digits are there."""
        number, first = "", True
        for token in tokens:
            text = self.tokens[token]
            if text.isdigit():
                number = text + number
                continue
            if number:
                yield number
                number, first = "", False
            yield text if first or len(text) == 1 else f" {text}"
            first = False
        if number:
            yield number


class TinyLM:
    """A sandbox language model that answers one prompt at a time, in milliseconds on one core."""

    def __init__(self, config: Config, weights: Mapping[str, NDArray[np.generic]]) -> None:
        self.config = config
        self.tokenizer = Tokenizer(config.words)
        w = {name: np.ascontiguousarray(a, dtype=np.float32) for name, a in weights.items()}
        self._embed, self._head = w["embed"], w["head"]
        parts = ("qkv", "out", "up", "down")
        self._layers = [
            [_blocks(w[f"layers.{i}.{part}"]) for part in parts] for i in range(config.layers)
        ]
        self._cos, self._sin = rotations(config.context, config.dim // config.heads)
        # Queries and keys are rotated together, so the tables are repeated for all heads of both.
        self._cos, self._sin = (np.tile(a, (1, 2 * config.heads)) for a in (self._cos, self._sin))

    @classmethod
    def load(cls, name: str) -> TinyLM:
        """The named model of ``MODELS``, read from disk once. Raises ValueError for other names."""
        if name not in MODELS:
            raise ValueError(f"no sandbox model {name!r}: choose from {', '.join(MODELS)}")
        return _load(WEIGHTS / f"{name}.safetensors")

    @classmethod
    def read(cls, path: Path) -> TinyLM:
        """Reads a weights file that training wrote."""
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            config = Config.from_json(file.metadata()["config"])
            return cls(config, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    @property
    def parameters(self) -> int:
        """The number of trained weights."""
        layers = [a for layer in self._layers for a in layer]
        return sum(a.size for a in (self._embed, self._head, *layers))

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 32,
        temperature: float = 0.0,
        seed: int | None = None,
        top_logprobs: int = 0,
    ) -> Completion:
        """Answers a prompt: greedily at temperature 0, otherwise by sampling with the seed.

        Raises ValueError if the prompt does not fit into the model's context.
        """
        tokens = self._prompt(prompt)
        steps = list(self._steps(tokens, max_tokens, temperature, seed))
        text = self.tokenizer.decode(token for token, _ in steps if token != END)
        return Completion(
            text=text,
            prompt_tokens=len(tokens),
            completion_tokens=len(steps),
            logprobs=[float(logprobs[token]) for token, logprobs in steps],
            finish_reason="stop" if steps and steps[-1][0] == END else "length",
            top_logprobs=[self._top(x, top_logprobs) for _, x in steps] if top_logprobs else [],
        )

    def stream(
        self,
        prompt: str,
        *,
        max_tokens: int = 32,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yields the text of ``generate`` in pieces while it is produced."""
        steps = self._steps(self._prompt(prompt), max_tokens, temperature, seed)
        return self.tokenizer.pieces(token for token, _ in steps if token != END)

    def verify(self, question: str, answer: str) -> float:
        """The model's probability (0..1) that an answer to a question is right."""
        prompt = self._prompt(VERIFY_TEMPLATE.format(question=question, answer=answer))
        ((_, logprobs),) = self._steps(prompt, 1, 0.0, None)
        yes, no = (float(np.exp(logprobs[self.tokenizer.encode(t)[0]])) for t in ("yes", "no"))
        return yes / (yes + no)

    def _prompt(self, prompt: str) -> list[int]:
        tokens = [*self.tokenizer.encode(prompt), ANSWER]
        if len(tokens) >= self.config.context:
            raise ValueError(
                f"the prompt has {len(tokens)} tokens, but {self.config.name} has a context length "
                f"of {self.config.context} tokens for prompt and answer: shorten the prompt"
            )
        return tokens

    def _steps(
        self, prompt: list[int], max_tokens: int, temperature: float, seed: int | None
    ) -> Iterator[tuple[int, Array]]:
        """Yields each token of the answer, including END, with the log-probabilities (vocabulary,)
        from which it was picked."""
        rng = np.random.default_rng(seed)
        room = min(max_tokens, self.config.context - len(prompt))
        cache = self._empty_cache(len(prompt) + room)
        new, start = prompt, 0
        for _ in range(room):
            logprobs = self._read(new, start, cache)
            token = _pick(logprobs, temperature, rng)
            yield token, logprobs
            if token == END:
                return
            start += len(new)
            new = [token]

    def _read(self, tokens: list[int], start: int, cache: list[Array]) -> Array:
        """Runs ``_forward`` on any number of tokens, at most ``ROWS`` at a time."""
        for i in range(0, len(tokens), ROWS):
            logprobs = self._forward(np.array(tokens[i : i + ROWS]), start + i, cache)
        return logprobs

    def _empty_cache(self, length: int) -> list[Array]:
        heads, size = self.config.heads, self.config.dim // self.config.heads
        return [np.empty((2, heads, length, size), np.float32) for _ in self._layers]

    def _forward(self, tokens: NDArray[np.int64], start: int, cache: list[Array]) -> Array:
        """Log-probabilities (vocabulary,) of the token after ``tokens``, whose first position is
        ``start``; writes their keys and values to the cache."""
        n, end, heads = len(tokens), start + len(tokens), self.config.heads
        cos, sin = self._cos[start:end], self._sin[start:end]
        dim, size = self.config.dim, self.config.dim // heads
        future = np.triu(np.full((n, end), -np.inf, np.float32), start + 1) if n > 1 else None
        x = self._embed[tokens]  # (n, dim)
        for (qkv, out, up, down), (keys, values) in zip(self._layers, cache, strict=True):
            h = _times(_normalise(x), qkv)  # (n, 3 dim)
            rotated = _rotate(h[:, : 2 * dim], cos, sin, size).reshape(n, 2, heads, size)
            keys[:, start:end] = rotated[:, 1].swapaxes(0, 1)
            values[:, start:end] = h[:, 2 * dim :].reshape(n, heads, size).swapaxes(0, 1)
            scores = rotated[:, 0].swapaxes(0, 1) @ keys[:, :end].swapaxes(1, 2)  # (heads, n, end)
            scores *= size**-0.5
            if future is not None:
                scores += future
            mixed = _softmax(scores) @ values[:, :end]  # (heads, n, size)
            x = x + _times(mixed.swapaxes(0, 1).reshape(n, dim), out)
            x = x + _times(_gelu(_times(_normalise(x), up)), down)
        logits = np.einsum("j,jk->k", _normalise(x[-1:])[0], self._head)
        logits -= logits.max()
        logprobs: Array = logits - np.log(np.exp(logits).sum())
        return logprobs

    def _top(self, logprobs: Array, n: int) -> dict[str, float]:
        best = np.argsort(-logprobs)[:n]
        return {self.tokenizer.tokens[i]: float(logprobs[i]) for i in best}


def rotations(context: int, size: int) -> tuple[Array, Array]:
    """Cosines and sines that rotate a head's vector by its position, both (context, size).

    Rotary position embedding (Su et al. 2021, equation 34); a pair is a number of the first half
    of the vector and the corresponding number of the second half. The base is 1,000 because
    contexts are short.
    """
    angles = np.outer(np.arange(context), 1000.0 ** (-np.arange(0, size, 2) / size))
    cos, sin = np.cos(angles), np.sin(angles)
    return np.hstack([cos, cos]).astype(np.float32), np.hstack([-sin, sin]).astype(np.float32)


@cache
def _load(path: Path) -> TinyLM:
    return TinyLM.read(path)


def _blocks(matrix: Array) -> Array:
    """Matrix (rows, columns) ▶ (blocks, rows, width); a block has fewer than ``CELLS`` numbers."""
    rows, columns = matrix.shape
    width = max(w for w in range(1, columns + 1) if columns % w == 0 and w * rows < CELLS)
    return np.ascontiguousarray(matrix.reshape(rows, -1, width).swapaxes(0, 1))


def _times(x: Array, blocks: Array) -> Array:
    """The product of (n, rows) and a matrix in blocks, (n, columns)."""
    return (x @ blocks).swapaxes(0, 1).reshape(len(x), -1)


def _rotate(x: Array, cos: Array, sin: Array, size: int) -> Array:
    halves = x.reshape(len(x), -1, 2, size // 2)
    return x * cos + halves[:, :, ::-1].reshape(x.shape) * sin


def _normalise(x: Array) -> Array:
    # LayerNorm (Ba et al. 2016) without gain and bias, which the next matrix can absorb.
    x = x - x.mean(-1, keepdims=True)
    variance: Array = np.einsum("ij,ij->i", x, x)[:, None] / x.shape[1]
    normed: Array = x / np.sqrt(variance + np.float32(1e-6))
    return normed


def _gelu(x: Array) -> Array:
    # The tanh approximation of Hendrycks and Gimpel 2016, section 2.
    gate: Array = np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x))
    half: Array = np.float32(0.5) * x
    return half * (1 + gate)


def _softmax(x: Array) -> Array:
    x -= x.max(-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(-1, keepdims=True)
    return x


def _pick(logprobs: Array, temperature: float, rng: np.random.Generator) -> int:
    if temperature <= 0:
        return int(logprobs.argmax())
    # The Gumbel-max trick: the highest of the noisy scores is a draw from the softmax.
    return int((logprobs / temperature + rng.gumbel(size=len(logprobs))).argmax())
