"""The page docs/http.md: every address of the gateway, from the document that it serves itself."""

from __future__ import annotations

from typing import Any

from routewright.config import Config
from routewright.gateway.app import build
from routewright.gateway.openapi import document

PLAIN = {
    "version": 1,
    "experts": [{"name": "echo", "provider": "echo"}],
    "policies": {"default": {"strategy": "fixed", "options": {"expert": "echo"}}},
    "server": {"store": "none"},
}


def addresses() -> str:
    """Every operation: what it does, takes and returns, and the errors that it may answer."""
    served = document(build(Config.model_validate(PLAIN)).routes)
    schemas = served["components"]["schemas"]
    parts = []
    for path, operations in served["paths"].items():
        for method, operation in operations.items():
            parts.append(f"## {method.upper()} {path}\n\n{operation['summary']}\n")
            rows = [
                _row(p["name"], p["schema"], f"in the {p['in']}") for p in _parameters(operation)
            ]
            rows += _fields(_body(operation), schemas)
            if rows:
                parts.append("| takes | | |\n|---|---|---|\n" + "\n".join(rows) + "\n")
            parts.append(f"{_answers(operation)}\n")
    parts.append("# Limits, and what is returned\n\nFields that an upstream adds are passed on.\n")
    returned = sorted({"Limits", *(name for o in _operations(served) for name in _returned(o))})
    for name in returned:
        rows = _fields(schemas[name], schemas)
        parts.append(f"## {name}\n\n| | | |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _operations(served: dict[str, Any]) -> list[dict[str, Any]]:
    return [o for operations in served["paths"].values() for o in operations.values()]


def _parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = operation.get("parameters", [])
    return found


def _body(operation: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    schema: dict[str, Any] = content.get("application/json", {}).get("schema", {})
    return schema


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    schema = schemas.get(_name(schema), schema)
    required = schema.get("required", ())
    return [
        _row(name, field, "required" if name in required else "")
        for name, field in schema.get("properties", {}).items()
    ]


def _row(name: str, schema: dict[str, Any], note: str) -> str:
    description = " ".join(schema.get("description", "").split())
    told = "; ".join(part for part in (note, description) if part)
    return f"| `{name}` | {_type(schema)} | {told} |"


def _type(schema: dict[str, Any]) -> str:
    """The type of a field in a few words."""
    if name := _name(schema):
        return f"`{name}`"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            kinds = [_type(s) for s in schema[key] if s.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "anything")
    return f"list of {_type(schema.get('items', {}))}" if kind == "array" else str(kind)


def _name(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _returned(operation: dict[str, Any]) -> list[str]:
    contents = [r.get("content", {}) for r in operation["responses"].values()]
    schemas = [c["schema"] for content in contents for c in content.values() if "schema" in c]
    return [name for schema in schemas if (name := _name(schema))]


def _answers(operation: dict[str, Any]) -> str:
    """What the operation returns, and the statuses of its errors."""
    responses = operation["responses"]
    content = responses["200"]["content"]
    kinds = [
        _type(c.get("schema", {})) if "json" in kind else f"`{kind}`" for kind, c in content.items()
    ]
    headers = ", ".join(f"`{name}`" for name in responses["200"].get("headers", {}))
    errors = ", ".join(status for status in responses if status != "200")
    return f"It returns {' or '.join(kinds)}, with the headers {headers}. Errors: {errors}."
