"""Harmless variants of an identity are silent, real differences are found."""

from __future__ import annotations

import pytest

from db.studies.identity.identity import Identity, completed, differences, labels

KNOWN = Identity("BUG01-A", "SITE", "Phantom^Alpha", "19700101", "M", "ACC01", "20260102")


def changed(**values: str) -> Identity:
    return KNOWN._replace(**values)


@pytest.mark.parametrize(
    "received",
    [
        KNOWN,
        changed(patient_id=" BUG01-A  "),
        changed(patient_id="BUG01-A\0", accession_number="ACC01\0"),
        changed(patient_id="bug01-a", issuer_of_patient_id="site", accession_number="acc01"),
        changed(patient_id="ＢＵＧ０１-Ａ"),  # noqa: RUF001 - full width, as Japanese systems write
        changed(patient_name="PHANTOM^ALPHA"),
        changed(patient_name="Phantom^Alpha^^^"),
        changed(patient_name="Phantom ^ Alpha^ ^"),
        changed(patient_name="Phantom^Alpha==="),
        changed(patient_name="Ｐｈａｎｔｏｍ＾Ａｌｐｈａ"),  # noqa: RUF001
        changed(patient_name="Phantom^Alpha^^Dr."),
        changed(patient_name="Phantom^Alpha=幻影^阿尔法=ファントム^アルファ"),
        changed(patient_birth_date="1970.01.01"),
        changed(patient_birth_date="00000000", patient_sex="U"),
        changed(patient_sex="m"),
        changed(study_date="20260103"),
        Identity(),
        Identity(patient_name="^^^^"),
    ],
)
def test_harmless_variants_do_not_differ(received: Identity) -> None:
    assert differences(KNOWN, received) == []
    assert differences(received, KNOWN) == []


@pytest.mark.parametrize(
    ("received", "fields"),
    [
        (changed(patient_id="BUG01-B"), ["patient_id"]),
        (changed(patient_id="0BUG01-A"), ["patient_id"]),
        (changed(issuer_of_patient_id="OTHER"), ["issuer_of_patient_id"]),
        (changed(patient_name="Phantom^Beta"), ["patient_name"]),
        (changed(patient_name="Phantom^Alpha^Maria"), ["patient_name"]),
        (changed(patient_name="Phantom^Alpha^^^Jr"), ["patient_name"]),
        (changed(patient_birth_date="19700102"), ["patient_birth_date"]),
        (changed(patient_sex="F"), ["patient_sex"]),
        (changed(patient_sex="O"), ["patient_sex"]),
        (changed(accession_number="ACC02"), ["accession_number"]),
        (changed(accession_number="", study_date="20260103"), ["study_date"]),
        (changed(patient_id="B", patient_name="Other^One"), ["patient_id", "patient_name"]),
    ],
)
def test_real_differences_are_found_by_field(received: Identity, fields: list[str]) -> None:
    assert differences(KNOWN, received) == fields
    assert differences(received, KNOWN) == fields


@pytest.mark.parametrize(
    ("known", "received", "same_id", "other_id"),
    [
        # One group is the same.
        ("=李^娜", "Li^Na=李^娜", True, True),
        ("李^娜", "Li^Na=李^娜", True, True),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", True, True),
        ("Yamada^Tarou==やまだ^たろう", "Yamada^Tarou==ヤマダ^タロウ", True, True),
        ("Mu\u0308ller^A", "M\u00fcller^A", True, True),
        # No group can be compared: the Patient ID decides.
        ("=李^娜", "Li^Na", True, False),
        ("Иванов^Иван", "Ivanov^Ivan", True, False),
        # An object without Specific Character Set.
        ("M\ufffdller^\ufffdnne", "M\u00fcller^\u00c4nne", True, False),
        ("M\ufffdller^A", "M\u00fcllner^A", False, False),
        # A group of one script differs.
        ("Li^Na=李^娜", "Li^Na=李^那", False, False),
        ("Li^Na", "Li^An=李^娜", False, False),
    ],
)
def test_names_in_several_scripts(known: str, received: str, *, same_id: bool, other_id: bool) -> None:
    for patient_id, same in (("1", same_id), ("", other_id)):
        found = differences(Identity(patient_id, patient_name=known), Identity(patient_id, patient_name=received))
        assert (found == []) is same


def test_empty_values_are_completed() -> None:
    assert completed(Identity(), KNOWN) == KNOWN
    assert completed(KNOWN, Identity(patient_id="x")) == KNOWN
    assert completed(Identity(patient_sex="U", patient_birth_date="00000000"), KNOWN) == KNOWN


@pytest.mark.parametrize(
    ("known", "received", "name"),
    [
        ("", "Li^Na", "Li^Na"),
        ("^^^", "Li^Na", "Li^Na"),
        ("Li^Na", "^^", "Li^Na"),
        ("LI^NA^^^", "Li^Na", "LI^NA^^^"),
        ("=李^娜", "Li^Na", "Li^Na=李^娜"),
        ("Li^Na", "Li^Na=李^娜=lǐ^nà", "Li^Na=李^娜=lǐ^nà"),
        ("李^娜", "Li^Na=李^娜", "Li^Na=李^娜"),
        ("M\ufffdller^A", "M\u00fcller^A", "M\u00fcller^A"),
        ("M\u00fcller^A", "M\ufffdller^A=李", "M\u00fcller^A=李"),
    ],
)
def test_groups_of_a_name_are_completed(known: str, received: str, name: str) -> None:
    assert completed(Identity(patient_name=known), Identity(patient_name=received)).patient_name == name


def test_fields_are_named_as_in_dicom() -> None:
    assert labels(["patient_id", "patient_name"]) == "Patient ID, Patient's Name"
