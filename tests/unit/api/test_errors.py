from __future__ import annotations

import re

from api.errors import ErrorCode
from tests.conftest import REPOSITORY


def test_every_error_code_is_documented() -> None:
    errors = (REPOSITORY / "docs" / "api.md").read_text().split("## Errors")[1].split("\n## ")[0]

    assert set(ErrorCode) <= set(re.findall(r"`(\w+)`", errors))
