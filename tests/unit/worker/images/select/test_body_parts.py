from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from worker.images.decode.files import read
from worker.images.select.body_parts import body_parts_of, name_of, statements_of

IMAGE = np.zeros((8, 8), np.uint16)


def parts(store: Any, **elements: Any) -> str:
    return name_of(body_parts_of(read(store(IMAGE, **elements).path)))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("CHESTABDPELVIS", "CHEST, ABDOMEN AND PELVIS"),
        ("NECKCHESTABDPELV", "NECK, CHEST, ABDOMEN AND PELVIS"),
        ("CHESTABDOMEN", "CHEST AND ABDOMEN"),
        ("ABDOMENPELVIS", "ABDOMEN AND PELVIS"),
        ("HEADNECK", "HEAD AND NECK"),
        ("NECKCHEST", "NECK AND CHEST"),
        ("WHOLEBODY", "WHOLE BODY"),
        ("TSPINE", "SPINE"),
        ("CTSPINE", "SPINE"),
        ("UPPEREXTREMITY", "EXTREMITY"),
        ("SKULL", "HEAD"),
    ],
)
def test_combined_terms_name_each_part(store: Any, written: str, expected: str) -> None:
    assert parts(store, BodyPartExamined=written) == expected


@pytest.mark.parametrize(
    ("expected", "words"),
    {
        "HEAD": "KOPF SCHAEDEL CRANEO TETE TESTA CABEÇA Schädel tête cráneo HOOFD SchädelCT",
        "NECK": "HALS CUELLO PESCOÇO COU COLLO NEK",
        "CHEST": "TORAX TÓRAX TORACE POITRINE BORSTKAS LUNGE PULMÓN",
        "BREAST": "MAMA MAMMA SEIN SENO BORST",
        "ABDOMEN": "BAUCH ABDÓMEN ADDOME BUIK LEBER FOIE",
        "PELVIS": "BECKEN BASSIN BACINO BACIA BEKKEN",
        "SPINE": "COLONNE COLUMNA Wirbelsäule Brustwirbelsäule LWS HWS RACHIS WERVELKOLOM CERVICALSPINE",
        "EXTREMITY": "KNIE GENOU RODILLA JOELHO GINOCCHIO Handgelenk Hüfte CHEVILLE MANO VOET",
    }.items(),
)
def test_words_of_six_languages_are_known(store: Any, expected: str, words: str) -> None:
    found = {word: parts(store, SeriesDescription=word, SpecificCharacterSet="ISO_IR 192") for word in words.split()}

    assert found == dict.fromkeys(words.split(), expected)
    assert parts(store, SeriesDescription=words[:64], SpecificCharacterSet="ISO_IR 100") == expected


@pytest.mark.parametrize(
    "text",
    ["Darstellung", "legacy alarm", "Head first supine", "knee coil", "Testaufnahme", "T2 TSE SAG", "TRAUMA", ""],
)
def test_other_words_name_no_part(store: Any, text: str) -> None:
    assert parts(store, SeriesDescription=text) == ""


def test_adjective_of_the_spine_is_not_the_chest(store: Any) -> None:
    assert parts(store, StudyDescription="MR thoracic and cervical spine") == "SPINE"
    assert parts(store, ProtocolName="TDM thoraco-abdomino-pelvienne") == "CHEST, ABDOMEN AND PELVIS"


@pytest.mark.parametrize(
    "keyword", ["ProtocolName", "PerformedProcedureStepDescription", "RequestedProcedureDescription"]
)
def test_every_description_may_name_the_part(store: Any, keyword: str) -> None:
    assert parts(store, **{keyword: "RX GENOU"}, StudyDescription="TRAUMA CHEST") == "EXTREMITY"


def test_brust_is_the_breast_in_mr_and_the_chest_in_ct(store: Any) -> None:
    assert parts(store, BodyPartExamined="BRUST", Modality="MR") == "BREAST"
    assert parts(store, BodyPartExamined="BRUST", Modality="CT") == "CHEST"


def test_codes_precede_descriptions_unless_the_series_names_more(store: Any) -> None:
    region = Dataset()
    region.CodeValue, region.CodeMeaning = "416775004", "Brustkorb/Bauch/Becken"

    assert parts(store, AnatomicRegionSequence=[region], StudyDescription="HEAD") == "CHEST, ABDOMEN AND PELVIS"
    assert parts(store, BodyPartExamined="KNEE", SeriesDescription="HEAD") == "EXTREMITY"
    assert parts(store, BodyPartExamined="CHEST", SeriesDescription="Thorax/Abdomen 5.0") == "CHEST AND ABDOMEN"
    assert parts(store, BodyPartExamined="CHEST", StudyDescription="Thorax/Abdomen") == "CHEST"


def test_description_is_more_exact_than_the_code_of_the_examination(store: Any) -> None:
    assert parts(store, BodyPartExamined="HEAD", SeriesDescription="T2 sag C-spine") == "SPINE"
    assert parts(store, BodyPartExamined="CHESTABDPELVIS", SeriesDescription="Neck venous") == "NECK"
    assert parts(store, BodyPartExamined="WHOLEBODY", SeriesDescription="Brain") == "HEAD"
    assert parts(store, BodyPartExamined="SPINE", SeriesDescription="cervical sag") == "SPINE"
    assert parts(store, BodyPartExamined="CHESTABDPELVIS", SeriesDescription="lung 1.0") == "CHEST, ABDOMEN AND PELVIS"


def test_several_values_name_several_parts(store: Any) -> None:
    assert parts(store, BodyPartExamined=["CHEST", "ABDOMEN"]) == "CHEST AND ABDOMEN"


@pytest.mark.parametrize(
    ("coded", "described", "contradictory"),
    [
        ("KNEE", "Thorax pa", True),
        ("HEAD", "Abdomen nativ", True),
        ("ABDOMEN", "Lung bases", False),
        ("PELVIS", "Hüfte", False),
        ("KNEE", "lateral", False),
        ("", "Thorax pa", False),
    ],
)
def test_description_that_contradicts_the_code_is_noticed(
    store: Any, coded: str, described: str, contradictory: bool
) -> None:
    stored = store(IMAGE, BodyPartExamined=coded, SeriesDescription=described, SpecificCharacterSet="ISO_IR 100")

    assert statements_of(read(stored.path)).contradictory == contradictory
