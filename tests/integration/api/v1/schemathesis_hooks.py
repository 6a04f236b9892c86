"""Hooks of schemathesis, run in its own environment: they put stored values into valid requests.

SEEDS names a JSON file with values for all operations and for single ones, ANSWERS a file that gets a line for each
answer. Requests that are made to be refused stay as they are.
"""

import json
import os
import unicodedata
import uuid
from pathlib import Path
from typing import Any

import schemathesis

SEEDS = json.loads(Path(os.environ["SEEDS"]).read_text())
ANSWERS = Path(os.environ["ANSWERS"])
#: A recall needs one of these, which an OpenAPI document cannot say.
RECALLS = {"GET /v1/reports", "GET /v1/answers"}
RECALLED = {"case_id", "model_digest", "prompt", "specialist"}


def seeds(case: Any, part: str) -> dict[str, Any]:
    """Return the stored values for a part of a request: of all operations, and of this one."""
    found: dict[str, Any] = SEEDS["all"].get(part, {}) | SEEDS.get(case.operation.label, {}).get(part, {})
    return found


@schemathesis.hook
def before_call(_: Any, case: Any, __: dict[str, Any]) -> None:
    """Make a valid request meet what is stored, and what a document cannot describe."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.path_parameters:
        case.path_parameters = dict(path(case))
    case.query = query(case)
    if case.headers:
        case.headers.update(headers(case))
    case.body = body(case)


def path(case: Any) -> Any:
    """Yield the parameters: of four ids three are stored ones, so that unknown ones are tested too."""
    stored, belongs = seeds(case, "path"), case.operation.label.endswith(("/feedback", "/{frame}"))
    for name, value in case.path_parameters.items():
        # An ETag belongs to its study, and so does an image.
        is_kept = name.endswith("_id") and uuid.UUID(str(value)).int % 4 == 0 and not belongs
        yield name, value if is_kept else stored.get(name, 1)


def query(case: Any) -> Any:
    """Return the parameters without a cursor, which is signed, with stored versions."""
    found = {name: value for name, value in (case.query or {}).items() if name != "after"}
    found |= dict.fromkeys({"version", "earlier", "later"} & set(found), 1)
    if case.operation.label in RECALLS and not RECALLED & set(found):
        found["prompt"] = "report/1"
    return found


def headers(case: Any) -> dict[str, str]:
    """Return the ETag of the report, and another key for each request, if the request has such headers."""
    new = {"if-match": seeds(case, "headers")["if-match"], "idempotency-key": str(uuid.uuid4())}
    return {name: new[name.lower()] for name in case.headers if name.lower() in new}


def body(case: Any) -> Any:
    """Return the body in plain characters; options differ, and no sentence is numbered: the report has none."""
    found = plain(case.body)
    if isinstance(found, dict) and found.get("sentence"):
        found["sentence"] = None
    if isinstance(found, dict) and "options" in found:
        found["options"] = [f"{number} {option}"[:100] for number, option in enumerate(found["options"])]
    return found


def plain(value: Any) -> Any:
    """Replace control characters and blanks: a JSON schema has no name for the characters that are refused."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, str):
        return value
    return "".join("x" if unicodedata.category(each)[0] in "CZ" else each for each in value)


@schemathesis.hook
def after_call(_: Any, case: Any, response: Any) -> None:
    """Note the answer."""
    with ANSWERS.open("a") as file:
        file.write(f"{response.status_code} {case.operation.label}\n")
