"""The labeller's words: findings, sides, zones, sizes, and triggers of negation and uncertainty.

Written for this project. Scores measured with it are called rule-F1 and cannot be compared with other labellers'.
"""

from __future__ import annotations

import re

#: Finding -> its names in reports. The first match at an offset wins, so the more specific name comes first.
FINDINGS: tuple[tuple[str, str], ...] = (
    ("hydropneumothorax", r"hydro-?pneumothora(?:x|ces)"),
    ("pneumothorax", r"pneumothora(?:x|ces)"),
    ("pneumomediastinum", r"pneumomediastinum"),
    ("free air", (
        r"free (?:intraperitoneal |subdiaphragmatic |abdominal )?(?:air|gas)|pneumoperitoneum|(?:air|"
        r"gas) under (?:the |either )?(?:hemi)?diaphragm"
    )),
    ("subcutaneous emphysema", r"(?:subcutaneous|surgical|soft tissue) emphysema"),
    ("emphysema", r"emphysema(?:tous)?"),
    ("pleural effusion", (
        r"(?:pleural |(?<!pericardial )(?<!joint ))effusions?|pleural fluid|hydrothora(?:x|ces)|"
        r"fluid in the (?:\w+ )?pleural (?:space|cavity)|"
        r"blunting of (?:\w+ ){0,2}costophrenic (?:angles?|recess(?:es)?)|"
        r"costophrenic (?:angles?|recess(?:es)?) (?:is |are |appears? )?blunt(?:ed|ing)"
    )),
    ("pericardial effusion", r"pericardial (?:effusion|fluid)"),
    ("consolidation", r"consolidations?|consolidated|air ?space (?:opacit(?:y|ies)|disease)|pneumonia"),
    ("miliary opacities", r"miliary (?:opacit(?:y|ies)|nodules|pattern|disease)"),
    ("nodule", r"nodul(?:e|es|ar opacit(?:y|ies))|coin lesions?"),
    ("atelectasis", (
        r"atelectas[ie]s|atelectatic|lobar collapse|collapse of (?:the )?(?:\w+ ){0,2}lobes?|"
        r"(?:lobes?|lung) (?:is |are |has |appears )?(?:also |partially |partly |completely )?collapsed|"
        r"collapsed (?:\w+ ){0,2}(?:lobes?|lung)"
    )),
    ("hilar enlargement", (
        r"hil(?:ar|um|a) (?:is |are |appears? )?(?:not )?(?:enlarge(?:d|ment)|prominen(?:t|ce)|full(?:ness)?)|"
        r"enlarge(?:d|ment)(?: of)?(?: the)?(?: left| right| both)? hil(?:um|a|ar)|hilar (?:lymph)?adenopathy"
    )),
    ("cardiomegaly", (
        r"cardiomegaly|cardiac enlargement|enlarge(?:d|ment)(?: of)?(?: the)? (?:heart|cardiac silhouette|"
        r"cardiac contour|cardiomediastinal silhouette)|(?:heart|heart size|cardiac silhouette|"
        r"cardiac contour|cardiomediastinal silhouette)(?: size)?:? (?:is |appears |remains )?"
        r"(?:not )?(?:significantly )?"
        r"(?:(?:mildly|moderately|markedly|slightly|severely|grossly) (?:to )?){0,2}enlarged"
    )),
    ("pulmonary oedema", r"(?:pulmonary|interstitial|alveolar) o?edema|vascular congestion"),
    ("rib fracture", r"(?:rib|ribs) fractures?|fractur(?:es?|ed)(?: of)?(?: the)?(?:,? \w+){0,6}? ribs?"),
    ("fracture", r"fractur(?:es?|ed)"),
    ("hiatal hernia", r"hiat(?:al|us) hernia"),
    ("pacemaker", r"pacemakers?|pacing (?:device|leads?)|pacer"),
    ("central venous line", (
        r"central (?:venous )?(?:line|catheter)s?|picc(?: line)?|port-?a-?cath|jugular (?:line|catheter)|"
        r"subclavian (?:line|catheter)"
    )),
    ("tracheal tube", r"(?:endo)?tracheal tubes?|et tube|ett"),
    ("spinal rods", (
        r"(?:spinal|harrington)(?: fixation| stabili[sz]ation)? rods?|spinal (?:fixation|hardware|"
        r"instrumentation)"
    )),
    ("subdural haematoma", r"subdural (?:ha?ematomas?|ha?emorrhages?|collections?)"),
    ("retinal haemorrhages", r"retinal ha?emorrhages?|ha?emorrhages? of the retina|(?:few|numerous) ha?emorrhages"),
    ("haemorrhage", r"ha?emorrhages?|intracranial bleed(?:ing)?|ha?ematomas?"),
    ("infarct", r"infarct(?:s|ion|ions)?|isch(?:a)?emic stroke"),
    ("hydrocephalus", (
        r"hydrocephalus|ventriculomegaly|(?:enlarge(?:d|ment)|dilat(?:ed|"
        r"ation))(?: of)?(?: the)? ventricles|ventricles (?:are |appear )?(?:enlarged|dilated)"
    )),
    ("midline shift", r"midline shift"),
    ("exudates", r"exudates?"),
    ("drusen", r"drusen"),
    ("disc cupping", r"(?:disc )?cupping|enlarged cup|cup-to-disc ratio is increased"),
    ("benign naevus", r"(?:benign|regular)(?: pigmented)? na?ev(?:us|i)|na?ev(?:us|i)"),
    ("irregular lesion", r"irregular (?:pigmented )?lesion|pigmented lesions? with (?:an )?irregular border|melanoma"),
    ("pigmented lesion", r"pigmented lesions?"),
    ("erythema", r"erythema(?:tous)?"),
    ("ulceration", r"ulcerations?"),
    ("ulcer", r"ulcers?"),
    ("polyp", r"polyps?"),
    ("bleeding", r"(?:active )?bleeding|fresh blood"),
    ("diverticulum", r"divertic(?:ulum|ula|ulosis)"),
    ("tumour", r"tumou?rs?(?: cells)?|carcinoma|adenocarcinoma"),
    ("mass", r"mass(?:es)?(?! effect)"),
    ("inflammation", r"inflammation|inflammatory infiltrates?"),
    ("necrosis", r"necro(?:sis|tic)"),
    ("unclassified abnormality", r"unclassified abnormality|abnormality that is not further classified"),
    ("opacity", r"opacit(?:y|ies)|infiltrates?"),
    ("device", r"(?:lines or |lines and )?devices?"),
    ("abnormality", r"abnormalit(?:y|ies)"),
)  # fmt: skip
MENTION = re.compile("|".join(f"(?P<f{n}>\\b(?:{pattern})\\b)" for n, (_, pattern) in enumerate(FINDINGS)))

SIDE = re.compile(
    r"\b(?P<left>left(?:-sided)?)\b|\b(?P<right>right(?:-sided)?)\b|\b(?P<both>bilateral(?:ly)?|both|"
    r"bibasal|bibasilar|either)\b"
)
#: One finding on both sides, with a word for each: "left and right", "large left and small right".
LEFT_AND_RIGHT = re.compile(
    r"\b(?P<one>left|right)(?:-sided)? (?:and|or) (?:\w+ )?(?!(?P=one)\b)(?:left|right)(?:-sided)?\b[^,;]*$"
)
#: Refers to the side of an earlier finding.
SAME_SIDE = re.compile(r"\b(?:(?:that|the same) side|ipsilateral)\b")
#: Side at the beginning of a clause, for all mentions in it without their own.
LEADING_SIDE = re.compile(r"\s*(?:on|in) the (?P<side>left|right)\b")
ZONE = re.compile(
    r"\b(?P<upper>upper|apical|ap(?:ex|ices))\b|\b(?P<middle>mid(?:dle|-?zones?)?|perihilar)\b|\b(?P<lower>lower|bas(?:al|ilar|es?))\b"
)
#: Two places of one finding: "left upper and right lower zones", "right upper and lower zones".
TWO_PLACES = re.compile(
    r"\b(?P<side>left|right)(?:-sided)? (?P<zone>upper|mid(?:dle)?|lower)(?: zones?| lobes?)? (?:and|or) (?:the )?"
    r"(?:(?P<other_side>left|right)(?:-sided)? )?(?P<other_zone>upper|mid(?:dle)?|lower)\b"
)
SIZE = re.compile(
    r"\b(?P<small>small|tiny|minimal|mild(?:ly)?|trace|slight(?:ly)?|minor|few|discrete)\b"
    r"|\b(?P<moderate>moderate(?:ly|-sized)?|medium(?:-sized)?)\b"
    r"|\b(?P<large>large|marked(?:ly)?|massive|severe(?:ly)?|extensive|numerous|gross(?:ly)?|many|big)\b"
)

#: Findings told apart by zone; for others the zone is implied ("basal atelectasis").
ZONED = frozenset({"consolidation", "nodule", "opacity", "mass"})
#: Findings without a side: midline or diffuse.
WITHOUT_SIDE = frozenset({
    "cardiomegaly", "miliary opacities", "free air", "hydrocephalus", "pulmonary oedema", "tracheal tube",
    "spinal rods", "hiatal hernia", "pericardial effusion", "pneumomediastinum", "midline shift",
})  # fmt: skip

#: Participles of a finding that is no longer present.
_RESOLVED = r"(?:resolved|healed|cleared|removed|stopped|taken out|withdrawn)"
#: Phrases that resemble a negation; removed before the search for negations.
PSEUDO_NEGATION = re.compile(
    r"\bno (?:significant |interval |appreciable )?"
    r"(?:change|increase|decrease|improvement|worsening|progression|interval)\b"
    r"|\b(?:not (?:yet )?(?:been )?(?:\w+ly )?|(?:partially|partly|incompletely|nearly|almost|largely|mostly) )"
    rf"{_RESOLVED}\b"
    r"|\bnot only\b|\bno (?:doubt|question|reason to doubt)\b|\bnot necessarily\b"
    r"|\bwithout (?:significant |interval )?change\b"
)
#: Before the finding.
NEGATION = re.compile(
    r"\b(?:no|not|without|absent|absence of|negative for|free of|clear of|rather than|instead of|denies|"
    r"nor|neither|never|\w+n't|nothing to suggest|fail(?:s|ed) to|history of|"
    r"excludes?|excluding|rules out|ruled out|resolution of|resolved|no longer|removal of|removed|exclude|"
    r"lack of|lacks|devoid of|unlikely|cleared)\b"
)
#: After the finding.
POST_NEGATION = re.compile(
    r"\b(?:is|are|was|were|has|have|been|can be|being|appears?|now|since|completely|fully|definitely)?\s*"
    r"(?:(?:not|cannot|\w+n't) (?:be )?(?:clearly |definitely )?"
    r"(?:seen|identified|present|visible|visuali[sz]ed|evident|demonstrated|detected|apparent|found|shown|"
    r"developed|confirmed|a feature)"
    r"|absent|(?<!not )(?<!not been )(?<!not yet )(?:excluded|ruled out)"
    rf"|{_RESOLVED}|unlikely|no longer \w+|seen neither|not(?=\s*[.,;]))\b"
)
#: The same without a verb: "pneumothorax, resolved".
PARTICIPLE = re.compile(rf"(?:absent|excluded|ruled out|{_RESOLVED}|unlikely)\b")
#: Words between a conjunction and a trigger that applies to the finding before it.
PLACE = re.compile(
    r"(?:\s*(?:in|on|at|of|the|left|right|both|upper|middle|mid|lower|zones?|lobes?|lungs?|bases?|sides?)\b)*\s*"
)
#: Right after the finding, as in "Pneumothorax: none".
LIST_NEGATION = re.compile(r"\s*[:=\u2013-]?\s*(?:none|nil|absent|negative|no)\s*(?:[.,;]|$)|[- ]free\b")
#: Begins a new clause after a comma, which an earlier negation does not reach.
CLAUSE = re.compile(r"\s*and (?:an?|the)\b")
ASSERTED = re.compile(r"\b(?:shows?|demonstrates?|contains?|has|have)\b")
#: Before the finding.
UNCERTAINTY = re.compile(
    r"\b(?:possibl[ey]|probabl[ey]|suspected|suspicious (?:for|of)|suspicion (?:for|of)|questionable|equivocal|"
    r"(?:may|might|could|can) (?:well )?(?:represent|reflect|be|indicate|suggest|correspond to)|might|"
    r"(?:can(?:not|'t)|unable to|not possible to|difficult to) (?:entirely |completely )?(?:exclude|rule out)|"
    r"(?:to |please )?(?:exclude|rule out)|"
    r"likely|versus|vs\.?|differential|concern(?:ing)? for|perhaps|presumed|query|in question)\b|\?\s*(?:\w+\s+)*$"
)
#: After the finding.
POST_UNCERTAINTY = re.compile(
    r"\b(?:(?:is|are|was|were|be|remains?|seems?|appears?) (?:\w+ )?"
    r"(?:possible|probable|likely|suspected|questionable|equivocal|presumed|uncertain|in question)|"
    r"(?:may|might|could) (?:well )?be (?:present|there|seen)|"
    r"can(?:not|'t) be (?:entirely |completely |confidently |safely )?(?:excluded|ruled out)|"
    r"not (?:been |yet )?(?:entirely |completely )?(?:excluded|ruled out)|"
    r"if (?:present|any|real)|versus|vs\.?)\b"
)
#: Ends the scope of a negation or uncertainty.
TERMINATION = re.compile(
    r"\b(?:but|however|although|though|(?<!not )yet|except(?: for)?|apart from|aside from|other than|whereas|while|"
    r"despite|with (?:a|an|new|associated|adjacent|persistent|residual|persisting)|there (?:is|are)|which)\b|[;:]"
)
#: Comparison with an earlier examination: the prompt contains none, so it is invented.
PRIOR_STUDY = re.compile(
    r"\b(?:compared (?:to|with)|in comparison (?:to|with)|comparison (?:is made|study|film)|"
    r"prior (?:study|examination|exam|film|radiograph|ct|mri)|previous(?:ly)?|unchanged|"
    r"interval (?:increase|decrease|change|development|improvement|resolution)|since the (?:last|prior|previous)|"
    r"again (?:seen|noted|demonstrated)|stable|progress(?:ed|ion)|"
    r"has (?:increased|decreased|improved|worsened|resolved)|new since|persist(?:s|ent)|regress(?:ed|ion))\b"
)
