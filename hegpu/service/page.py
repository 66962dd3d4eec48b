"""The page ``/docs``: an OpenAPI description as HTML that loads nothing, neither from here nor from elsewhere."""

from html import escape
from typing import Any

NOTHING_IS_LOADED = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { font: bold 1rem monospace; margin-top: 2.5rem } td { vertical-align: top; padding-right: 1rem }
td:first-child { font-family: monospace; white-space: nowrap }
</style>"""
_BOUNDS = {"minimum": "at least", "maximum": "at most", "exclusiveMaximum": "below", "minLength": "at least",
           "maxLength": "at most", "pattern": "like"}  # fmt: skip


def page(description: dict[str, Any]) -> str:
    """``description``: what ``FastAPI.openapi()`` returns."""
    info, models = description["info"], description.get("components", {}).get("schemas", {})
    parts = [_HEAD, f"<title>{escape(info['title'])}</title><h1>{escape(info['title'])} {escape(info['version'])}</h1>"]
    parts.append(f'<p>{escape(info.get("summary", ""))} <a href="openapi.json">openapi.json</a> for programs.')
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            parts.append(
                f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation.get('description', ''))}<table>"
            )
            parts += [f"<tr><td>{escape(a)}<td>{escape(b)}" for a, b in _rows(operation, models)]
            parts.append("</table>")
    return "\n".join(parts)


def _rows(operation: dict[str, Any], models: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, how it looks) of everything that goes in and comes out; answers that look alike share a row."""
    rows = []
    if operation.get("security"):
        rows.append(("Authorization", "Bearer TOKEN"))
    for p in operation.get("parameters", []):
        parts = [f"in the {p['in']}: {_shape(p['schema'], models)}", p.get("description")]
        rows.append((p["name"] + ("" if p.get("required") else "?"), "; ".join(filter(None, parts))))
    if "requestBody" in operation:
        rows.append(("body", _content(operation["requestBody"], models)))
    answers: dict[str, list[str]] = {}
    for status, answer in operation["responses"].items():
        answers.setdefault(f"{answer['description']} {_content(answer, models)}", []).append(status)
    return rows + [(", ".join(status), text) for text, status in answers.items()]


def _content(holder: dict[str, Any], models: dict[str, Any]) -> str:
    return " or ".join(f"{kind} {_shape(c.get('schema', {}), models)}" for kind, c in holder.get("content", {}).items())


def _shape(schema: dict[str, Any], models: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _shape(models[schema["$ref"].rpartition("/")[2]], models)
    if "anyOf" in schema:
        return " or ".join(_shape(s, models) for s in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    if "properties" in schema:
        needed = schema.get("required", [])
        fields = (f"{n}{'' if n in needed else '?'}: {_shape(s, models)}" for n, s in schema["properties"].items())
        return "{" + ", ".join(fields) + "}"
    if schema.get("type") == "array":
        return f"[{_shape(schema['items'], models)}, ...]"
    bounds = [f"{text} {schema[key]}" for key, text in _BOUNDS.items() if key in schema]
    return " ".join(filter(None, [schema.get("format") or schema.get("type", ""), ", ".join(bounds)]))
