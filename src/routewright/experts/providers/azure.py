"""Calls models in Azure OpenAI and Azure AI Foundry, which want other addresses and another header.

The shapes are those of https://learn.microsoft.com/azure/ai-foundry/openai/reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from routewright.experts.providers import Call
from routewright.experts.providers.openai import Openai
from routewright.types import Expert

DATED = re.compile(r"\d{4}-\d\d-\d\d(?:-preview)?")  # a version of the API before /openai/v1


class Azure(Openai):
    """Asks a model by `base_url`, which may be the resource, /openai/v1 or a deployment's address.

    At the resource, a dated `api_version` (of `options`, or `api-version` in the query of
    `base_url`) asks the deployment named `model` at its own address; else /openai/v1 is asked.
    The `api_key` is sent as the header `api-key`.
    """

    def url(self, expert: Expert, path: str | None = None) -> str:
        assert expert.base_url, "the config checks that an expert at Azure has a `base_url`"
        url = urlsplit(expert.base_url)
        fields = dict(parse_qsl(url.query))
        version = fields.get("api-version") or str(expert.options.get("api_version") or "")
        start = url.path.rstrip("/")
        if start in ("", "/openai") and DATED.fullmatch(version):
            start = f"/openai/deployments/{quote(expert.model or expert.name, safe='')}"
        elif start in ("", "/openai"):
            start = "/openai/v1"
        if version:
            fields["api-version"] = version
        base_url = url._replace(path=start, query=urlencode(fields)).geturl()
        return super().url(replace(expert, base_url=base_url), path)

    def fields(self, expert: Expert, body: Mapping[str, Any]) -> dict[str, Any]:
        fields = super().fields(expert, body)
        fields.pop("api_version", None)  # it is a part of the address
        return fields

    def headers(self, call: Call) -> dict[str, str]:
        expert = call.expert
        if not expert.api_key or {"api-key", "authorization"} & set(map(str.lower, expert.headers)):
            return {}
        return {"api-key": expert.api_key}
