"""A Hugging Face causal model that runs in this process: small ones on the CPU, others on a GPU."""

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

ROOM = 1024  # tokens of an answer, unless the request says otherwise


class Local:
    """Answers with the model that the expert's `model` names: a folder or a Hugging Face name.

    A dedicated model (`routewright dedicate train`) defers from the doubt on that it was
    calibrated to, with its tag as the answer's text; `bad_words` that hold the tag forbid that.
    Of a request's options it heeds max_tokens, max_completion_tokens, temperature, top_p, seed
    and bad_words. One answer at a time is generated; for heavy traffic use a server such as vLLM.
    """

    verify_prompt: ClassVar[str | None] = None
    takes_n: ClassVar[bool] = False

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._turn = asyncio.Lock()

    async def ask(self, call: Call) -> Answer:
        async for piece in self.stream(call):
            if isinstance(piece, Answer):
                return piece
        raise AssertionError("a stream ends with its answer")

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Answer, None]:
        began, name = time.monotonic(), call.expert.name
        async with self._turn:
            model = await asyncio.to_thread(self._open, call)
            from transformers import AsyncTextIteratorStreamer

            heard = AsyncTextIteratorStreamer(
                model.base.tokenizer,
                skip_prompt=True,
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            unwanted = threading.Event()
            work = asyncio.create_task(asyncio.to_thread(_write, model, call, heard, unwanted))
            text = ""
            try:
                async for piece in heard:
                    if piece:
                        text += piece
                        yield Delta(name, piece, {"content": piece})
                sent, written, reason = await work
            except UpstreamError as error:
                if not text:
                    raise
                raise StreamBroken(name, error.reason, cost=error.cost) from error
            finally:
                unwanted.set()
                await asyncio.wait([work])
        yield Delta(name, "", {}, reason)
        yield Answer(
            name,
            text,
            cost=call.expert.price(sent, written),
            latency=time.monotonic() - began,
            input_tokens=sent,
            output_tokens=written,
            finish_reason=reason,
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


def _write(model: Model, call: Call, heard: Any, unwanted: threading.Event) -> tuple[int, int, str]:
    """Generates into `heard`; gives the tokens read and written, and why it ended."""
    try:
        return _generate(model, call, heard, unwanted)
    except (ValueError, TypeError, OverflowError) as error:  # options are the client's own
        raise UpstreamRefused(call.expert.name, f"the request: {error}", status=400) from error
    except RuntimeError as error:  # torch's, for a GPU without memory as for numbers that are none
        reason = str(error).strip().partition("\n")[0][:300]
        raise UpstreamError(call.expert.name, f"generation: {reason}") from error
    finally:
        heard.end()  # once more does no harm, and nobody waits for ever after a failure


def _generate(
    model: Model, call: Call, heard: Any, unwanted: threading.Event
) -> tuple[int, int, str]:
    import torch

    from routewright.prediction import language_models

    body, base = call.body, model.base
    try:
        prompt = language_models.prompt(base, body["messages"])
    except Exception as error:  # chat templates raise whatever they please
        raise UpstreamRefused(
            call.expert.name, f"its chat template: {error}", status=400
        ) from error
    longest = language_models.longest(base)
    (ids,) = language_models.tokens(base, [prompt], longest)
    if len(ids) >= longest:
        reason = f"the prompt has more than the {longest - 1} tokens that the model can read"
        raise UpstreamRefused(call.expert.name, reason, status=400)
    may_defer = model.tag not in (body.get("bad_words") or ())
    if model.kind == "gate" and may_defer and _gate_defers(model, body):
        heard.on_finalized_text(model.tag)
        return len(ids), 1, "stop"
    room = body.get("max_completion_tokens") or body.get("max_tokens") or ROOM
    seed = body.get("seed")
    repeatable = language_models.seeded(int(seed) % 2**63) if seed is not None else nullcontext()
    with repeatable, model.answering(), torch.inference_mode():
        whole = base.model.generate(
            torch.tensor([ids], device=language_models.device()),
            attention_mask=torch.ones(
                1, len(ids), dtype=torch.long, device=language_models.device()
            ),
            max_new_tokens=min(int(room), longest - len(ids)),
            pad_token_id=language_models.padding(base),
            streamer=heard,
            **_sampling(body),
            **_steering(model, may_defer, body, unwanted, len(ids)),
        )[0]
    written = whole[len(ids) :].tolist()
    ends = {base.tokenizer.eos_token_id, *_listed(base.model.generation_config.eos_token_id)}
    stopped = written and (written[-1] in ends or written[-1] == model.card.get("tag_id"))
    return len(ids), len(written), "stop" if stopped else "length"


def _gate_defers(model: Model, body: Any) -> bool:
    return bool(model.doubts([body["messages"]])[0] + model.offset > 0)


def _sampling(body: Any) -> dict[str, Any]:
    temperature = float(body.get("temperature") or 0.0)
    if temperature <= 0:
        return {"do_sample": False}
    top_p = float(body.get("top_p") or 1.0)
    return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}


def _steering(
    model: Model, may_defer: bool, body: Any, unwanted: threading.Event, start: int
) -> dict[str, Any]:
    """The first token decides whether to defer, at any temperature; later ones never are the
    tag."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria

    from routewright.dedicated.model import lead

    tag: Any = model.card.get("tag_id")

    class Deciding(LogitsProcessor):
        def __call__(self, ids: Any, scores: Any) -> Any:
            first = ids.shape[1] == start
            if first and may_defer and float(lead(scores.float(), tag)[0]) + model.offset > 0:
                only = torch.full_like(scores, -torch.inf)
                only[:, tag] = 0.0
                return only
            scores = scores.clone()
            scores[:, tag] = -torch.inf
            return scores

    class Enough(StoppingCriteria):
        def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
            done = unwanted.is_set() or (tag is not None and int(ids[0, -1]) == tag)
            return torch.full((len(ids),), done, dtype=torch.bool, device=ids.device)

    steering: dict[str, Any] = {"stopping_criteria": [Enough()]}
    if tag is not None:
        steering["logits_processor"] = LogitsProcessorList([Deciding()])
    words = [word for word in body.get("bad_words") or () if word != model.tag]
    if words:
        read = model.base.tokenizer
        steering["bad_words_ids"] = [
            read(word, add_special_tokens=False)["input_ids"] for word in words
        ]
    return steering


def _listed(number: Any) -> list[int]:
    return [] if number is None else number if isinstance(number, list) else [number]
