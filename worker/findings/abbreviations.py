"""Abbreviations and spellings of reports, as tables: what is written, and the words that the rules read instead."""

from __future__ import annotations

#: Read in upper and lower case.
ABBREVIATIONS = {
    # Findings.
    "ptx": "pneumothorax", "ptxs": "pneumothoraces", "pnx": "pneumothorax", "htx": "haemothorax",
    "hptx": "hydropneumothorax", "pna": "pneumonia", "chf": "heart failure", "ccf": "heart failure",
    "lvf": "heart failure",
    "atel": "atelectasis", "consol": "consolidation", "opac": "opacity",
    "eff": "effusion", "effs": "effusions", "sdh": "subdural haematoma", "sdhs": "subdural haematomas",
    "ich": "intracranial haemorrhage", "iph": "intraparenchymal haemorrhage", "sah": "subarachnoid haemorrhage",
    "ivh": "intraventricular haemorrhage", "edh": "epidural haematoma", "cva": "infarct", "mls": "midline shift",
    "spn": "solitary pulmonary nodule", "ggo": "ground glass opacity", "fx": "fracture", "fxs": "fractures",
    "subq": "subcutaneous", "subcut": "subcutaneous", "sub-q": "subcutaneous", "sq": "subcutaneous",
    "sc emphysema": "subcutaneous emphysema", "sc line": "subclavian line", "sc catheter": "subclavian catheter",
    # Devices.
    "ett": "endotracheal tube", "cvc": "central venous catheter", "cvcs": "central venous catheters",
    "cvl": "central venous line", "ppm": "pacemaker", "aicd": "pacemaker",
    "ij": "jugular", "ijv": "jugular", "scv": "subclavian",
    # Places.
    "rul": "right upper lobe", "rml": "right middle lobe", "rll": "right lower lobe", "lul": "left upper lobe",
    "lll": "left lower lobe", "ruz": "right upper zone", "rmz": "right middle zone", "rlz": "right lower zone",
    "luz": "left upper zone", "lmz": "left middle zone", "llz": "left lower zone",
    "rhs": "right side", "lhs": "left side", "rt": "right", "lt": "left", "bilat": "bilateral",
    "b/l": "bilateral", "bil": "bilateral", "pulm": "pulmonary",
    "cp": "costophrenic", "cpa": "costophrenic angle", "cpas": "costophrenic angles",
    # Certainty and time.
    "r/o": "rule out", "h/o": "history of", "hx": "history", "s/p": "status post", "w/o": "without", "w/out": "without",
    "wo": "without",
    "w/": "with", "neg": "negative", "c/w": "consistent with", "poss": "possible",
    "prob": "probable", "d/t": "due to", "s/o": "suspicion of", "e/o": "evidence of", "ddx": "differential", "&": "and",
    # Sizes.
    "mod": "moderate", "sm": "small", "lg": "large",
}  # fmt: skip
#: Read in upper case only: "os" and "ma" are words.
UPPER_CASE = {
    "L": "left", "R": "right", "OD": "right eye", "OS": "left eye", "OU": "both eyes",
    "ICD": "pacemaker", "NAD": "normal", "DD": "differential",
}  # fmt: skip
#: Frequent errors of more than one letter, and in words that are too short to be corrected by rule.
MISSPELLED = {
    "rigth": "right", "rihgt": "right", "lfet": "left", "letf": "left", "plueral": "pleural", "plural": "pleural",
    "hemmorhage": "hemorrhage", "hemmorage": "hemorrhage", "haemorhage": "haemorrhage", "pnuemonia": "pneumonia",
    "nuemothorax": "pneumothorax", "pneumothoracies": "pneumothoraces", "cardiomegly": "cardiomegaly",
    "hart": "heart", "rite": "right", "scene": "seen",
    "withuot": "without", "wihtout": "without", "evidnce": "evidence", "atelactasis": "atelectasis",
}  # fmt: skip
#: Words in which one wrong, missing, additional or exchanged letter is corrected, if the first letter is right.
CORRECTED = frozenset({
    "pneumothorax", "pneumothoraces", "hydropneumothorax", "pneumomediastinum", "pneumoperitoneum", "emphysema",
    "subcutaneous", "effusion", "effusions", "pleural", "pericardial", "consolidation", "consolidations", "pneumonia",
    "opacity", "opacities", "nodule", "nodules", "atelectasis", "cardiomegaly", "fracture", "fractures", "fractured",
    "pacemaker", "pacemakers", "endotracheal", "catheter", "haematoma", "hematoma", "haematomas", "hematomas",
    "subdural", "haemorrhage", "hemorrhage", "haemorrhages", "hemorrhages", "infarct", "infarcts", "infarction",
    "hydrocephalus", "exudates", "exudate", "ulceration", "erythema", "bleeding", "diverticulum", "diverticula",
    "diverticulosis", "carcinoma", "adenocarcinoma", "melanoma", "inflammation", "necrosis", "costophrenic",
    "bilateral", "bibasilar", "without", "evidence",
})  # fmt: skip
#: Words that are no errors, although one letter makes them a word above.
REAL_WORDS = frozenset(
    {"infect", "infarcted", "pneumonic", "blending", "breeding", "effusive", "modules", "module", "opacify"}
)
