"""A larger model that is always right: an OpenAI server that knows the references of a query set.

python -m bench.real.larger --port 9001 questions.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def app(references: dict[str, str]) -> Starlette:
    async def complete(request: Request) -> JSONResponse:
        body = await request.json()
        prompt = str(body["messages"][-1]["content"])
        text = references.get(prompt, "I do not know.")
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage: dict[str, Any] = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 4}
        return JSONResponse({"object": "chat.completion", "choices": [choice], "usage": usage})

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/health", health),
    ]
    return Starlette(routes=routes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.real.larger", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("questions", type=Path)
    options = parser.parse_args()
    rows = map(json.loads, options.questions.read_text(encoding="utf-8").splitlines())
    references = {row["prompt"]: row["reference"] for row in rows}
    uvicorn.run(app(references), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
