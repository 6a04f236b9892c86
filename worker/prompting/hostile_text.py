"""Words in a quoted report that address a model or imitate a prompt; data, readable without the code.

A reference report is evidence: its sentences about findings may influence a draft. Sentences that match are not quoted.
"""

from __future__ import annotations

import re

#: Markup and control tokens: `<b>`, `</p>`, `<!-- -->`, `<|im_end|>`, `<IMG_CONTEXT>`. Not "<5 mm".
MARKUP = re.compile(r"<!--.*?(?:-->|$)|</?[A-Za-z_][^<>]*>|<\|[^<>]*\|>", re.DOTALL)
#: Those of chat templates and prompts, which no report contains.
CONTROL_TOKEN = re.compile(
    r"<\|[^<>]*\|>|</?(?:img|image|IMG_CONTEXT|im_start|im_end|eos|bos|pad|unk|endoftext|case)>"
    r"|\[/?(?:INST|SYS|case|end of case)\b[^\]]*\]|<</?SYS>>",
    re.IGNORECASE,
)
#: Beginning of a quoted case in a prompt: "(4, 0.99)", "[case 4, similarity 0.99]", "case 4:".
FORGED_ENTRY = re.compile(
    r"\(\s*\d{1,3}\s*[,;]\s*[01]?[.,]\d+\s*\)|\bsimilarity\s*[:=]?\s*[01]?[.,]\d+"
    r"|^\W*case\s*(?:no\.?\s*)?\d{1,3}\s*[:,]",
    re.IGNORECASE,
)
#: Sentences that address a model: English first, then the words for "ignore", "write" and "answer" in other languages.
INSTRUCTION = re.compile(
    r"^\W*(?:(?:please|kindly|now|always|just|then|instead|and|but|so)\W+)*"
    r"(?:ignore|disregard|forget|override|overrule|bypass|pretend|write|output|answer|respond|reply|say|print|repeat"
    r"|copy|generate|produce|translate|act as|behave|do not (?:write|report|mention|describe|look|use|read)"
    r"|don't (?:write|report|mention|describe|look|use|read)|never (?:write|report|mention|describe)"
    r"|report (?:that|only|instead|always|this|the following|an?|no)|describe (?:an?|this|it|only|instead|no)"
    r"|state (?:that|only|instead)|include the|conclude (?:that|with)|set the)\b"
    r"|\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|ing)|overrul(?:e|ing)|regardless of|without"
    r" (?:looking|regard)|instead of)\b(?:\W+\w+){0,4}\W+(?:images?|pictures?|pixels|films?|photos?|instructions?"
    r"|prompts?|text|above|context|rules?|task|question)\b"
    r"|\b(?:write|output|answer|respond|reply|print|type|report|say|state)\W+(?:only|just|exactly|with|as follows|the"
    r" (?:following|words?|sentence|text)|[\"'\u2018\u201c])"
    r"|\b(?:previous|prior|above|following|these|those|all|any|new|your|my|system|hidden|original)\W+(?:\w+\W+)?"
    r"(?:instructions?|prompts?)\b"
    r"|\b(?:system|user|assistant|human|developer|model|ai|bot)\s*(?:prompt|message|note|override|mode)?\s*[:>]"
    r"|\b(?:you are|you're|you must|you should|you will|you shall|you have to|you need to|you may|your (?:task|answer|"
    r"response|output|report|job|role|instructions?|reply))\b"
    r"|\b(?:language model|chat ?gpt|llm|large model|this (?:ai|model|assistant)|an? (?:ai|assistant)|the (?:ai|model|"
    r"assistant)|dear (?:ai|model|assistant|reader)|note to (?:the )?(?:ai|model|reader|assistant|system))\b"
    r"|\b(?:correct|right|only|expected|final|true|required) (?:answer|output|response|report|reply)\b"
    r"|\b(?:answer|output|response|reply|report|draft|text) (?:is|must|should|shall|has to|needs to|will)\W+(?:be|read|"
    r"say|state|contain|begin|end|always)\b"
    r"|\b(?:ignorier\w*|missacht\w*|vergiss|vergessen sie|schreib(?:e|en sie)?|antwort(?:e|en sie)|beachte\w* nicht"
    r"|ignorez|oubliez|[e\u00e9]crivez|r[e\u00e9]pondez|ignor[ae]n?|olvide|escrib[ae]n?|respond[ae]n?|conteste"
    r"|scriv[ai]\w*|rispond[ai]\w*|dimentica\w*|negeer|vergeet|schrijf|antwoord|ignorera|skriv|svara)\b",
    re.IGNORECASE,
)
#: Words of a statement that something is normal and names no finding: "Normal study.", "The lungs are clear."
NORMAL_WORDS = frozenset(
    re.findall(
        r"[\w-]+",
        """
    a abdomen abdominal above acute airways alignment all an and angiogram appearance appearances are as at
    bilaterally biopsy bladder blood bone bones bony both bowel brain breast breasts cardiac cardiomediastinal
    cardiopulmonary cells cerebral chest clear colon contour contours contrast cranial ct data density diagnostic
    diaphragm disc disease endoscopic endoscopy evidence examination fields film findings for frontal fundus gas
    glands grossly head heart hila hilar image images impression in intact is joint joints kidneys knee lateral
    lesion lesions liver lung lungs macula mediastinal mediastinum mri mucosa normal no not noted of optic or organs
    pathological pathology pelvis pattern patent pleura pleural preserved process pulmonary radiograph regular
    reported result retina ribs scan scans seen shape sharp side significant silhouette sinuses size skeleton skin
    skull soft spaces spine spleen study suspicious symmetric symmetrical the thorax tissue tissues to two unchanged
    unremarkable uterus vasculature ventricles vessels view views visible was were within limits width with x-ray
    zones
""",
    )
)
