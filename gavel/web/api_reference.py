"""Print the HTTP API's OpenAPI document as Markdown: `python -m gavel.web.api_reference`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lambdas.query_api.app import create_app
from retrieval.errors import GavelError
from retrieval.search.service import SearchService

LIMITS = ("enum", "default", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")

Schema = Mapping[str, Any]


def describe_api(document: Schema) -> str:
    """Return a Markdown reference of every operation and schema in an OpenAPI document."""
    lines: list[str] = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += [f"## {method.upper()} `{path}`", "", operation.get("description") or operation["summary"], ""]
            lines += _parameters(operation.get("parameters", []))
            lines += _body(operation.get("requestBody"))
            lines += _responses(operation["responses"])
    lines += ["## Schemas", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += [f"### {name}", "", *_table(_fields(schema), "field")]
    return "\n".join(lines)


def _parameters(parameters: list[Schema]) -> list[str]:
    rows = [
        (one["name"], one["schema"], one.get("required", False), one.get("description") or one["schema"].get("description", ""))
        for one in parameters
    ]
    return _table(rows, "parameter")


def _body(body: Schema | None) -> list[str]:
    if body is None:
        return []
    kinds = ", ".join(f"`{kind}`: {_type(content.get('schema', {}))}" for kind, content in body["content"].items())
    return [f"Body, {kinds}", ""]


def _responses(responses: Mapping[str, Schema]) -> list[str]:
    rows = [
        f"| {status} | {_cell(answer['description'])} | {', '.join(_content(answer)) or 'no body'} |"
        for status, answer in responses.items()
    ]
    return ["| status | meaning | body |", "|---|---|---|", *rows, ""]


def _content(answer: Schema) -> Iterator[str]:
    for kind, content in answer.get("content", {}).items():
        yield f"`{kind}`: {_type(content.get('schema', {}))}"


def _fields(schema: Schema) -> list[tuple[str, Schema, bool, str]]:
    required = schema.get("required", [])
    return [(name, field, name in required, field.get("description", "")) for name, field in schema.get("properties", {}).items()]


def _table(rows: list[tuple[str, Schema, bool, str]], first: str) -> list[str]:
    if not rows:
        return []
    cells = [
        f"| `{name}`{' (required)' if required else ''} | {_type(schema)} | {_cell(description)} |"
        for name, schema, required, description in rows
    ]
    return [f"| {first} | type | |", "|---|---|---|", *cells, ""]


def _type(schema: Schema) -> str:
    """Return a schema's type and limits in one line that fits into a Markdown table."""
    choices = [_type(one) for one in schema.get("anyOf", schema.get("oneOf", []))]
    parts = [" or ".join(choices)] if choices else []
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        parts.append(f"[{name}](#{name.lower()})")
    if "type" in schema:
        items = f" of {_type(schema['items'])}" if "items" in schema else ""
        parts.append(f"{schema['type']}{items}")
    parts += [f"{limit} `{_cell(json.dumps(schema[limit]))}`" for limit in LIMITS if schema.get(limit) is not None]
    return ", ".join(parts)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def _no_service() -> SearchService:
    raise GavelError("the API is described without a search service")


if __name__ == "__main__":
    print(describe_api(create_app(_no_service).openapi()))
