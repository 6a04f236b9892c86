"""Words that deny or doubt a finding, and the words that end their scope."""

from __future__ import annotations

import re

#: After "withdrawn": the device was moved and is still there.
_MOVED = r" (?:(?:in)?to|by|back|up|slightly|a little|(?:approximately |about )?\d)\b"
#: Participles of a finding that is no longer present.
RESOLVED = (
    rf"(?:resolved|healed|cleared|removed|stopped|taken out|ceased|(?:withdrawn|pulled)(?!{_MOVED})|explanted|"
    r"extracted|retrieved|evacuated|resected|excised|discontinued|disappeared|vanished|subsided|gone(?! (?:down|up)\b)|"
    r"(?:given|made) way (?:to|for)|(?:(?:re)?absorbed|resorbed)(?=\s*(?:[.,;)]|$|(?:since|after|compared|in|on|at|by|"
    r"completely|now|and|but)\b))|"
    r"(?:completely|fully|entirely|totally) (?:regressed|regredient|regressive|faded|dissipated)|"
    r"(?:regressed|faded|dissipated) (?:completely|fully|entirely|totally)|"
    r"(?:replaced|exchanged) (?:by|with|for))"
)
_REMOVAL = r"removal|evacuation|resection|excision|explantation|extraction"
BE = r"(?:is|are|was|were|has|have|had|been)"
#: After "unlikely", between a sign and its cause: the cause is denied.
CAUSING = r" to (?:represent|reflect|indicate|be due to)"
#: Participles of a finding that is visible.
SEEN = (
    r"(?:seen|identified|present|visible|visuali[sz]ed|evident|demonstrated|detected|apparent|found|shown|noted|"
    r"appreciated|observed|discernible|recogni[sz]ed|developed|confirmed|recurred|reaccumulated|suspected|"
    r"reproduced|reproducible|substantiated|made out|"
    r"a feature|in evidence)"
)
_DATE = (
    r"(?:(?:19|20)\d\d\b|\d{1,2}[/.]\d{1,2}[/.](?:\d\d){1,2}\b|"
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december)\b)"
)
#: After SEEN: at another time than that of the images. A date may be that of the images.
_EARLIER = (
    r"(?:before\b|previously|earlier|on (?:the )?(?:earlier|previous|prior|last|old)\b|"
    r"in (?:an? )?(?:earlier|previous|prior)\b|at that time|last (?:week|month|year)|"
    r"\w+ (?:days?|weeks?|months?|years?) ago)"
)
_ON_DATE = rf"(?:in|on) (?:\d{{1,2}} )?(?:early |late )?{_DATE}"
EARLIER = rf"(?:{_EARLIER}|{_ON_DATE})"
_NOT_THEN = r"not (?:yet )?(?:seen|present|visible|identified|noted|there)"
#: Not after SEEN: "not seen to enhance" denies a property.
NOT_TO = r"(?! to (?!the\b|date\b)\w)"
#: Denies findings named before it; "none of them is larger than 5 mm" does not.
NONE_OF = (
    r"(?:none|neither) of (?:which|these|them|those|the above)(?: (?:findings|conditions|abnormalities|lesions|signs))?"
    rf"(?=\s*(?:[.,;)]|$)|,? (?:(?:{BE}|can|could|be|being|now|\w+ly) )*{SEEN}\b{NOT_TO}(?! {EARLIER}))"
)
#: Words about a finding that was visible once.
NO_LONGER = (
    rf"no longer (?:\w+ly |well )?(?:{SEEN}|delineated|"
    r"(?:detect|appreci|defin|demonstr|discern|percept|recogni[sz]|measur|notice)\w*[ai]ble)"
)
_PLANNED = r"(?:recommended|advised|suggested|considered|planned|indicated|required|warranted|necessary)\b"
#: A removal that has not taken place.
_NOT_DONE = (
    rf"\b(?:recommend(?:ed)?|advised?|attempted|planned|awaiting) (?:\w+ )?(?:{_REMOVAL})(?= of\b)|"
    rf"\b(?:{_REMOVAL})(?= of(?:(?!\band\b)[^,;:])*? (?:is|be) (?:not )?{_PLANNED})"
)
_DEGREE = (
    r"significant|interval|appreciable|obvious|relevant|substantial|substantive|major|marked|measurable|discernible|"
    r"detectable|noticeable|perceptible|meaningful|material|overall|further|clear"
)
CHANGE = r"(?:change|increase|decrease|improvement|worsening|progression)"
_CHANGES = rf"{CHANGE}(?: or (?:(?:{_DEGREE}) )*{CHANGE})*\b"
#: Not "no change or fracture" and "no definite change, fracture or effusion", which deny the findings.
_NO_CHANGE = (
    rf"\bno (?:(?:(?:{_DEGREE}) )*{_CHANGES}(?!,? or\b)|"
    rf"(?:(?:{_DEGREE}|definite|convincing) )+{_CHANGES}"
    r"(?= (?:in|of|to|from|since|compared|between|with|on)\b|\s*(?:[.;]|$)))"
)
#: What is told beside a change that is denied: "no change in the effusion or the nodule".
UNCHANGED = re.compile(rf"{_NO_CHANGE}(?P<rest>[^,;:]*(?:, or\b[^,;:]*)?)")
#: After hardware, no failure of the heart: "spinal rods without evidence of failure".
_BROKEN = (
    r"(?P<{}>(?<!heart )(?<!cardiac )(?<!ventricular )failure)\b"
    r"(?! or (?:\w+ )?(?:effusion|o?edema|congest|pneumo|consol))"
)
HARDWARE_FAILURE = re.compile(
    r"\b(?:rods?|screws?|plates|nails?|(?<!rib )(?<!thoracic )cages?|hardware|instrumentation|fixation|implants?|"
    r"arthroplast(?:y|ies)|(?<!left )(?<!right )(?<!cardiac )shunts?)\b[^,;:.]*"
    rf"(?:,(?: with)? (?:no|without)\b[^,;:.]*?)?\b{_BROKEN.format('failure')}|"
    r"\b(?:leads?(?! to\b)|wires?|prosthes[ei]s|prosthetic|grafts?|stents?|valves?)\b[^,;:.]*?"
    rf"\b{_BROKEN.format('of_lead')}|"
    r"\b(?P<before>failure)(?=,? (?:or|and|nor) [^,;:.]*?\b(?:of|around|in) (?:the )?(?:\w+ ){0,3}?"
    r"(?:rods?|screws?|plates?|hardware|instrumentation|implants?|prosthes[ei]s|leads?|wires?|shunts?|grafts?|stents?)\b)"
)
#: Phrases that resemble a negation; blanked before the search for negations.
PSEUDO_NEGATION = re.compile(
    rf"{_NO_CHANGE}"
    r"|\b(?:not (?:yet )?(?:been )?(?:\w+ly )?|(?:partially|partly|incompletely|nearly|almost|largely|mostly|virtually|"
    r"practically|all but|for the most part) (?:completely |fully |entirely |totally )?)"
    rf"{RESOLVED}\b|"
    rf"\b{RESOLVED} (?:only )?(?:partially|partly|incompletely|in part|(?:almost|nearly|mostly|largely) \w+ly)\b"
    r"|\b(?:near(?:ly)?[- ]complete|almost complete|incomplete|partial) (?:resolution|clearing|removal)(?: of)?\b"
    r"|\bfail(?:s|ed|ure) to (?:resolve|clear|disappear|heal)\b|\bno interval removal of\b"
    rf"|\b{_NOT_THEN} {_EARLIER}|"
    rf"(?:(?<=, )|(?<=(?:that|hich) was )|(?<=(?:that|hich) were )){_NOT_THEN} {_ON_DATE}"
    rf"|\bnot (?:previously|formerly) {SEEN}"
    r"|\bunlikely to be (?:malignant|benign|significant|relevant|acute|traumatic|infectious|infective)\b"
    rf"|{_NOT_DONE}"
    r"|\bnot only\b|\bno (?:doubt|question|reason to doubt)\b|\bnot necessarily\b"
    r"|\bwithout (?:significant |interval )?change\b|\b(?:not|never) (?:without|free of|clear of|devoid of)\b"
)
#: A negation of a negation: "no evidence that the effusion has resolved". Groups a and b are blanked.
DOUBLE_NEGATION = re.compile(
    rf"\b(?P<a>(?:no|not|cannot|can't|never|neither)\b[^,;:]{{0,40}}?\bthat\b)[^;:]*?"
    rf"(?P<b>\b{BE} (?:been |now )?(?:\w+ly )?(?:{RESOLVED}|absent|excluded|no longer \w+))\b"
)
#: A colon between a negation and the list that it denies.
NEGATED_LIST = re.compile(
    r"\b(?P<negation>(?:negative|none|no evidence|free|clear) (?:for|of)"
    r"(?: (?:(?:any|all|each) )?(?:of )?the following(?: (?:is|are) \w+| \w+)?)?|"
    r"^(?:resolved|removed|cleared|no longer seen)|(?:are|is) absent|^absent|"
    r"^(?:(?:not|cannot be) (?:excluded|ruled out)|possible|suspected|questionable|differential(?: diagnosis)?)|"
    r"^excluded|ruled out|the following (?:are|were) (?:absent|excluded|not (?:seen|present|identified))|no)"
    r"(?P<colon>\s*:)"
)
#: Before the finding, right before its words: "the resolved effusion", not "effusion resolved, nodule seen".
_ATTRIBUTE = (
    r"(?:^\s*|(?<=[,;] )|(?<=\bthe )|(?<= an )|(?<= a )|(?<=\band )|(?<=\bnow )|(?<=ly )|(?<=interval )|(?<=\bare )"
    r"(?=absent\s{2}))"
)
#: Before the finding.
NEGATION = re.compile(
    rf"\b(?:(?:absent|(?:not|no longer) \w+|excluded|{RESOLVED})(?: bilaterally)?,? (?:and )?(?:as|so) "
    r"(?:is|are|was|were|has|have)\b)|"
    r"\b(?:no|not|without|absence of|negative for|(?:free|clear) (?:of|from)|unlikely that|"
    rf"unlikely{CAUSING}|rather than|instead of|denies|mimics?|mimicking|simulat(?:es|ing)|"
    r"nor|neither|never|nil(?!\s*(?:[.,;:)]|and\b|or\b|but\b))|\w+n't|nothing to suggest|fail(?:s|ed) to|none of|"
    r"excludes?|(?<!in )(?<!for )(?<!of )excluding|rules out|(?<!for )(?<!to )(?<!the )(?<!definite )exclusion of|"
    r"(?<!was )(?<!were )(?<!been )(?<!is )ruled out|resolution of|no longer|"
    rf"(?:removal|(?:(?<=after )|(?<=following )|(?<=post )|(?<=s/p )|(?<=interval ))(?:{_REMOVAL})) of|"
    rf"lack of|lacks|devoid of)\b|{_ATTRIBUTE}"
    r"(?:resolved|removed|absent|cleared|unlikely|excluded|healed(?= (?:\w+ )?ulcer))\b"
)
#: Before the finding: it was present at another time, which states nothing about the images.
HISTORY = re.compile(
    r"\b(?:(?:history|risk) of|on which|where there (?:was|were|had been)|(?:prior|previous|earlier|last|old) (?:\w+ )?"
    r"(?:study|film|ct|mri|scan|exam|examination|radiograph|x-ray)(?: of [^,;]*)? "
    r"(?:showed|demonstrated|revealed|had))\b"
)
#: Ends a history.
HISTORY_END = re.compile(r"\b(?:with|now|today|presents?|presenting|shows?|currently)\b")
#: After the finding.
POST_NEGATION = re.compile(
    rf"\b(?:{BE}|can be|being|appears?|now|since|completely|fully|definitely)?\s*"
    rf"(?:(?:not|cannot|\w+n't|never) (?:be )?(?:been )?(?:clearly |definitely |convincingly )?{SEEN}{NOT_TO}"
    rf"|absent|(?<!not )(?<!not been )(?<!not yet )(?<!to be )(?<!should be )(?<!must be )"
    rf"(?:excluded|ruled out)|neither {SEEN}"
    rf"|{RESOLVED}|unlikely(?!{CAUSING}\b)|{NO_LONGER}|no longer (?:there|in place|in situ|persists?|exists?)|"
    r"seen neither"
    r"|not(?=\s*[.,;]))\b"
)
#: The same without a verb: "pneumothorax, resolved".
PARTICIPLE = re.compile(rf"(?:absent|excluded|ruled out|{RESOLVED}|unlikely)\b")
#: Words between a conjunction and a trigger that applies to the finding before it: a place, or its own verb.
PLACE = re.compile(
    r"(?:\s*(?:in|on|at|of|the|left|right|both|upper|middle|mid|lower|zones?|lobes?|lungs?|bases?|sides?)\b)*\s*"
)
CONTINUED = re.compile(
    rf"\s*(?:(?:{BE}|now|then|since|later|subsequently|felt|thought|considered|deemed|all|both|each|it|they|to|"
    rf"be|is)\b\s*)*"
)
#: After the finding, or after a list of findings, as in "Pneumothorax, effusion: none".
LIST_NEGATION = re.compile(
    rf"\s*[?:=;,\u2013-]?\s*(?:none(?: (?:is|are|was|were))?(?: {SEEN})?|nil|absent|negative|no|neither|not {SEEN})"
    r"\s*(?:[.,;]|$|today|now)|\s*\((?:none|nil|absent|negative|no|not seen|-)\)|"
    r"(?<=\w)[- ]free\b(?! (?:\w+ ){0,2}(?:air|gas|fluid))|"
    rf"(?<=\w)\s+(?:removal|extraction|explantation|resection)\b(?! of| (?:(?:is|to be) )?{_PLANNED})"
)
#: After "and", begins words that an earlier negation does not reach: "no effusion and persistent atelectasis".
OF_ITS_OWN = (
    r"persist(?:ent|ing)|residual|unchanged|stable|increas(?:ed|ing)|worsen(?:ed|ing)|new|small|tiny|trace|minimal|mild|"
    r"moderate"
)
#: Begins a new clause after a comma, which an earlier negation does not reach.
CLAUSE = re.compile(r"\s*and (?:an?|the)\b")
#: Begins words about another finding, which an earlier negation does not reach: "no necrosis within the tumour".
BESIDE = r"\s+(?:within|adjacent to|around|surrounding|next to|beside|due to) (?:an?|the|this)\b"
#: Begins a sentence, of which a comma ends the removal: "after removal of the drain, pneumothorax".
AFTER_REMOVAL = re.compile(r"^\s*(?:after|following|since|post)\b")
#: After a removal, words about what was not removed.
NOT_REMOVED = re.compile(
    r"(?<!along )(?<!together )\bwith\b|\b(?:new|persist\w*|residual|remain\w*|unchanged|stable|increas\w+|worsen\w+)\b"
)
#: Before a list of which "and the" joins the items: "removal of the line and the tube".
REMOVAL = re.compile(rf"(?:{_REMOVAL}|resolution) of")
#: The same, before a list with commas: after "resection of the left lobe", a comma begins another statement.
LIST_OF = re.compile(r"(?:removal|resolution) of")
VERB = re.compile(r"\b(?:is|are|was|were|has|have|remains?|persists?)\b")
ASSERTED = re.compile(r"\b(?:shows?|demonstrates?|contains?|has|have)\b")
#: After a finding without a list before it.
PERSISTS = re.compile(
    r"\s+(?:\w+ ){0,4}(?:persists?|remains?|present|noted|new|increased|worsened|improved|unchanged|stable|seen)\b"
)
#: Before the finding: a sign points to it. "No sign of" before the trigger denies the finding.
EVIDENCE = re.compile(
    r"\b(?:suspected|suspicious (?:for|of)|suspicion (?:for|of)|suggest(?:s|ed|ing|ive of)?|"
    r"concern(?:ing)? for|worrisome for|indicative of|compatible with|consistent with)\b"
)
#: Before the finding.
UNCERTAINTY = re.compile(
    r"\b(?:possibl[ey]|(?:possibility|probability|likelihood) of|probabl[ey]|potential(?:ly)?|suspected|doubtful|"
    r"suspicious (?:for|of)|suspicion (?:for|of)|questionable|equivocal|worrisome for|favou?red over|"
    r"(?<!to )(?<!not )(?<!n't )suggest(?:s|ed|ing|ive of)?|"
    r"(?:may|might|could|can) (?:well |also |all |still )?(?:represent|reflect|be|indicate|suggest|correspond to|"
    r"relate to|have|mean|signify)|might|"
    r"(?:can(?:not|'t)|unable to|not possible to|difficult to|hard to) (?:entirely |completely |fully |reliably )?"
    r"(?:exclude|rule out)|(?:to |please )?(?:exclude|rule out)|not (?:exclude|rule out)|"
    r"(?:evaluat(?:e|ion)|assess(?:ment)?|look|check) for|consider|favou?rs?|"
    r"likely|versus|vs\.?|differential|concern(?:ing)? for|perhaps|until|"
    r"(?<!\ba )(?<!the )(?<!was )(?<!were )(?<!at )once(?! (?:again|more|daily|weekly)\b)|"
    r"(?<=\w )than (?:with|of|for)(?= (?:an?|the|old|acute|chronic) )|"
    r"(?:suggestion|hint|question) of|^\s*not (?:excluded|ruled out)\b|^\s*cannot be (?:excluded|ruled out)\b|"
    r"(?:for|to|the|definite) exclusion of|(?:in|for|of) excluding|presum(?:ed|ably)|query|(?<! )in question|"
    r"(?:distinguished|differentiated|distinguishable) from|"
    r"not (?:diagnostic|specific|conclusive|pathognomonic|typical) (?:of|for)|"
    r"whether|can(?:not|'t) be (?:said|sure|certain|assumed|guaranteed)|not (?:sure|certain|clear|known) (?:that|if)|"
    r"(?:unclear|uncertain) if|if|unless|in (?:the )?(?:case|event) of|should (?:an?|any|there|new|further|the))\b|"
    r"^\s*should\b|^\s*were (?:an?|there|the)\b|"
    r"\?\s*(?:\w+\s+)*$"
)
#: Before the finding, which a later denial settles: "the suspected nodule is not confirmed".
SUSPICION = re.compile(r"\b(?:possible|probable|suspected|questionable|equivocal|presumed)\b")
#: After the finding, but not of what is done about it: "drainage of the effusion should be considered".
CONSIDERED = re.compile(r"\b(?:should|must|could|may|might|can|to) be (?:considered(?! for\b)|sought|suspected)\b")
PROCEDURE = re.compile(
    r"\b(?:(?:of|for) (?:the|this|these|that|those|both)|"
    r"(?:biopsy|drainage|evacuation|resection|excision|removal|aspiration|repair|exchange|treatment|imaging|follow-?up)"
    r" (?:of|for)) (?:\w+ ){0,4}$"
)
#: After the last words about a finding, without a verb: "small effusion on the left possible".
POST_DOUBT = re.compile(
    r"\b(?:(?:possible|questionable|suspected|likely|probable|doubtful)(?=\s*(?:[.,;)]|$))|until proven otherwise\b)"
)
#: After "most likely": still about the finding before it. "Mass, most likely an abscess" affirms the mass.
_OF_LIKELY = (
    r"(?:given|in|on|at|because|here|now|than|but|and|or|although|though|if|when|based|considering|after|since|for|as|"
    r"with)\b"
)
#: After the finding.
POST_UNCERTAINTY = re.compile(
    r"\b(?:(?:is|are|was|were|be|remains?|seems?|appears?) (?:\w+ )?"
    r"(?:possible|probable|likely|suspected|questionable|equivocal|presumed|uncertain|doubtful|in question|"
    r"favou?red)|"
    r"(?:more|most) likely [^,;.]*\brather than\b|"
    rf"(?:less|more|most) likely(?!\s+(?:an? |the )?(?!{_OF_LIKELY})\w)|(?:is|are) a (?:possibility|consideration)|"
    r"(?:may|might|could) (?:well |easily )?be (?:present|there|seen|missed|occult|obscured|hidden|overlooked)|"
    r"(?:should|must|to) be (?:excluded|ruled out)|"
    r"(?:difficult|impossible|hard) to (?:exclude|rule out)|"
    r"can(?:not|'t) be (?:entirely |completely |confidently |safely |reliably )?"
    r"(?:excluded|ruled out|confirmed|guaranteed|assumed|assured)|"
    r"not (?:been |yet )?(?:entirely |completely |definitely )?(?:excluded|ruled out)|"
    r"was (?:\w+ )?(?:seen|present|noted|visible) (?:on|in) (?:the |an? )?(?:previous|prior|earlier|last|old) (?:\w+ )?"
    r"(?:study|film|ct|mri|scan|exam|examination|radiograph|x-ray)(?=\s*[.;]?\s*$)|"
    rf"{_NOT_THEN} {_ON_DATE}|"
    r"if (?:present|any|real)|versus|vs\.?)\b"
)
#: After the finding, and not about what it is examined for: "cannot be assessed for loculation".
NOT_ASSESSED = re.compile(
    r"\b(?:can(?:not|'t) be (?:entirely |completely |confidently |safely |reliably )?"
    r"(?:assessed|evaluated|determined|judged)|not assessable)\b"
    r"(?! (?:for|as to|with regard|in terms|further|regarding)\b)"
)
_TERMINATION = (
    r"however|although|though|(?<!not )yet|except(?: for)?|apart from|aside from|other than|whereas|while|"
    r"despite|(?<!than )with (?:a|an|new|associated|adjacent|persistent|residual|persisting)|"
    r"(?<!that )(?<!whether )(?<!if )(?<!unless )there (?:is|are)|(?<!on )which"
)
#: Ends the scope of a negation or uncertainty before the finding.
TERMINATION = re.compile(rf"\b(?:but|{_TERMINATION})\b|[;:]|\s[\u2013\u2014-]\s")
#: Ends the scope of one after the finding: "was considered but is unlikely" goes on.
POST_TERMINATION = re.compile(
    rf"\b(?:but(?! (?:{BE}|now|not|no longer|since|subsequently|cannot|can't)\b)|{_TERMINATION})\b|[;:]"
)
#: Comparison with an earlier examination: the prompt contains none, so it is invented.
PRIOR_STUDY = re.compile(
    r"\b(?:compared (?:to|with)|in comparison (?:to|with)|comparison (?:is made|study|film)|"
    r"(?:prior|earlier|last|old|preceding) (?:chest |head |\w+ray )?"
    r"(?:study|studies|examinations?|exams?|films?|radiographs?|ct|mri|scans?|imaging|x-rays?)|"
    r"previous(?:ly)?|unchanged|interval (?!between)|since (?:the (?:last|prior|previous)|yesterday|last\b|then)|"
    r"again (?:seen|noted|demonstrated|visible|present)|re-?demonstrat\w+|stable|progress(?:ed|ion)|"
    r"(?:has|have) (?:increased|decreased|improved|worsened|resolved|grown|cleared|enlarged|developed|appeared)|"
    r"new(?:ly)?|persist(?:s|ent|ing)|regress(?:ed|ion)|resolv(?:ed|ing)|improv(?:ed|ing)|worsen(?:ed|ing)|"
    r"no longer (?:seen|present|visible|identified|evident|appreciated)|"
    r"(?:similar|comparable) to (?:the )?(?:prior|before|earlier|last)|as before|than (?:before|earlier|yesterday)|"
    r"now (?:larger|smaller|resolved|seen|present)|increased in size|decreased in size)\b"
)
