"""What the documentation says about the settings, generated from the code that reads them."""

from __future__ import annotations

from db.settings import PREFIX, Settings


def settings_table() -> str:
    """Every setting as a row of a Markdown table."""
    rows = (
        f"| `{PREFIX}{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    )
    return "\n".join(("| Variable | Default | Meaning |", "| --- | --- | --- |", *rows))


def _default(value: object) -> str:
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return "" if value in (None, {}) else f"`{value}`"
