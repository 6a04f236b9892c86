"""Words of questions about phantoms: frames, nouns, and subjects that no phantom shows."""

from __future__ import annotations

from typing import NamedTuple

#: Other nouns of a finding, beside its name and its American spelling.
SYNONYMS = {
    "cardiomegaly": ("enlargement of the heart", "cardiac enlargement", "enlarged heart"),
    "pleural effusion": ("effusion", "pleural fluid"),
    "consolidation": ("airspace opacity",),
    "nodule": ("lung nodule",),
    "atelectasis": ("linear atelectasis",),
    "hilar enlargement": ("enlarged hilum", "enlargement of the hilum"),
    "rib fracture": ("fractured rib",),
    "pacemaker": ("cardiac pacemaker",),
    "central venous line": ("central line", "central venous catheter"),
    "tracheal tube": ("endotracheal tube",),
    "haemorrhage": ("intracerebral haemorrhage", "hemorrhage", "intracerebral hemorrhage"),
    "subdural haematoma": ("subdural hematoma",),
    "infarct": ("infarction",),
    "mass": ("cerebral mass", "brain mass"),
    "hydrocephalus": ("enlarged ventricles", "enlargement of the ventricles"),
    "retinal haemorrhages": ("retinal hemorrhages",),
    "exudates": ("hard exudates",),
    "drusen": ("macular drusen",),
    "disc cupping": ("cupping of the optic disc", "optic disc cupping"),
    "benign naevus": ("naevus", "benign nevus"),
    "irregular lesion": ("irregular pigmented lesion",),
    "bleeding": ("active bleeding", "fresh blood"),
    "ulcer": ("mucosal ulcer",),
    "inflammation": ("inflammatory infiltrate",),
    "tumour": ("tumor",),
    "free air": ("free air under the diaphragm",),
    "spinal rods": ("spinal fixation rods",),
}
#: Findings of other images that a question may mean by the noun of an own one: never asked for as absent.
ALIKE = {
    "haemorrhage": {"bleeding", "retinal haemorrhages", "subdural haematoma"},
    "retinal haemorrhages": {"bleeding", "haemorrhage"},
    "bleeding": {"haemorrhage", "retinal haemorrhages"},
    "ulcer": {"ulceration"},
    "ulceration": {"ulcer"},
    "mass": {"tumour", "nodule", "irregular lesion", "polyp"},
    "tumour": {"mass", "irregular lesion", "polyp"},
}


class Frames(NamedTuple):
    """Wordings of one kind of question: for training, and those held out to evaluate.

    `{noun}` is a finding, `{a}` the same with its article, `{be}` and `{Be}` its verb, `{side}` and `{other}` sides.
    """

    trained: tuple[str, ...]
    held_out: tuple[str, ...]


PRESENT = Frames(
    (
        "{Be} there {a}?", "Do you see {a}?", "{Be} {a} present?", "{Be} {a} visible?", "Does the image show {a}?",
        "Can {a} be seen?", "Is there evidence of {noun}?", "Are there signs of {noun}?", "{Be} there any {noun}?",
        "Does this image show {a}?", "Can you see {a} in this image?", "Does the patient have {a}?", "Any {noun}?",
        "{Be} {a} seen?", "Tell me whether there {be} {a}.", "{Be} {a} visible on this image?", "{A}?",
        "Do these images show any {noun}?", "Is there any sign of {noun}?", "{Be} there {a} in the image?",
        "Do you find {a}?", "{Be} {a} there?", "Do you notice {a}?", "{Be} {a} shown?", "Does this study show {a}?",
        "Please look for {a}.", "Is it true that there {be} {a}?", "Has the patient {a}?", "{A}: yes or no?",
        "{A}, yes or no?", "Yes or no: {be} there {a}?", "Would you report {a}?",
    ),
    (
        "{Be} {a} apparent in the images?", "Would you say that there {be} {a}?", "Do the images demonstrate {a}?",
        "Could there be {a}?", "{Be} {a} identified in this study?", "Is any {noun} noted?",
    ),
)  # fmt: skip
PRESENT_ON_SIDE = Frames(
    (
        "{Be} there {a} on the {side}?", "{Be} there {article}{side} {noun}?", "Do you see {a} on the {side} side?",
        "Does the image show {article}{side} {noun}?", "{Be} the {noun} on the {side}?",
        "{Be} there {article}{side}-sided {noun}?", "{Be} {a} present on the {side}?",
        "Does the image show {a} on the {side} side?", "On the {side}, {be} there {a}?",
        "Can you see {article}{side} {noun}?", "{Be} {a} visible on the {side}?",
    ),
    ("{Be} {article}{side} {noun} visible?", "Can {a} be seen on the {side} side?"),
)  # fmt: skip
SIDE = Frames(
    (
        "On which side is the {noun}?", "Which side is the {noun} on?",
        "Is the {noun} on the {side} or on the {other}?", "{Side} or {other} {noun}?",
        "On what side do you see the {noun}?", "Which side shows the {noun}?", "Which side has the {noun}?",
        "On which side of the patient is the {noun}?", "The {noun} is on which side?",
        "Is the {noun} {side} or {other}?", "Is it a {side} or a {other} {noun}?",
        "Which side is the {noun} located on?", "What is the side of the {noun}?", "Tell me the side of the {noun}.",
        "Side of the {noun}?", "Is the {noun} {side}-sided or {other}-sided?",
        "Does the {noun} involve the {side} or the {other} side?", "The {noun}: {side} or {other}?",
        "Which side do you see the {noun} on?", "Which side does the image show the {noun} on?",
        "What side has the {noun}?", "Please name the side of the {noun}.",
    ),
    (
        "Which side is affected by the {noun}?", "On which side can the {noun} be seen?",
        "Does the {noun} lie on the {side} or the {other} side?",
    ),
)  # fmt: skip
PLACE = Frames(
    (
        "Where is the {noun}?", "Where do you see the {noun}?", "What is the location of the {noun}?",
        "Where is the {noun} located?", "In which place is the {noun}?", "Where exactly is the {noun}?",
        "Where does the image show the {noun}?", "Tell me where the {noun} is.", "Location of the {noun}?",
        "Where can you find the {noun}?",
    ),
    ("Where can the {noun} be seen?", "At which location is the {noun}?"),
)  # fmt: skip
ZONE = Frames(
    (
        "In which zone is the {noun}?", "Which zone shows the {noun}?",
        "Is the {noun} in the upper, middle or lower zone?", "Which zone is the {noun} in?",
        "What is the zone of the {noun}?", "Zone of the {noun}?",
        "Does the {noun} lie in the upper, middle or lower zone?",
    ),
    ("Which zone has the {noun}?", "In what zone do you see the {noun}?"),
)  # fmt: skip
SIZE = Frames(
    (
        "How large is the {noun}?", "What is the size of the {noun}?", "Is the {noun} {one} or {two}?",
        "How big is the {noun}?", "Size of the {noun}?", "Tell me the size of the {noun}.",
        "Is it a {one} or a {two} {noun}?",
    ),
    ("What size is the {noun}?",),
)  # fmt: skip
AMOUNT = Frames(
    (
        "{Be} the {noun} {one} or {two}?", "Do you see {one} or {two} {noun}?",
        "Does the image show {one} or {two} {noun}?", "{Be} there rather {one} or {two} {noun}?",
    ),
    ("Are there {one} or {two} {noun}?",),
)  # fmt: skip
COUNT_ALL = Frames(
    (
        "How many abnormalities are there?", "How many abnormal findings does the image show?",
        "How many findings are there?", "What is the number of abnormalities?",
        "How many abnormalities does the image show?", "How many findings do you see?", "Count the abnormalities.",
    ),
    ("How many abnormalities do you see?",),
)  # fmt: skip
COUNT = Frames(
    (
        "How many {plural} are there?", "How many {plural} do you see?", "What is the number of {plural}?",
        "Count the {plural}.", "How many {plural} can you see?",
    ),
    ("How many {plural} does the image show?",),
)  # fmt: skip
WHICH = Frames(
    (
        "Which of these is present: {list}?", "Which of these does the image show: {list}?",
        "Which of {list} is present?", "Is there {list_or}?", "What do you see: {list_or}?",
        "Which of the following is present: {list}?", "Which of the following does the image show: {list_or}?",
        "Does the image show {list_or}?", "Which finding is shown: {list_or}?", "What is present: {list}?",
        "Which one is there: {list_or}?",
    ),
    ("Which of these do you see: {list}?", "Which one is visible: {list_or}?"),
)  # fmt: skip
NORMAL = Frames(
    (
        "Is the image normal?", "Is this a normal image?", "Is this image normal?", "Is this normal?", "Normal image?",
        "Is everything normal?", "Is it normal?", "Are these images normal?", "Do you see a normal image?",
    ),
    ("Are the images normal?", "Would you say that the image is normal?"),
)  # fmt: skip
ABNORMAL = Frames(
    (
        "Is there any abnormality?", "Are there any abnormalities?", "Is the image abnormal?", "Is anything abnormal?",
        "Do you see an abnormality?", "Does the image show any abnormality?", "Is there anything abnormal?",
        "Any abnormality?", "Is an abnormality present?", "Any abnormalities?",
    ),
    ("Is any abnormality visible?", "Is this image abnormal?"),
)  # fmt: skip
OPEN = Frames(
    (
        "What is abnormal?", "What does the image show?", "Which abnormality is shown?", "What are the findings?",
        "What abnormalities do you see?", "Which findings are present?", "Which abnormalities do you see?",
        "Name the findings.", "Which findings are there?", "What is shown?",
    ),
    ("What abnormalities are there?", "Which abnormalities does the image show?"),
)  # fmt: skip
KIND_OF_IMAGE = Frames(
    (
        "What kind of image is this?", "Which modality is this?", "What type of image is shown?",
        "What is the modality?", "What kind of image do you see?", "Name the type of image.",
        "What is the type of this image?",
    ),
    ("What type of image is this?",),
)  # fmt: skip
BODY_PART = Frames(
    (
        "Which body part is shown?", "What part of the body is this?", "Which part of the body does the image show?",
        "Which part of the body do you see?", "What is the body part?", "What body part is this?",
        "Name the body part.",
    ),
    ("What body part does the image show?",),
)  # fmt: skip
IS_IMAGE = Frames(
    (
        "Is this {a}?", "Is this image {a}?", "Is it {a}?", "Does the image show the {part}?", "Is this the {part}?",
        "Is the {part} visible?", "Do you see the {part}?", "Are these images of the {part}?",
    ),
    ("Is the {part} shown?",),
)  # fmt: skip
#: Before a question of any kind.
PREFACES = Frames(
    (
        "Please answer:", "In this study,", "Doctor,", "Looking at the image,", "In your opinion,", "Quick question:",
        "Based on the images,", "Thank you.", "Hello,", "For this patient,",
    ),
    ("Please tell me:", "In these images,"),
)  # fmt: skip
#: Around a finding in a random order: a question without words for a side, place or number asks for its presence.
COMMON = (
    "a about above acute affected all also an and any apparent are as at be been by can chance clear clearly clinical"
    " confirm could demonstrate depict detect detected do does doctor evidence exclude features feel film finding"
    " findings for from has have having help here hint identified identify if image images in indicate indication is it"
    " know let look looking manifest may me might more my need no note noted notice observe observed of on one opinion"
    " or our patient person photograph picture pictures please possible possibly present presence question radiograph"
    " reveal rule say scan see seen shall should show showing shown shows sign signs some something study suffer"
    " suggest suspect suspicion tell that the their there these they think this those to true us view visible want was"
    " we were whether will with would yes you your"
)
#: Words that ask for more than presence, wherever they stand in a question.
CUES = {
    SIDE: ("side", "which side", "what side", "left or right", "right or left"),
    PLACE: ("where", "location", "what location", "place", "located"),
    ZONE: ("zone", "which zone", "what zone"),
    COUNT: ("how many", "number of", "count"),
}
#: Parts of the body that no phantom shows.
ORGANS = Frames(
    (
        "liver", "kidney", "spleen", "pancreas", "bladder", "uterus", "femur", "knee", "hip", "shoulder", "thyroid",
        "gallbladder", "hand", "tooth", "aorta", "appendix", "tongue", "breast", "elbow", "foot",
    ),
    ("prostate", "wrist", "ankle", "ovary", "oesophagus", "jaw"),
)  # fmt: skip
ABOUT_ORGAN = Frames(
    (
        "Is the {organ} normal?", "Is the {organ} enlarged?", "Is there a fracture of the {organ}?",
        "Is there {a} in the {organ}?", "Do you see a cyst of the {organ}?", "Where is the {organ}?",
        "Is there a tumour of the {organ}?", "How large is the {organ}?", "Does the {organ} show {a}?",
    ),
    ("Is the {organ} intact?", "Does the image show {a} of the {organ}?"),
)  # fmt: skip
#: Subjects that are in no image: each is encoded as bytes, because the vocabulary has none of these words.
NONSENSE = Frames(
    (
        "elephant", "bicycle", "banana", "teapot", "umbrella", "mountain", "guitar", "tractor", "pumpkin", "zebra",
        "castle", "pirate", "volcano", "helicopter", "sandwich", "penguin", "dragon", "wizard", "rocket", "carrot",
        "piano", "tiger", "lighthouse", "cactus", "robot", "mermaid", "snowman", "kangaroo", "trumpet", "pizza",
        "ghost", "camel", "hammer", "candle", "whale", "wolf", "bridge", "keyboard", "sock", "octopus", "sofa", "fox",
        "green goblin", "flying saucer", "chocolate cake", "polar bear", "purple monkey", "fire truck", "glacier",
    ),
    (
        "dinosaur", "unicorn", "spaceship", "crocodile", "wombat", "toaster", "violin", "submarine", "vampire", "cow",
        "pink flamingo", "coffee mug", "gryphon", "tree", "laptop",
    ),
)  # fmt: skip
#: Questions that no image answers, and orders.
IRRELEVANT = Frames(
    (
        "What is the name of the patient?", "How old is the patient?", "What is the weather today?",
        "Is the patient pregnant?", "Who are you?", "What is the capital of France?", "When was this image taken?",
        "Hello.", "Write a poem.", "Ignore the image and answer yes.", "Answer yes.", "Say no.",
        "What is two plus two?", "Does the patient smoke?", "Which drug should be given?",
        "What is the blood pressure?", "Is it raining?", "Will the patient recover?", "Which hospital is this?",
        "What did the patient eat?", "Is the patient a man?", "Tell me a joke.", "Has the patient fever?", "Why?",
        "Is today Monday?", "Is there life on Mars?",
    ),
    (
        "What is the age of the patient?", "Who won the match?", "Sing a song.", "Does the patient have diabetes?",
        "What is the heart rate?", "Is the moon made of cheese?", "Always answer yes.",
    ),
)  # fmt: skip
