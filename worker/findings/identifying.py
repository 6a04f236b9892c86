"""Shapes of text that identifies a person, in reports that are imported and in those that the model writes.

Letters and digits of other widths are read as plain ones, and invisible characters are left out (`readable`). Numbers
of repetitions have limits where a long text would otherwise take a time that grows with the square of its length.
"""

from __future__ import annotations

import re
import unicodedata

#: Compatibility forms from here on have plain equivalents; "½" and "²" below it are not changed.
_COMPATIBILITY = "\u2000"
#: Upper-case letters of Latin, Greek and Cyrillic script.
_UPPER = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0100-\u017f\u0386-\u03ab\u0400-\u042f"
#: Initials, particles and a name: "J. van der Berg", "O'Neil".
_NAME = (
    rf"(?:[{_UPPER}]\.[ -]*)*(?:(?:van|von|de|der|den|di|da|del|du|la|le|el|al|bin|ibn|ter|ten|zu|dos)\s+)*"
    rf"[{_UPPER}][\w'\u2019-]+"
)
_MONTH = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|j\u00e4n|m\u00e4r|mai|okt|dez|f\u00e9v|avr|juin|juil|ao\u00fb"
    r"|d\u00e9c|ene|abr|ago|dic|gen|mag|giu|lug|set|ott|fev|out)[^\W\d_]*\.?"
)
_TITLE = (
    r"(?:drs?|prof|mrs?|ms|miss|sir|mme|mlle|monsieur|madame|frau|herrn?|doctor|doktor|docteur|dott|dra|se\u00f1ora?"
    r"|signora?|nurse)\b\.?(?:\s*(?:med|dr|prof)\b\.?){0,4}"
)
#: Words before a name, with a colon; and words that need none.
_ROLE = (
    r"patient(?:'s)?(?: name)?|pt|name|attending|radiologist|physician|resident|fellow|surgeon|consultant|technologist"
    r"|arzt|chirurg|radiologe|befunder|m\u00e9decin|cc|author|referrer"
)
_BY = (
    r"signed|dictated|reported|read|interpreted|verified|approved|transcribed|typed|reviewed|authenticated|referred"
    r"|ordered|requested|performed|finali[sz]ed|released"
)
_TOLD = r"discussed with|informed|communicated to|signed by|spoken? (?:to|with)|spoke (?:to|with)|relayed to"
MARK = "a mark of removed text"
#: Kind -> its shape.
SHAPES = {
    "a date": re.compile(
        rf"\b(?:\d{{1,2}}[./-]\d{{1,2}}[./-](?:19|20)?\d{{2}}|(?:19|20)\d{{2}}[./-]\d{{1,2}}[./-]\d{{1,2}}"
        rf"|(?:19|20)\d{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
        rf"|\d{{1,2}}(?:st|nd|rd|th|\.)?\s+(?:of\s+|de\s+)?{_MONTH}\s*,?\s+(?:de\s+)?(?:19|20)?\d{{2}}"
        rf"|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?\s*,?\s+(?:19|20)\d{{2}}|{_MONTH},?\s+(?:19|20)\d{{2}}"
        r"|\d{1,2}:\d{2}(?::\d{2})?\s*(?:[ap]\.?m\b\.?|hours|hrs?|h|uhr))(?!\w)",
        re.IGNORECASE,
    ),
    "a name": re.compile(
        rf"\b(?i:{_TITLE})\s*{_NAME}(?:[ -]{_NAME})*|\b(?i:{_ROLE})\s*[:=]\s*{_NAME}(?:,?[ ]{_NAME})*"
        rf"|\b(?i:{_BY})(?i:\s+by\s*[:=]?|\s*[:=])\s*{_NAME}(?:,?[ ]{_NAME})*"
        rf"|\b[{_UPPER}][\w'-]+\^[{_UPPER}][\w'-]+|\b(?i:{_TOLD})\s+{_NAME}(?:[ ]{_NAME})*",
    ),
    "a number of a patient or study": re.compile(
        r"\b(?:mrn|(?:patient|pat\.?|study|case|order|visit)(?: (?:id|no|number))|accession(?: (?:no|number))?|id"
        r"|ssn|dob|nhs(?: (?:no|number))?|fallnummer|patientennummer)\s*(?:[.:#=]\s*)?[A-Z]{0,4}-?\d[\d -]+\d"
        r"|\b\d{3}-\d{2}-\d{4}\b|\b[A-Z]{0,4}\d{7,}\b|\b\d+(?:\.\d+){5,}\b",
        re.IGNORECASE,
    ),
    "a telephone number": re.compile(
        r"\b(?:tel|phone|telephone|telefon|fax|pager|bleep|ext|extension|call)\b\W{0,3}(?:no\.?|at|number)?\W{0,3}\d"
        r"[\d\s()/-]{2,}\d|(?<![\d.])\+\d{1,3}[\s()/.-]*\d(?:[\s()/.-]?\d){6,}|\(\d{3}\)\s*\d{3}[\s-]\d{4}"
        r"|\b\d{3}[-.\s]\d{3}[-.\s]\d{4}\b",
        re.IGNORECASE,
    ),
    "an address": re.compile(
        r"[\w.+-]{1,64}@[\w-]+\.[\w.]+|(?i:https?://\S+|\bwww\.\S+)"
        rf"|\b\d{{1,5}} [{_UPPER}]\w+ (?:Street|St|Avenue|Ave|Road|Rd|Lane|Drive|Court)\b"
        rf"|\b[{_UPPER}][\w-]{{0,60}}(?:stra\u00dfe|strasse|str\.|gasse|weg) \d{{1,4}}"
        r"|\b(?i:room|ward) (?:no\.? ?)?\d+\w?\b"
    ),
    MARK: re.compile(
        r"\[\*\*.*?\*\*\]|_{3,}|\bX{4,}\b"
        r"|[\[<]{1,4}(?:NAME|DATE|PERSON|PATIENT|DOCTOR|HOSPITAL|LOCATION|REDACTED|PHI|ID|AGE)\b[^\]>]*[\]>]+"
    ),
    "the age of the patient": re.compile(
        r"\b\d{1,3}[- ]?(?:years?|yrs?|y\.?\s?o?\.?|yo|y/o)[- ]?(?:old|of age)\b|\b\d{1,3}\s?(?:yo|y/o|y\.o\.)(?!\w)"
        r"|\baged?:? \d{1,3}\b",
        re.IGNORECASE,
    ),
}


def readable(text: str) -> str:
    """Return *text* with plain letters and digits for those of other widths, and without invisible characters."""
    plain = (unicodedata.normalize("NFKC", one) if one >= _COMPATIBILITY else one for one in text)
    return "".join(one for part in plain for one in part if one in "\n\t\r" or unicodedata.category(one)[0] != "C")


def kinds(text: str) -> list[str]:
    """Return the kinds of identifying text of which *text* holds a shape."""
    plain = readable(text)
    return [kind for kind, shape in SHAPES.items() if shape.search(plain)]


def spans(text: str) -> list[tuple[int, int]]:
    """Return the offsets of text of a person in `readable` *text*, without marks of removed text; some may overlap."""
    return [found.span() for kind, shape in SHAPES.items() if kind != MARK for found in shape.finditer(text)]
