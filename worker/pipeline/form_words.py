"""Words that negate, join or qualify a question, and those that leave it a question about presence."""

from __future__ import annotations

import re

#: Characters that are written for an apostrophe.
APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4\u2032`", "'"))
#: "Yes or no", "or not": no negation and no alternative.
CHOICE_OF_ANSWERS = re.compile(r"\b(?:yes(?: or |/)no|no(?: or |/)yes|y/n|(?:whether )?or not)\b")
#: Denies or inverts a question, wherever it stands in it; English first, then other languages.
NEGATED = re.compile(
    r"\b(?:no|not|non(?!-)|nor|none|neither|never|nothing|nowhere|without|cannot|absen(?:t|ce)|"
    r"lack(?:s|ed|ing)?|missing|devoid|w/o|negative|exclud(?:e|es|ed|ing)|exclusion|"
    r"rul(?:e|es|ed|ing)\b[^?]*\bout|(?:free|clear) (?:of|from)|hardly|barely|scarcely|zero|nil|minus|anything but|"
    r"resol(?:ve|ves|ved|ving)|resolution of|gone|clear(?:ed|s|ing|ance)|disappear\w*|vanish\w*|subsid\w+|healed|"
    r"ceased|stopped|removed|removal|withdrawn|extracted|evacuated|resected|drained|cured|treated|settled|"
    r"unlikely|improbable|doubtful|implausible|den(?:y|ies|ied)|refut\w+|disprov\w+|reject\w*|contradict\w*|against|"
    r"discard\w*|dismiss\w*|eliminat\w+|fail(?:s|ed|ure)? to|false|wrong|incorrect|untrue|mistak\w+|mimic\w*|"
    r"rather than|instead of|except(?:ing)?|apart from|aside from|other than|all but|unless|invisible|undetect\w+|"
    r"unseen|unaffected|uninvolved|spar(?:ed|es|ing)|escap\w+|opposite|contralateral|other side|away from|across from|"
    r"leave\w* (?:out|alone)|left (?:out|alone)|odd one out|out of the question|off the table|un(?:able|likely|founded|"
    r"justified|supported|warranted|true|real)|impossible|imaginary|overcalled|over-?diagnos\w+|disagree\w*|"
    r"doubt(?:s|ed|ing)?|question(?:ed|able)|a (?:lie|myth|hoax|fake)|fake|dearth|paucity|beyond|difficult|hard to|"
    r"miss(?:es|ed)?|overlook\w*|r/o|"
    r"(?:is|are|was|were|do|does|did|has|have|had|ca|wo|would|could|should)n'?t|"
    r"pas|sans|aucune?|absente?s?|exclue?|kein(?:e|en|er|em|es)?|nicht|ohne|ausgeschlossen|sin|ning[u\u00fa]n[oa]?|"
    r"aus[e\u00ea]ncia|a[us]sente|negativ[aeo]?|fehl(?:t|en)|afwezig|n[a\u00e3]o|sem|senza|nessun[oa]?|geen|niet|zonder|ingen|inget|utan|brak|bez)\b|n't\b|-free\b"
)
#: Beside a choice of a side or a thing: asks for the one that is well.
UNAFFECTED = re.compile(
    r"\b(?:normal|healthy|healthier|clear|clean|intact|(?<!as )well|good|better|fine|ok|okay|alright|safe|safer|"
    r"unremarkable|unharmed|uninjured)\b"
)
#: Joins parts of a question that can have different answers.
CONJUNCTION = re.compile(
    r"\band\b|&|\+|\b(?:as well as|together with|along with|plus|in addition|accompan\w+|combined|coexist\w*|"
    r"simultaneous\w*|besides|both\b.*\bwith)\b"
)
#: Another thing after a comma, such as "an effusion, a dissection".
ANOTHER = re.compile(r"\b(?:an?|any|some) (?:\w+ ){0,3}\w+,\s*(?:an?|any|some)\b")
ALTERNATIVE = re.compile(r"\bor\b|\w\s?/\s?\w|\b(?:either|versus|vs)\b")
#: Size, number, degree or change: images are compared with the presence of a finding only.
QUALIFIED = re.compile(
    r"\b(?:tiny|small|little|minor|minimal|slight|mild|moderate|medium|large|big|great|huge|giant|massive|extensive|"
    r"severe|marked|gross|major|trace|subtle|substantial|significant|considerable|relevant|critical|"
    r"(?:slight|mild|moderate|marked|severe|extensive)ly|size[ds]?|diameter|width|thick(?:ness)?|thin|extent|volume|"
    r"amount|grade|degree|severity|deep|wide|long|short|millimet\w+|centimet\w+|mm|cm|ml|"
    r"single|solitary|only|just|one|two|three|four|five|multiple|several|many|few|numerous|number|"
    r"stable|unchanged|chang(?:e|ed|es|ing)|new(?:ly)?|recent|(?<!year-)(?<!years )old|"
    r"prior|previous(?:ly)?|earlier|before|since|still|"
    r"again|same|persist\w*|recur\w*|residual|remain\w*|progress\w*|regress\w*|improv\w+|worsen\w*|gr[oe]w\w*|"
    r"shr[aiu]nk\w*|expand\w*|increas\w+|decreas\w+|reduc\w+|longer|\d+(?:mm|cm|ml))\b"
)
#: Compares findings, sides or times.
COMPARED = re.compile(
    r"\b(?:than|more|less|most|least|larger|largest|bigger|biggest|smaller|smallest|greater|greatest|worse|worst|"
    r"thicker|thinner|denser|higher|lower than|wider|newer|older|compar(?:e|ed|ison)|as \w+ as|equal(?:ly)?|increas\w+|"
    r"decreas\w+|chang(?:ed|ing)|grown|shrunk|unchanged|progressed|improved|worsened)\b"
)
#: Compares with another time, of which the model has no image.
OTHER_TIME = re.compile(
    r"\b(?:since|before|previous(?:ly)?|prior|former(?:ly)?|earlier|ago|yesterday|tomorrow|again|still|anymore|"
    r"last (?:time|study|exam\w*|film|image|scan|x-ray|report|visit|day|week|month|year)|interval|"
    r"chang(?:e|ed|es|ing)|unchanged|stable|new(?:ly)?|compar\w+|progress\w*|regress\w*|improv\w+|"
    r"worsen\w*|deteriorat\w+|gr[eo]w\w*|shr[aiu]nk\w*|increas\w+|decreas\w+|develop\w*|evol(?:ve|ving|ution)\w*|"
    r"become|became|will (?:the|this|there|he|she|it)|going to)\b"
)
#: Asks for a number with a unit.
MEASURED = re.compile(
    r"\b(?:mm|cm|ml|millimet\w+|centimet\w+|millilit\w+|inch(?:es)?|diameter|volume|angle|ratio|"
    r"percent(?:age)?|measure\w*|thickness|width|length|depth|distance|hounsfield|hu|pressure|"
    r"how (?:long|wide|thick|deep|far))\b|%"
)
_IMAGE = r"(?:image|picture|film|screen|monitor|display|photo(?:graph)?|radiograph|x-?ray|scan|slice|view)"
#: A side of the image or of its reader, which is not the patient's.
OF_IMAGE = re.compile(
    rf"\b(?:{_IMAGE}|viewer|observer|reader|radiologist)(?:'s)?[ -](?:left|right|side)\b|"
    rf"\b(?:left|right|side)(?:[ -]hand)?(?: side| half| part| edge| border)? of (?:the |this |my |your )?"
    rf"{_IMAGE}\b|\b(?:my|your|our|the doctor's) (?:left|right|side)\b|\b(?:left|right)[ -]hand\b"
)
#: "Right" for correct and "left" for remaining.
NO_SIDE_MEANT = re.compile(
    r"\b(?:is|am|are|was) (?:it|i|that|this|we|you) right\b(?! or|-|,| lung| side)|,\s*right\s*[?]?\s*$|"
    r"\b(?:all |the )?right (?:place|position|location|spot|way|time|away|now|patient|diagnosis|answer)\b|"
    r"\bany\b(?:(?!\b(?:the|on|to)\b)[^?])*\bleft\s*(?:[?]|$|after\b|over\b|behind\b)|\bleft (?:over|behind)\b"
)
#: Findings of the lexicon that lie in the middle or on both sides, so that a side says nothing about them.
WITHOUT_SIDE = frozenset(
    (
        "cardiomegaly",
        "hiatal hernia",
        "hydrocephalus",
        "miliary opacities",
        "pericardial effusion",
        "pneumomediastinum",
        "spinal rods",
        "tracheal tube",
    )
)

_FUNCTION = """
a about above after all am an any are as at be been being by can could did do does for from had has have he her here his
how i if in into is it its let may me might must my of on one our please she should some than that the their them there
these they this those to was we were what when where whether which who why will with would you your
find image images left look present right say see seen show shows side sign signs tell visible yes
"""
#: Words that make a question English.
ENGLISH = frozenset(_FUNCTION.split())
_NOT_ENGLISH = """
au aux avec ce cette dans de des du elle est et il la le les montre ou un une sur y gauche droite droit
der das den dem ein eine einen einem einer es gibt ist liegt sind sieht sehen sich sie und vor zu zeigt links rechts
auf bild beidseits el ella en esta hay los las muestra se tiene una uno ve derecha izquierda derecho izquierdo
existe ha ci sono vi esiste nel nella destra sinistra um uma na direita esquerda er een het zijn op ziet
finns det pa ett ar czy jest
"""
#: Function words and sides of other languages that are no English words.
OTHER_LANGUAGES = frozenset(_NOT_ENGLISH.split())
_PRESENCE = """acute affect affected affects answer apparent area case clearly clinical confirm contain contains
demonstrate demonstrated demonstrates depict depicted depicts detect detected discern discernible display displayed
displays doctor evidence evident exhibit exist exists feature features film finding findings find give hint identified
identify indicate indicated indication involve involved involves know lie lies located location locate name note noted
notice observe observed occur opinion or patient person photograph picture pictures place position presence
question quick radiograph recognise recognize report reveal reveals scan hello looking based thank study suffer
suggest suggested suspect suspected suspicion think true view views want x-ray xray radiography ct mri mr exam
examination likely possible possibly probable there's what's specialist just sided left-sided right-sided shown
following something anything abnormal affecting diseased thanks"""
_ANATOMY = """apex apical base basal bone bones brain bronchus cardiac cerebral chest colon disc eye fissure fundus head
heart hemisphere hemithorax intracerebral intracranial intrathoracic lobe lower lung lungs macula macular mediastinum
middle mucosa mucosal optic pleura pleural pulmonary retina retinal rib ribs skin skull space subpulmonic thoracic
thorax tissue upper zone zones hard fixation linear fresh active under diaphragm lesion hilum"""
#: English words that ask about a cause, a condition or another time.
_OTHER_QUESTION = frozenset(("did", "had", "how", "if", "was", "were", "why", "will"))
#: Words beside a finding that leave a question one about its presence or its side.
WORDS_OF_PRESENCE = (ENGLISH | frozenset(_PRESENCE.split()) | frozenset(_ANATOMY.split())) - _OTHER_QUESTION
