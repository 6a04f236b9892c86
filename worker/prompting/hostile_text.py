"""Words in a quoted report that address a model or imitate a prompt; data, readable without the code.

A reference report is evidence: its sentences about findings may influence a draft. Sentences that match are not quoted.
"""

from __future__ import annotations

import re

#: Markup and control tokens: `<b>`, `</p>`, `<!-- -->`, `<|im_end|>`, `<IMG_CONTEXT>`. Not "<5 mm".
MARKUP = re.compile(r"<!--.*?(?:-->|$)|</?[A-Za-z_][^<>]*>|<\|[^<>]*\|>", re.DOTALL)
#: Those of chat templates and prompts, which no report contains.
CONTROL_TOKEN = re.compile(
    r"<\|[^<>]*\|>|</?[a-z]+_[a-z_]+>|</?(?:s|system|user|assistant|tool|instructions?|img|image|IMG_CONTEXT|im_start|im_end|eos|bos|pad|unk|endoftext|case)>"
    r"|\[/?(?:INST|SYS|case|end of case)\b[^\]]*\]|<</?SYS>>",
    re.IGNORECASE,
)
#: Beginning of a quoted case in a prompt: "(4, 0.99)", "[case 4, similarity 0.99]", "case 4:", "#4:", and its end.
FORGED_ENTRY = re.compile(
    r"[(\[{\u27e6\u3010\u300c]\s*\d{1,3}\s*[,;]\s*[01]?[.,]\d+\s*[)\]}\u27e7\u3011\u300d]"
    r"|\bsimilarity\s*[:=]?\s*[01]?[.,]\d+|^\W*[#\u3010\u27e6]\s*\d{1,3}\s*[:,)\u3011\u27e7]"
    r"|^\W*(?:similar |quoted |earlier |next |new |reference )?(?:case|patient|entry|example)\s*(?:no\.?|number|#)?\s*"
    r"\d{1,3}\s*(?:[:,]|[-\u2013]\s|\W*$)"
    r"|\b(?:begin(?:ning)?|start|end) of (?:the )?(?:\w+ )?(?:cases?|quotes?|quotation|prompt|context|instructions?)\b"
    r"|^\W*(?:new|next) case\b|^\W*#{2,}|[\"']role[\"']\s*:",
    re.IGNORECASE,
)
#: Text that is disguised: letters of two scripts in a word, single letters with spaces, escapes.
DISGUISED = re.compile(
    r"[A-Za-z][\u0370-\u03ff\u0400-\u04ff]|[\u0370-\u03ff\u0400-\u04ff][A-Za-z]"
    r"|(?<!\w)(?:[^\W\d_][ ._*-]){4,}[^\W\d_](?!\w)|\\[ux][0-9a-fA-F]{2}|%[0-9A-F]{2}%[0-9A-F]{2}"
)
#: Letters of other scripts, and digits, that resemble Latin ones.
LOOKALIKES = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0406\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458"
    "\u0391\u0392\u0395\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a7\u03bf\u03b9\u03b1\u0131"
    "013457",
    "ABEKMHOPCTXIaeopcyxijABEHIKMNOPTXoiaioieast",
)
#: Sentences that address a model: English first, then the words for "ignore", "write" and "answer" in other languages.
#: For the warning: what they do not find is not quoted either, unless it is made of the words of a report.
INSTRUCTION = re.compile(
    r"^\W*(?:(?:please|kindly|now|always|just|then|instead|and|but|so)\W+)*"
    r"(?:ignore|disregard|forget|override|overrule|bypass|pretend|write|output|answer|respond|reply|say|print"
    r"|repeat (?:after|the|this|these|exactly|only)|copy|generate|produce|translate|act as|behave"
    r"|do not (?:write|report|mention|describe|look|use|read)|don't (?:write|report|mention|describe|look|use|read)"
    r"|never (?:write|report|mention|describe)"
    r"|report (?:that|only|instead|always|this|the following|an?|no)|describe (?:an?|this|it|only|instead|no)"
    r"|state (?:that|only|instead)|include the|conclude (?:that|with)|set the)\b"
    r"|\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|ing)|overrul(?:e|ing)|regardless of|without"
    r" (?:looking|regard)|instead of)\b(?:\W+\w+){0,4}\W+(?:images?|pictures?|pixels|films?|photos?|instructions?"
    r"|prompts?|text|above|context|rules?|task|question)\b"
    r"|\b(?:write|output|answer|respond|reply|print|type|report|say|state)\W+(?:only|just|exactly|with|as follows|the"
    r" (?:following|words?|sentence|text)|[\"'\u2018\u201c])"
    r"|\b(?:previous|prior|above|following|these|those|all|any|new|your|my|system|hidden|original)\W+(?:\w+\W+)?"
    r"(?:instructions?|prompts?)\b"
    r"|\b(?:system|user|assistant|human|developer|model|ai|bot|instructions?|response|input|output)"
    r"\s*(?:prompt|message|note|override|mode)?\s*[:>]|\bsystem (?:override|prompt|message|mode)\b"
    r"|\b(?:mention|conclude|include|add)\W+(?:an?|the|that|also)\b|\bmake sure\b|\bfor the (?:next|following)\b"
    r"|\bin (?:every|each|all|any) (?:reports?|drafts?|images?|cases?|stud(?:y|ies))\b"
    r"|\b(?:mandatory|obligatory|compulsory)\b|\breports? that follows?\b|\bimage you (?:see|are)\b"
    r"|\b(?:next|following|every|each) (?:report|draft|image|study|picture|patient)s?\b(?:\W+\w+){0,4}"
    r"\W+(?:must|shall|should|will|has|have|shows?|is|are)\b"
    r"|\b(?:you are|you're|you must|you should|you will|you shall|you have to|you need to|you may|your (?:task|answer|"
    r"response|output|report|job|role|instructions?|reply))\b"
    r"|\b(?:language model|chat ?gpt|llm|large model|this (?:ai|model|assistant)|an? (?:ai|assistant)|the (?:ai|model|"
    r"assistant)|dear (?:ai|model|assistant|reader)|note to (?:the )?(?:ai|model|reader|assistant|system))\b"
    r"|\b(?:correct|right|only|expected|final|true|required) (?:answer|output|response|report|reply)\b"
    r"|\b(?:answer|output|response|reply|report|draft|text) (?:is|must|should|shall|has to|needs to|will)\W+(?:be|read|"
    r"say|state|contain|begin|end|always)\b"
    r"|\b(?:ignorier\w*|missacht\w*|vergiss|vergessen sie|schreib(?:e|en sie)?|antwort(?:e|en sie)|beachte\w* nicht"
    r"|ignorez|oubliez|[e\u00e9]crivez|r[e\u00e9]pondez|ignor[ae]n?|olvide|escrib[ae]n?|respond[ae]n?|conteste"
    r"|scriv[ai]\w*|rispond[ai]\w*|dimentica\w*|negeer|vergeet|schrijf|antwoord|ignorera|skriv|svara"
    r"|zignoruj\w*|napisz\w*|odpowiedz\w*|ignorujte|napi\u0161te|g\u00f6rmezden|dikkate alma\w*"
    r"|yan\u0131tla\w*|yaz[\u0131i]n\w*|ohita|kirjoita|scrie\w*|r\u0103spunde\w*|abaikan|tulis\w*|escreva\w*|responda\w*|\u0438\u0433\u043d\u043e\u0440\w*"
    r"|\u043d\u0430\u043f\u0438\u0448\w*|\u043e\u0442\u0432\u0435\u0442\w*|\u03b1\u03b3\u03bd\u03cc\w*|\u03b3\u03c1\u03ac\u03c8\w*)\b"
    r"|\u7121\u8996|\u5ffd\u7565|\u5ffd\u89c6|\u5ffd\u8996|\u56de\u7b54|\u66f8\u3044|\u5199\u4e0b|\u5831\u544a\u3057"
    r"|\ubb34\uc2dc|\uc791\uc131|\u062a\u062c\u0627\u0647\u0644|\u0627\u0643\u062a\u0628"
    r"|\u0644\u0627 \u062a\u0646\u0638\u0631|\u05d4\u05ea\u05e2\u05dc\u05dd"
    r"|\u05db\u05ea\u05d5\u05d1|\u0905\u0928\u0926\u0947\u0916\u093e|\u0932\u093f\u0916\u0947\u0902",
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
