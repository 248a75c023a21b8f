"""A LangChain chat model before a gateway, with Routewright's limits as fields."""

from __future__ import annotations

from typing import Any

from routewright.errors import needs

with needs("the LangChain model"):
    from langchain_core.outputs import ChatResult
    from langchain_openai import ChatOpenAI
    from pydantic import Field, SecretStr

LIMITS = ("data_class", "max_cost", "max_latency", "min_quality", "region")


class ChatRoutewright(ChatOpenAI):
    """A chat model whose expert the gateway chooses for every call.

    `data_class`, `max_cost` (US$), `max_latency` (seconds), `min_quality` (0..1) and `region` are
    the limits of every call. `response_metadata["routewright"]` of a whole answer is the decision:
    its id, policy, path and cost in US$. The gateway asks other experts after a failure, so that
    the client does not repeat.
    """

    model_name: str = Field(default="auto", alias="model")
    openai_api_base: str | None = Field(default="http://127.0.0.1:4100/v1", alias="base_url")
    openai_api_key: SecretStr | None = Field(default=SecretStr("none"), alias="api_key")
    max_retries: int | None = 0
    data_class: str | None = None
    max_cost: float | None = None
    max_latency: float | None = None
    min_quality: float | None = None
    region: str | None = None

    @property
    def _default_params(self) -> dict[str, Any]:
        limits = {name: value for name in LIMITS if (value := getattr(self, name)) is not None}
        params: dict[str, Any] = super()._default_params
        if limits:
            body = params.get("extra_body") or {}
            own = {**(body.get("routewright") or {}), **limits}
            params["extra_body"] = {**body, "routewright": own}
        return params

    def _create_chat_result(self, response: Any, generation_info: Any = None) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        fields = response if isinstance(response, dict) else response.model_dump()
        if (decision := fields.get("routewright")) is not None:
            for generation in result.generations:
                generation.message.response_metadata["routewright"] = decision
        return result
