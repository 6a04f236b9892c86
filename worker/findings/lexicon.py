"""The labeller's words: findings, sides, zones and sizes.

Written for this project. Scores measured with it are called rule-F1 and cannot be compared with other labellers'.
"""

from __future__ import annotations

import re

#: Finding -> its names in reports. The first match at an offset wins, so the more specific name comes first.
FINDINGS: tuple[tuple[str, str], ...] = (
    ("hydropneumothorax", r"(?:hydro|ha?emo)-?pneumothora(?:x|ces)"),
    ("pneumothorax", r"pneumothora(?:x|ces)"),
    ("pneumomediastinum", r"pneumomediastinum|mediastinal (?:emphysema|air|gas)"),
    ("free air", (
        r"free (?:intraperitoneal |intra-?abdominal |subdiaphragmatic |subphrenic |abdominal |peritoneal )*(?:air|gas)|"
        r"pneumoperitoneum|sub(?:diaphragmatic|phrenic) (?:free )?(?:air|gas)|"
        r"(?:air|gas) (?:is |was )?(?:seen |present |noted |visible )?(?:under|below|beneath|underneath) "
        r"(?:the |either |both |left |right |domes? of )*(?:hemi)?diaphragms?"
    )),
    ("subcutaneous emphysema", (
        r"(?:subcutaneous|surgical|soft[- ]tissue|chest wall) (?:emphysema|air|gas)|"
        r"(?:emphysema|air|gas) (?:of|in|within) (?:the )?"
        r"(?:soft tissues?|subcutis|subcutaneous tissues?|chest wall|neck)"
    )),
    ("emphysema", r"emphysema(?:tous)?"),
    ("pleural effusion", (
        r"(?:pleural |(?<!pericardial )(?<!joint ))effusions?|pleural fluid|pleural (?:fluid )?collections?|"
        r"(?:hydro|ha?emo)thora(?:x|ces)|"
        r"fluid in (?:the )?(?:\w+ )?pleural (?:space|cavity)|layering (?:pleural )?fluid|"
        r"fluid in (?:the )?(?:\w+ ){0,2}fissures?|"
        r"blunt(?:ing|ed)(?: of)? (?:\w+ ){0,2}costophrenic (?:angles?|recess(?:es)?|sulc(?:us|i))|"
        r"costophrenic (?:angles?|recess(?:es)?|sulc(?:us|i)) (?:is |are |appears? )?(?:both |not |mildly |slightly )*"
        r"(?:blunt(?:ed|ing)|obliterated|effaced)"
    )),
    ("pericardial effusion", r"pericardial (?:effusion|fluid)"),
    ("consolidation", (
        r"consolidations?|consolidated|consolidative (?:opacit(?:y|ies)|changes?)|"
        r"air[- ]?space (?:opacit(?:y|ies)|opacification|disease|shadowing)|(?:broncho)?pneumonias?|"
        r"pneumonic (?:infiltrat(?:es?|ions?)|changes?|foc(?:us|i)|shadow(?:s|ing))"
    )),
    ("miliary opacities", (
        r"miliary (?:opacit(?:y|ies)|nodul(?:es|arity)|pattern|disease|shadow(?:s|ing)|infiltrates?|lesions?|"
        r"tuberculosis)|"
        r"nodul(?:es|arity)(?: \w+){0,5} in an? miliary (?:pattern|distribution)"
    )),
    ("nodule", (
        r"(?:micro)?nodul(?:e|es|ar (?:opacit(?:y|ies)|densit(?:y|ies)|lesions?|shadows?))|coin lesions?|"
        r"round(?:ed)? (?:lesions?|foc(?:us|i)|densit(?:y|ies))"
        r"(?= in (?:the )?(?:left|right) (?:upper|mid|middle|lower|lung))"
    )),
    ("atelectasis", (
        r"(?:a|dys)telectas[ie]s|atelectatic|(?:lobar|lobes?|basal) collapse|"
        r"collapse of (?:the )?(?:\w+ ){0,2}(?:lobes?|lungs?)|"
        r"volume loss (?:in|of|at) (?:the )?(?:\w+ ){0,2}(?:(?:upper|middle|lower) lobes?|lungs?|lung bases?)|"
        r"(?:lobes?|lung) (?:is |are |has |appears )?(?:also |partially |partly |completely )?collapsed|"
        r"collapsed (?:\w+ ){0,2}(?:lobes?|lung)|"
        r"(?:lobes?|lung), (?:which (?:is|was|had been) |previously |still )?collapsed|"
        r"(?<!vertebral )(?<!body )(?<!endplate )(?<!airway )(?<!tracheal )collapse(?! of\b)"
    )),
    ("hilar enlargement", (
        r"(?:bi)?hil(?:ar|um|a|i|us) (?:is |are |appears? )?(?:not )?(?:\w+ly )?"
        r"(?:enlarge(?:d|ment)|prominen(?:t|ce)|full(?:ness)?|bulky)|"
        r"(?:enlarge(?:d|ment)|prominen(?:t|ce)|fullness|bulky)(?: of)?(?: the)?(?: left| right| both)? hil(?:um|a|ar)|"
        r"(?:bi)?hilar (?:(?:lymph)?adenopathy|lymph node enlargement)"
    )),
    ("cardiomegaly", (
        r"cardiomegaly|cardiac enlargement|enlarge(?:d|ment)(?: of)?(?: the)? (?:heart|(?:cardiac|"
        r"heart) (?:shadow|outline|size)|"
        r"cardiac silhouette|"
        r"cardiac contour|cardiomediastinal silhouette)|(?:heart|heart size|cardiac silhouette|(?:cardiac|"
        r"heart) (?:shadow|outline)|"
        r"cardiac contour|cardiomediastinal silhouette)(?: size)?:? (?:is |appears |remains )?"
        r"(?:not )?(?:significantly )?"
        r"(?:(?:mildly|moderately|markedly|slightly|severely|grossly|borderline|also|again) (?:to )?){0,2}enlarged|"
        r"(?:heart|cardiac silhouette|cardiomediastinal silhouette)\s?[-:] ?(?:\w+ly )?enlarged|increased heart size|"
        r"(?:heart|cardiac) size (?:is )?(?:\w+ly )?increased|increased cardiac size|large heart|"
        r"(?:cardiothoracic ratio|ctr|ct ratio) (?:is )?(?:increased|enlarged)"
    )),
    ("pulmonary oedema", (
        r"(?:pulmonary|interstitial|alveolar|cardiogenic|lung) o?edema|(?:vascular|venous|pulmonary) congestion|"
        r"(?:congestive )?(?:heart|cardiac) failure|(?:fluid|volume) overload|"
        r"congestion signs|ventricular failure|(?:cardiac|heart) decompensation|"
        r"(?:(?<=no )|(?<=overt )|(?<=evidence of )|(?<=signs of )|(?<=sign of )|(?<=without )|(?<=in ))"
        r"failure(?= *(?:[.,;)]|$|or\b))|"
        r"(?:(?<=no )|(?<=without )|(?<=signs of )|(?<=sign of )|(?<=evidence of ))congestion(?! of\b)|"
        r"(?:(?<=no )|(?<=without )|(?<=overt )|(?<=frank )|(?<=florid )|(?<=evidence of )|"
        r"(?<=consolidation or )|(?<=consolidation, or )|(?<=congestion or )|(?<=effusions, or )|"
        r"(?<=effusion or )|(?<=effusion, or )|(?<=effusions or )|(?<=pneumothorax or )|(?<=pneumothorax, or ))o?edema"
    )),
    ("rib fracture", r"(?:rib|ribs) fractures?|fractur(?:es?|ed)(?: of)?(?: the)?(?:,? \w+){0,6}? ribs?"),
    ("fracture", r"fractur(?:es?|ed)|(?:bony|osseous|bone) injur(?:y|ies)"),
    ("hiatal hernia", r"hiat(?:al|us) hernias?|para-?o?esophageal hernias?"),
    ("pacemaker", (
        r"pacemakers?|pacing (?:device|leads?|wires?|system|box)|pacers?|(?:cardioverter[- ])?defibrillators?"
    )),
    ("central venous line", (
        r"central (?:venous )?(?:access )?(?:line|catheter)s?|picc(?:s| lines?| catheters?)?|port-?a-?cath|mediport|"
        r"port (?:catheter|system)s?|"
        r"(?:(?:internal )?jugular|subclavian)(?: (?:central|venous|vein|dialysis|tunneled|tunnelled))* "
        r"(?:line|catheter)s?|(?:dialysis|hickman|tunnell?ed|triple[- ]lumen) (?:line|catheter)s?|"
        r"vas-?cath|perma?-?cath|chest ports?|swan[- ]ganz(?: catheters?)?|pulmonary artery catheters?"
    )),
    ("tracheal tube", r"(?:endo)?tracheal tubes?|et tube|ett|trach(?:eostomy)? (?:tube|cannula)s?|tracheostomy"),
    ("spinal rods", (
        r"(?:spinal|harrington|scoliosis)(?: fixation| stabili[sz]ation| fusion)? rods?|"
        r"spinal (?:fixation |fusion )?(?:hardware|instrumentation)|spinal fixation"
    )),
    ("subdural haematoma", (
        r"subdural (?:ha?ematomas?|ha?emorrhages?|collections?|bleeds?|blood)|"
        r"subdurals?(?! (?:spaces?|windows?|drains?|grids?|electrodes?|catheters?|hygromas?|empyemas?|effusions?)\b)"
    )),
    ("retinal haemorrhages", (
        r"(?:retinal|(?:dot|blot|flame|dot[- /]?(?:and[- ])?blot)(?:[- ]shaped)?|(?:intra|pre)-?retinal|macular) "
        r"ha?emorrhages?|ha?emorrhages? (?:\w+ ){0,5}of the (?:left |right )?retina|"
        r"ha?emorrhages? in (?:either|both|(?:the )?(?:left|right)) (?:eyes?|fund(?:us|i))|"
        r"(?:few|numerous) ha?emorrhages"
    )),
    ("haemorrhage", (
        r"ha?emorrhages?|ha?ematomas?|intracranial bleed(?:ing|s)?|(?:(?<=no )|(?<=acute ))bleeds?|blood products|"
        r"blood in the (?:ventricles|sulci|cisterns)|"
        r"(?<!no )(?<!without )ha?emorrhagic (?:transformation|conversion)|(?<=\ba )bleed|"
        r"(?:subarachnoid|intraventricular|intracranial|parenchymal|intraparenchymal|extra-?axial|extradural|epidural) "
        r"(?:blood|bleeds?)"
    )),
    ("infarct", r"infarct(?:s|ion|ions)?|(?:isch(?:a)?emic|acute|established) strokes?|lacunes?"),
    ("hydrocephalus", (
        r"hydrocephalus|ventriculomegaly|(?<!ex vacuo )(?:enlarge(?:d|ment)|dilat(?:ed|"
        r"ation))(?: of)?(?: the)?(?: lateral| third| fourth)? ventricles?|ventricles (?:are |appear )?(?:not |"
        r"\w+ly )?(?:enlarged|dilated)|"
        r"ventricular (?:dilat(?:at)?ion|enlargement)|ventricular system is (?:not )?(?:enlarged|dilated)"
    )),
    ("midline shift", (
        r"midline (?:shift|deviation)|(?:(?<=no )|(?<=or ))shift(?=\s*(?:[.,;]|$|or\b|is\b))|"
        r"mm (?:of )?(?:(?:left|right) to )?(?:(?:left|right)(?:ward)? )?shift(?! of)|"
        # Not "leukocytosis with left shift".
        r"(?:(?<=ematoma with )|(?<=orrhage with )|(?<=infarct with )|(?<=effect with )|(?<=effect and ))"
        r"(?:(?:left|right)(?:ward)? )?shift(?: (?:to|towards?) the (?:left|right))?(?! of)|"
        r"shift of (?:the )?midline(?: structures)?|"
        r"midline(?: structures)? (?:is |are )?(?:not )?(?:shifted|displaced|deviated)"
    )),
    ("exudates", r"exudates?"),
    ("drusen", r"drusen"),
    ("disc cupping", (
        r"(?:disc )?cupping|(?:dis[ck]s? )(?:is |are |appears? )?(?:not )?(?:\w+ly )?cupped|cupped dis[ck]s?|"
        r"(?:enlarged|large) cup|"
        r"(?:increased|enlarged|large|raised) (?:cup[- ](?:to[- ])?|c[/:])disc ratio|"
        r"(?:cup[- ](?:to[- ])?disc|c[/:]d) ratio (?:is )?(?:increased|enlarged|raised)|"
        r"(?:cup[-: /](?:to[- ])?disc|c[/:]d|cdr)(?: ratio)?(?: of| is|:| =)? ?0?\.[6-9]\d?"
    )),
    ("benign naevus", r"(?:benign|regular)(?: pigmented)? na?ev(?:us|i)|na?ev(?:us|i)"),
    ("irregular lesion", r"irregular (?:pigmented )?lesion|pigmented lesions? with (?:an )?irregular border|melanoma"),
    ("pigmented lesion", r"pigmented lesions?"),
    ("erythema", r"erythema(?:tous)?"),
    ("ulceration", r"ulcerations?|ulcerated"),
    ("ulcer", r"ulcers?"),
    ("polyp", r"polyps?"),
    ("bleeding", (
        r"(?:active )?(?:bleeding|oozing(?: ha?emorrhage| bleeding)?)|fresh blood|(?:gi |gastrointestinal )bleeds?"
    )),
    ("diverticulum", r"divertic(?:ulum|ula|ulosis|ular disease)"),
    ("tumour", r"tumou?rs?(?: cells)?(?! necrosis| bed)|carcinoma|adenocarcinoma"),
    ("mass", r"mass(?:es)?(?! effect|-like)|space[- ]occupying lesions?"),
    ("inflammation", (
        r"inflammation|inflammatory (?:infiltrat(?:es?|ion)|cells|changes?)|"
        r"(?:pan|entero|gastro|ileo)?(?:gastr|duoden|enter|col|ile|proct|o?esophag)itis"
    )),
    ("necrosis", r"necro(?:sis|tic)"),
    ("unclassified abnormality", r"unclassified abnormality|abnormality that is not further classified"),
    ("opacity", r"opacit(?:y|ies)|opacification|infiltrates?"),
    ("device", r"(?:lines or |lines and )?devices?(?!\s*:)"),
    ("abnormality", r"abnormalit(?:y|ies)"),
)  # fmt: skip
MENTION = re.compile("|".join(f"(?P<f{n}>\\b(?:{pattern})\\b)" for n, (_, pattern) in enumerate(FINDINGS)))

SIDE = re.compile(
    r"\b(?P<left>left(?:-sided)?|lingular?)\b|\b(?P<right>right(?:-sided)?)\b|\b(?P<both>bilateral(?:ly)?|both|"
    r"bibasal(?:ly)?|bibasilar|biapical(?:ly)?|bihilar|either|"
    r"(?<!left )(?<!right )lung bases)\b"
)
_ZONE_WORD = r"upper|mid(?:dle)?|lower|apical|apex|basal|basilar|base"
#: One finding on both sides, with a word for each: "left and right", "large left and small right".
LEFT_AND_RIGHT = re.compile(
    r"(?<!on the )(?<!in the )\b(?P<one>left|right)(?:-sided)? (?:and|or) "
    r"(?:(?!(?:no|resolved|cleared|absent)\b)\w+ )?(?!(?P=one)\b)(?:left|right)(?:-sided)?\b[^,;]*$"
)
#: Side as a part of its own after a finding: "subdural haematoma, left, 16 mm".
APPOSED = re.compile(r",\s*(?:(?P<left>left)|(?P<right>right)|(?P<both>bilateral))(?=\s*(?:[,;(.]|$))")
#: Refers to the side of an earlier finding.
SIDE_REFERENCE = re.compile(
    r"\b(?:(?P<same>(?:that|the same) side|ipsilateral(?:ly)?|surrounding|overlying|underlying|adjacent(?! to\b)|"
    r"accompanying)|"
    r"contralateral(?:ly)?|the (?:other|opposite) side)\b"
)
#: Side at the beginning of a clause, for all mentions in it without their own.
LEADING_SIDE = re.compile(
    r"\s*(?:(?:on|in) the (?P<side>left|right)\b|(?:the )?(?P<organ_side>left|right)(?: \w+)?\s*[:\u2013-])|"
    r"\s*(?:the )?(?P<subject>left|right) (?:lung|base|lung base|hemithorax|eye|fundus|breast|hemisphere) "
    r"(?:now |again |also )?(?:shows?|demonstrates?|contains?|exhibits?|reveals?|has) (?=[^,;]*$)"
)
#: Both sides after a finding.
BOTH_AFTER = re.compile(
    r"\s+(?:is |are )?(?:seen |present )?(?:on |in |at )?(?:the )?(?P<one>left|right)(?: \w+)? and (?:on |in |at )?"
    r"(?:the )?(?!(?P=one))(?:left|right)(?: side| lung| base| eye)?\b"
)
#: "Right greater than left": a finding on both sides.
COMPARED_SIDES = re.compile(
    r"\b(?P<one>left|right)(?:-sided)?(?: side| lung| base| eye)?,?\s*(?:much |slightly |somewhat |is |are )*"
    r"(?:[<>]|(?:(?:greater|more|larger|bigger|worse|less|smaller|thicker|higher|denser)(?: \w+)?(?: than|>)))\s*"
    r"(?:that |those )?(?:on |in )?(?:the )?(?!(?P=one))(?:left|right)(?:-sided)?(?: side| lung| base| eye)?\b|"
    r"\b(?:is |are )?(?:greater|more|larger|bigger|worse|smaller|thicker|denser)(?: \w+)? (?:(?:on|in) the )?"
    r"(?P<first>left|right)(?: \w+)? than (?:(?:on|in) )?(?:the )?(?!(?P=first))(?:left|right)\b"
)
STATED = (
    r"small|tiny|minimal|trace|moderate|large|mild|persist(?:ent|ing)|unchanged|stable|new|residual|"
    r"(?:de|in)creas(?:ed|ing)|worsen(?:ed|ing)|improv(?:ed|ing)"
)
_SAID = r"(?:stated|described|reported|dictated|mentioned|written|labelled|labeled)"
#: A side that the finding does not have, beside its own: "not on the left but on the right", "no left and small right",
#: "left, not right", "previously on the left, now on the right".
DENIED_SIDE = re.compile(
    r"\bnot (?:seen |present )?(?:on|in|at) (?:the )?(?P<not>left|right)(?: (?:side|lung|base))?,? but "
    r"(?=(?:is )?(?:on|in|at) (?:the )?(?!(?P=not)\b)(?:left|right)(?: (?:side|lung|base))?\s*(?:[.,;]|$))|"
    rf"\b(?:no|resolved|cleared) (?P<no>left|right)(?:-sided)?,? (?:and|but) (?=(?:an?|{STATED}) (?:\w+ )?"
    r"(?!(?P=no)\b)(?:left|right)\b)|"
    r"\(not (?:(?:on|in) )?(?:the )?(?:left|right)\b[^)]*\)|"
    rf",? not (?:(?:on|in) )?(?:the )?(?:left|right)(?:-sided)?(?: side)?,? as {_SAID}\b[^,;.]*|"
    rf"\b{_SAID} (?:as )?(?:being )?(?:on|in|at) the (?P<said>left|right)\b[^,;.]*?"
    r"(?= (?:is|was|lies) (?:actually |in fact |really )?(?:on|in|at) the (?!(?P=said)\b)(?:left|right)\b)|"
    r"(?:(?<=\bleft)|(?<=\bright)), not (?:(?:on|in) )?(?:the )?(?:left|right)(?:-sided)?(?:,|(?=\s*[.;]|$))|"
    r"\bbilateral\b(?=[^.;]*\bnow (?:only |confined to |limited to |restricted to |on )+the (?:left|right)\b)|"
    r"\b(?:previously|formerly) (?:seen )?(?:on|in) (?:the )?(?:left|right) "
    r"(?=(?:is |are )?now (?:on|in) (?:the )?(?:left|right)\b)"
)
#: After several, the place of one of them: "nodules in both lungs, the largest in the left lower lobe".
LARGEST = re.compile(r"\bthe (?:largest|biggest|dominant|most prominent|most conspicuous|thickest|worst)\b[^;]*")
#: Several of one finding, each with its place: "two nodules, one in the left upper lobe and one in the right lung".
ONE_EACH = re.compile(
    r"\b(?:one|another|the other|a second) (?:one )?(?:is )?(?:on|in|at) the (?P<side>left|right)"
    rf"(?: (?P<zone>{_ZONE_WORD}))?\b"
)
#: The other side after a finding on one: "right effusion larger than left".
THAN_AFTER = re.compile(
    r"\s*(?:is |are )?(?:[<>]|(?:greater|larger|bigger|smaller|worse|more \w+) than)\s*(?:that |those )?(?:on |in )?"
    r"(?:the )?(?P<side>left|right)\b"
)
#: Side of the organ that a finding is told of: "right eye with cupping".
ORGAN_WITH = re.compile(
    r"\b(?P<side>left|right) (?:(?:eye|lung|side|breast|base|hemithorax|chest|hemisphere|fundus|disc) ?|"
    r"(?:frontal|parietal|temporal|occipital|cerebellar|thalamic)(?: \w+)? )?with\s+(?:\w+\s+){0,3}$"
)
#: Sides of a heart chamber or of a projection, and the verb: "a polyp left in place".
NO_SIDE = re.compile(
    r"(?<!the )\bleft(?= (?:in (?:place|situ|position|the same position)|untreated|alone|as is|open)\b)|"
    # "Either effusion or consolidation" has no side.
    r"\beither(?= (?:an? |the )?(?:\w+ ){1,4}or\b)|"
    # A segment of a lobe is no zone: "apical segment of the right lower lobe".
    r"\b(?:apical|apico-?posterior|basal|superior|lateral|medial|anterior|posterior) segments? of "
    r"(?=(?:the )?(?:left|right) (?:upper|middle|lower) lobe)|"
    r"(?:(?<=\bwas )|(?<=\bwere )|(?<=\bbeen ))left(?= (?:in|at|as|un\w+)\b)|"
    r"\b(?:left|right)(?= (?:atri|ventric|heart(?! border)|(?:anterior|posterior) oblique|decubitus|"
    r"lateral(?! (?:chest wall|wall|ribs?|aspect|pleura|zone))))"
)
ZONE = re.compile(
    r"\b(?P<upper>upper|(?:bi)?apical|ap(?:ex|ices))\b|\b(?P<middle>mid(?:dle|-?zones?)?|perihilar)\b|"
    r"\b(?P<lower>lower|(?:bi)?bas(?:al|ilar)|bas(?:es?|is))\b"
)
_SIDE_WORD = r"left|right|both|bilateral"
_ZONE_NOUN = r"(?: (?:zones?|lobes?|lungs?))?"
#: One of several places of a finding.
ONE_PLACE = re.compile(
    rf"\b(?:(?:(?P<side>{_SIDE_WORD})(?:-sided)? )?(?P<zone>{_ZONE_WORD})|(?P<whole>left|right) (?:lung|hemithorax))\b"
)
#: A place that the finding does not have: "with relative sparing of the apex".
SPARED = re.compile(r"\b(?:sparing(?: of)?|spares) (?:(?!\b(?:and|with|but)\b)[^,;.])*")
#: Places of one finding: "left upper and right lower zones", "right upper and lower zones".
PLACES = re.compile(
    rf"\b(?:(?:{_SIDE_WORD})(?:-sided)? (?:{_ZONE_WORD}){_ZONE_NOUN}|(?:left|right) (?:lung|hemithorax))"
    # Not after a comma alone: "no effusion in the left lung, in the right lung a small one".
    r"(?:(?:(?:, and| and| or) (?:(?:in |at )?the )?|, (?:the )?)"
    rf"(?:(?:(?:{_SIDE_WORD})(?:-sided)? )?(?:{_ZONE_WORD})\b{_ZONE_NOUN}|"
    r"(?:left|right) (?:lung|hemithorax)\b))+"
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
