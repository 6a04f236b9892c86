"""Documents keep to the words of CONTRIBUTING.md and docs/glossary.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
#: These define the words, or quote the old ones.
EXEMPT = {"CHANGELOG.md", "CONTRIBUTING.md", "docs/glossary.md"}
DOCUMENTS = [
    name
    for pattern in ("*.md", "docs/*.md", "docs/decisions/*.md", "deploy/**/*.md", ".github/**/*.md")
    for document in sorted(REPOSITORY.glob(pattern))
    if (name := str(document.relative_to(REPOSITORY))) not in EXEMPT
]
AVOIDED = (
    r"nobody|somebody|anybody|everybody|whoever|whatever|is none|none of ours|for ever|so many"
    r"|takes itself|nudges?|deaf|strange|strangest|junk|made-up|pictures?|remarks?|signs? of life|suspects?"
    r"|the house|(?<!source of )truths?|ruler|shelf"
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_uses_the_words_of_the_glossary(document: str) -> None:
    # Code and names of the API are quoted as they are.
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", (REPOSITORY / document).read_text(), flags=re.DOTALL)

    assert re.findall(rf"\b(?:{AVOIDED})\b", prose, flags=re.IGNORECASE) == []


def test_every_code_name_of_the_glossary_exists() -> None:
    table = re.findall(r"^\|[^|]*\|[^|]*\|([^|]*)\|$", (REPOSITORY / "docs/glossary.md").read_text(), re.MULTILINE)
    names = {name for cell in table for name in re.findall(r"`([^`]+)`", cell)}
    packages = [
        path for top in ("api", "db", "deploy", "dicom_listener", "worker") for path in (REPOSITORY / top).rglob("*.py")
    ]
    paths = "\n".join(f"{path.relative_to(REPOSITORY)}" for path in packages)
    words = set(re.findall(r"\w+", "\n".join(path.read_text() for path in packages)))

    assert [name for name in names if name not in paths and not set(re.findall(r"\w+", name)) <= words] == []
