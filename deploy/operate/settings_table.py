"""Tables of the settings for the documentation, generated from the code that reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.environment import OLD_NAMES, variable
from db.settings import SECTIONS

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

#: Settings of the first installation, in the README.
FIRST = ("data_dir", "database_url", "broker_url", "ae_title", "dicom_port", "checkpoint", "device", "api_port")
HEAD = ("| Variable | Default | Meaning |", "| --- | --- | --- |")


def settings_tables() -> str:
    """Return every setting in Markdown, one table a section, and the old names."""
    parts: list[str] = []
    for section in SECTIONS.values():
        rows = (_row(name, field) for name, field in section.model_fields.items())
        parts += [f"## {str(section.__doc__).rstrip('.')}", "", *HEAD, *rows, ""]
    renamed = (f"| `{variable(old)}` | `{variable(new)}` |" for old, new in OLD_NAMES.items())
    return "\n".join((*parts, "## Old names", "", "| Old | New |", "| --- | --- |", *renamed))


def first_settings_table() -> str:
    """Return the settings of the first installation as one Markdown table."""
    fields = {name: field for section in SECTIONS.values() for name, field in section.model_fields.items()}
    return "\n".join((*HEAD, *(_row(name, fields[name]) for name in FIRST)))


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{variable(name)}` | {_default(field.default)} | {field.description} |"


def _default(value: object) -> str:
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return "" if value in (None, {}) else f"`{value}`"
