"""Runs a Hugging Face causal model in this process: a small one on the CPU, others on a GPU."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from routewright.errors import BadInput, StreamBroken, UpstreamError, UpstreamRefused
from routewright.experts.providers import Call
from routewright.types import Answer, Delta

if TYPE_CHECKING:
    from routewright.dedicated import Model

DEFAULT_TOKENS = 1024  # output limit, unless the request sets one


class Local:
    """Answers with the model that the expert's `model` names: a folder or a Hugging Face name.

    A dedicated model (`routewright dedicate train`) defers if its doubt is above the threshold of
    its calibration. The text of that answer is its tag; `bad_words` that contain the tag prevent
    it. The request options max_tokens, max_completion_tokens, temperature, top_p, seed and
    bad_words apply; others are ignored. The model generates one answer at a time: for heavy
    traffic use a server such as vLLM.
    """

    verify_prompt: ClassVar[str | None] = None
    takes_n: ClassVar[bool] = False
    protocol: ClassVar[str | None] = None

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._lock = asyncio.Lock()

    async def ask(self, call: Call) -> Answer:
        async for piece in self.stream(call):
            if isinstance(piece, Answer):
                return piece
        raise AssertionError("a stream ends with its answer")

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Answer, None]:
        began, name = time.monotonic(), call.expert.name
        async with self._lock:
            model = await asyncio.to_thread(self._open, call)
            from transformers import AsyncTextIteratorStreamer

            streamer = AsyncTextIteratorStreamer(
                model.base.tokenizer,
                skip_prompt=True,
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            stop = threading.Event()
            work = asyncio.create_task(asyncio.to_thread(_write, model, call, streamer, stop))
            text = ""
            try:
                async for piece in streamer:
                    if piece:
                        text += piece
                        yield Delta(name, piece, {"content": piece})
                sent, received, finish_reason = await work
            except UpstreamError as error:
                if not text:
                    raise
                raise StreamBroken(name, error.reason, cost=error.cost) from error
            finally:
                stop.set()
                await asyncio.wait([work])
        yield Delta(name, "", {}, finish_reason)
        yield Answer(
            name,
            text,
            cost=call.expert.price(sent, received),
            latency=time.monotonic() - began,
            input_tokens=sent,
            output_tokens=received,
            finish_reason=finish_reason,
            message={"role": "assistant", "content": text},
        )

    async def close(self) -> None:
        self._models.clear()

    def _open(self, call: Call) -> Model:
        from routewright import dedicated

        name = call.expert.model or call.expert.name
        if name not in self._models:
            try:
                self._models[name] = dedicated.load(name)
            except BadInput as error:
                raise UpstreamError(call.expert.name, str(error)) from error
        return self._models[name]


def _write(model: Model, call: Call, streamer: Any, stop: threading.Event) -> tuple[int, int, str]:
    """Generates into `streamer`. Returns the input tokens, the output tokens and the finish reason.

    Raises UpstreamRefused if the request cannot be answered, UpstreamError if generation fails.
    """
    try:
        return _generate(model, call, streamer, stop)
    except (ValueError, TypeError, OverflowError) as error:  # from options of the client
        raise UpstreamRefused(call.expert.name, f"the request: {error}", status=400) from error
    except RuntimeError as error:  # from torch: the GPU has no memory left, or numbers are NaN
        reason = str(error).strip().partition("\n")[0][:300]
        raise UpstreamError(call.expert.name, f"generation: {reason}") from error
    finally:
        streamer.end()  # a second call does nothing; after a failure the reader must not wait


def _generate(
    model: Model, call: Call, streamer: Any, stop: threading.Event
) -> tuple[int, int, str]:
    import torch

    from routewright.prediction import language_models

    body, base = call.body, model.base
    try:
        prompt = language_models.prompt(base, body["messages"])
    except Exception as error:  # a chat template may raise anything
        raise UpstreamRefused(
            call.expert.name, f"its chat template: {error}", status=400
        ) from error
    max_length = language_models.longest(base)
    (ids,) = language_models.tokens(base, [prompt], max_length)
    if len(ids) >= max_length:
        reason = f"the prompt has more than the {max_length - 1} tokens that the model can read"
        raise UpstreamRefused(call.expert.name, reason, status=400)
    may_defer = model.tag not in (body.get("bad_words") or ())
    if model.kind == "gate" and may_defer and _gate_defers(model, body):
        streamer.on_finalized_text(model.tag)
        return len(ids), 1, "stop"
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_TOKENS
    seed = body.get("seed")
    repeatable = language_models.seeded(int(seed) % 2**63) if seed is not None else nullcontext()
    with repeatable, model.answering(), torch.inference_mode():
        output = base.model.generate(
            torch.tensor([ids], device=language_models.device()),
            attention_mask=torch.ones(
                1, len(ids), dtype=torch.long, device=language_models.device()
            ),
            max_new_tokens=min(int(limit), max_length - len(ids)),
            pad_token_id=language_models.padding(base),
            streamer=streamer,
            **_sampling(body),
            **_steering(model, may_defer, body, stop, len(ids)),
        )[0]
    tokens = output[len(ids) :].tolist()
    ends = {base.tokenizer.eos_token_id, *_as_list(base.model.generation_config.eos_token_id)}
    stopped = tokens and (tokens[-1] in ends or tokens[-1] == model.card.get("tag_id"))
    return len(ids), len(tokens), "stop" if stopped else "length"


def _gate_defers(model: Model, body: Any) -> bool:
    return bool(model.doubts([body["messages"]])[0] + model.offset > 0)


def _sampling(body: Any) -> dict[str, Any]:
    temperature = float(body.get("temperature") or 0.0)
    if temperature <= 0:
        return {"do_sample": False}
    top_p = float(body.get("top_p") or 1.0)
    return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}


def _steering(
    model: Model, may_defer: bool, body: Any, stop: threading.Event, start: int
) -> dict[str, Any]:
    """Arguments of `generate` that let a dedicated model defer and let a client cancel.

    At any temperature the first token decides whether the model defers. Later tokens are never
    the tag. `start` is the number of input tokens.
    """
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria

    from routewright.dedicated.model import lead

    tag: Any = model.card.get("tag_id")

    class Deferral(LogitsProcessor):
        def __call__(self, ids: Any, scores: Any) -> Any:
            is_first = ids.shape[1] == start
            if is_first and may_defer and float(lead(scores.float(), tag)[0]) + model.offset > 0:
                only_tag = torch.full_like(scores, -torch.inf)
                only_tag[:, tag] = 0.0
                return only_tag
            scores = scores.clone()
            scores[:, tag] = -torch.inf
            return scores

    class Stop(StoppingCriteria):
        def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
            done = stop.is_set() or (tag is not None and int(ids[0, -1]) == tag)
            return torch.full((len(ids),), done, dtype=torch.bool, device=ids.device)

    steering: dict[str, Any] = {"stopping_criteria": [Stop()]}
    if tag is not None:
        steering["logits_processor"] = LogitsProcessorList([Deferral()])
    words = [word for word in body.get("bad_words") or () if word != model.tag]
    if words:
        tokenize = model.base.tokenizer
        steering["bad_words_ids"] = [
            tokenize(word, add_special_tokens=False)["input_ids"] for word in words
        ]
    return steering


def _as_list(number: Any) -> list[int]:
    return [] if number is None else number if isinstance(number, list) else [number]
