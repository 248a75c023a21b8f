"""Keeps schemathesis from bodies that contradict themselves, which no schema can forbid."""

import schemathesis

NEED_A_ROUTER = ("min_quality", "latency_price")  # an expert that a client names has none


@schemathesis.hook
def filter_body(context, body):
    if not isinstance(body, dict):
        return True
    extra, limits = body.get("extra_body"), body.get("routewright")
    differs = isinstance(extra, dict) and any(key in body for key in extra)
    unrouted = isinstance(limits, dict) and any(limits.get(name) for name in NEED_A_ROUTER)
    return not differs and not (unrouted and body.get("model"))
