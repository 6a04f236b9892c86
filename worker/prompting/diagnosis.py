"""The prompt for a choice between diagnoses: MedDr's and GSCo's wording, and in version 2 a last option."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from db.answers.answer import is_none_of_these
from db.errors import PermanentFailure, Reason
from worker.prompting import wording
from worker.prompting.plain_text import as_label, in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Options of one choice, and tokens of one option: lists of sites have up to 20, the longest names about 15.
MAX_OPTIONS = 64
MAX_OPTION_TOKENS = 32
#: Options that deny every other one: MedDr's prompt for several options ends with such an option.
WITHOUT_FINDING = frozenset({"no finding", "no findings", "normal", wording.NONE_OF_THESE})


@dataclass(frozen=True, slots=True)
class Choice:
    """Diagnoses to choose from; *several* if more than one may be right."""

    options: Sequence[str]
    several: bool = False

    def offered(self, version: wording.Version) -> list[str]:
        """Return the options as the prompt lists them: in one line, in version 2 with `none of these` last."""
        options = [in_one_line(option) for option in self.options]
        if wording.ENDS_WITH_NONE_OF_THESE[version]:
            options = [option for option in options if not is_none_of_these(option)]
            options.append(wording.NONE_OF_THESE)
        return options


@dataclass(frozen=True, slots=True)
class Guidance:
    """Diagnoses of other cases, the most similar first, and those that specialist models predict for this study."""

    similar_cases: Sequence[str] = ()
    specialists: Sequence[str] = ()


def fitted_choice(choice: Choice, tokens: Callable[[str], int]) -> Choice:
    """Return a choice with its options in one line; raises PermanentFailure if one cannot be chosen.

    Texts of options are in no failure: a requester may have written patient data there.
    """
    options = [in_one_line(option) for option in choice.options]
    if len({option.casefold() for option in options}) < len(options):
        raise _invalid("two options are equal: send each option once")
    if not 0 < len(options) <= MAX_OPTIONS:
        raise _invalid(f"the choice has {len(options)} options: send 1 to {MAX_OPTIONS}")
    for number, option in enumerate(options, start=1):
        if is_none_of_these(option):
            raise _invalid(f"option {number} means {wording.NONE_OF_THESE!r}, which is always added: send the others")
        if not option or tokens(option) > MAX_OPTION_TOKENS:
            raise _invalid(f"option {number} is empty or too long: send 1 to {MAX_OPTION_TOKENS} tokens")
    return replace(choice, options=options)


def _invalid(detail: str) -> PermanentFailure:
    return PermanentFailure(Reason.INVALID_QUESTION, detail)


def diagnosis_prompt(
    modality: str, body_part: str, choice: Choice, guidance: Guidance | None = None, *, version: wording.Version
) -> str:
    """Return the prompt for a choice, byte for byte as GSCo's inference script, with a space at both ends."""
    options = choice.offered(version)
    image = wording.DIAGNOSIS.format(image=wording.image_name(modality, body_part))
    listed = _several(options) if choice.several else _one(options)
    sentences = [wording.ASSISTANT, image, listed[0], *_guidance(guidance or Guidance()), *listed[1:]]
    return f" {' '.join(sentences)} "


def _one(options: Sequence[str]) -> list[str]:
    listed = ", ".join(f"'{option}'" for option in options)
    return [wording.ONE_OPTION.format(options=listed), wording.ONE_OPTION_ONLY]


def _several(options: Sequence[str]) -> list[str]:
    last = [option for option in options if option.casefold() in WITHOUT_FINDING]
    sentences = [wording.SEVERAL_OPTIONS.format(options=",".join(options)), wording.SEVERAL_OPTIONS_ONLY]
    return [*sentences, *(wording.LAST_OPTION.format(option=option) for option in last[-1:])]


def _guidance(guidance: Guidance) -> list[str]:
    parts = (wording.SIMILAR_CASES, guidance.similar_cases), (wording.SPECIALISTS, guidance.specialists)
    texts = [(sentence, ",".join(filter(None, map(as_label, labels)))) for sentence, labels in parts]
    return [sentence.format(labels=labels) for sentence, labels in texts if labels]
