"""Words of ordinary statements about images: a statement with any other word is not quoted in its author's words.

None of them gives an order, addresses a reader or names a prompt. The findings of a statement with another word are
quoted in words of this program (worker.prompting.quoting), so the list need not be complete.
"""

from __future__ import annotations

import re

WORDS = frozenset(
    re.findall(
        r"[a-z]+",
        """
    a abdomen abdominal abnormal abnormalities abnormality about above abscess absence absent accompanied active
    actively acute adenocarcinoma adenopathy adjacent admission advised aerated affected affecting after
    afterwards again age air airspace airways alignment all almost along also although amount an and aneurysm
    angiogram angle angles annular another anterior anteriorly antral antrum aorta aortic ap apart apex apical
    apices appearance appearances appeared appearing appears appreciated approx approximately arch are area
    arising arm artefact artery as ascending associated asymmetric asymmetry at atelectasis atelectatic atheroma
    atrial atrium atrophy atypical available axillary azygos bands basal base based bases basilar be been before
    behind being below beneath benign better bibasal bibasilar bilat bilateral bilaterally biopsied biopsy bladder
    bleed bleeding blood blot blunted blunting body bone bones bony border borderline both bowel brain breast
    breasts bronchial bronchiectasis bronchogram bronchograms bronchus bulky bulla bullae but by caecum
    calcification calcifications calcified calibre can cannot carcinoma cardiac cardiomediastinal cardiomegaly
    cardiopulmonary carina catheter caudal caudate cava cavitation cavoatrial ceased cecum cells centimetres
    central cerebellar cerebellum cerebral cervical chain chamber change changes chest chf chronic circumscribed
    clavicle clavicular classified clean clear cleared clinical clinically clip clipped cluster cm coarse cold collapse
    collapsed collection colon colonic colonoscopy comparable compared compatible complete completely compressive
    concave concern configuration confined confirmed confirms confluent congestion congestive considerable
    considered consistent consists consol consolidated consolidation conspicuous containing contiguous contour
    contours contralaterally contrast contusion convex convexity correlation corresponds cortex cortical costal
    costophrenic could cp cranial crescent crowded crust crusted ct cup cupping cvc cxr cyst cystic cysts data
    decrease decreased deep definite definitely deformity degenerative degree demonstrable demonstrated dense
    density depicted descending described despite develop developed development develops deviated deviation
    devices diagnostic diameter diaphragm difficult diffuse dilatation dilated dilation disappeared disc discoid
    discrete disease displaced distal distributed distribution diverticula diverticulosis diverticulum dome done
    dorsal doubt drain drainage drusen dual ductal due duodenal during earlier early ectasia edema effect effusion
    effusions eighth either elbow elevated elevation embolus emphysema encysted endoscopic endoscopy endotracheal
    enlarged enlargement entire epidural equivocal erythema established ett evacuated event evidence evident
    except exclude excluded expanded expansion expiratory explanted extended extends extension extensive
    extradural extubation exudate exudates eye facial favoured feature felt few fibrin fibrosis fibrotic fields
    fifth filling film finding findings fine fissure fissures fixation flattened flattening fluid focal focus for
    foramen forearm forrest fossa found fourth fracture fractured fractures free fresh from frontal fully fundus further
    fx fxs gallbladder ganglia gas gastric generator glands glass granuloma greater gross grossly ground grown
    grows haematoma haemorrhage haemorrhages haemorrhagic hard hardware harrington has have hazy head healed
    healing heart hematoma hematomas hemidiaphragm hemidiaphragms hemisphere hemispheric hemithorax hemorrhage
    hemorrhages hemothorax hepatic hernia heterogeneous hiatal hiatus hila hilar hilum history homogeneous
    horizontal horns however hydrocephalus hyperdense hyperdensity hyperinflated hyperinflation hypodense
    hypodensity icd ich identified if ij image images imaging impression improved improving in incisura increase
    increased increases indicates infarct inferior infiltrate infiltrating inflammation inflammatory inhomogeneous
    innumerable inserted insertion inside intact interlobar interlobular internal interstitial interval into
    intracerebral intracranial intraperitoneal intraventricular invasive involves involving ipsilateral irregular
    is isolated it its joint joints jugular junction keeping kidneys knee known lacunar ladder lamellar large
    largely larger last lateral layering lead leads left leftward lesion lesions less lies likely limited limits
    line linear lines liver lll lobar lobe lobes lobulated loculated loculation longer longitudinal looked loss
    low lower lt lucency lucent lul lung lungs lymph lymphadenopathy macula maculae macular made mainly malignancy
    margin margins marked markedly mass maximum may mca measures measuring medial median mediastinal mediastinum
    melanoma merely metastases metastasis metastatic mid middle midline mild mildly miliary millimetres minimally
    minor mixed mls mm moderate moderately more most mri mucosa mucosal multifocal multilobar multiple myocardial
    naevus near nearby nearly neck necrosis negative neither nerve nevus new ngt nil nipple no node nodes nodul
    nodular nodule nodules nonbleeding nondisplaced none nonobstructive nonspecific nor normal not noted now
    nuclei numerous obscured obscures obscuring occipital occlusion occur od oedema oesophagus of old on one only
    oozing opacification opacities opacity opening optic or organs os ossification osteophyte otherwise ou outer
    over overlapping overlies overlying overt ovoid pa pacemaker pacer pacing parapneumonic paraseptal
    paratracheal parenchyma parenchymal parietal partial patchy patent pathological pathology pattern pca pe
    pectoral pedunculated pelvis pericardial perihilar peripheral perivascular permanent persist persistent
    persisting persists pet picc pigmented pigtail place plaque plate plates plethora pleura pleural pna
    pneumomediastinum pneumonectomy pneumonia pneumoperitoneum pneumothoraces pneumothorax pole polyp polypectomy
    polypoid polyps pons portable position positioned possibility possible possibly post posterior posteriorly
    predominantly presence present preserved pressure presumed previous previously prior probable probably process
    profuse projecting projection projects prominence prominent pronounced proportion prosthesis proximal ptx
    pulled pulmonary punctate pyloric quadrants questionable radiograph rather ratio reactive recent rectal rectum
    recurred recurrent region regressed regular remain remains removal removed repeat replaced represent
    represents resected resection resembling residual resolution resolve resolved resolving respectively result
    reticular reticulation reticulonodular retina retinal retrocardiac rib ribs right rim ring rll rml rods
    rotated rotation roughly round rounded rt rul sacral satisfactory scale scaly scan scans scapula scar scarring
    scattered sclerotic screws sdh sections see seen segment segmental septal sessile seventh several severe
    severely shadow shadowing shaft shape sharp sheets shift shoulder show showing shown shows side sided sides
    sigmoid significant silhouette silhouetting since single sinuses site situ sixth size sized skeleton
    skin skull sliding slight slightly small smaller smooth so soft solid solitary spaces spared spiculated spinal
    spine spleen splenic spondylosis spontaneously spread stable status stenosis stent sternal sternotomy stigmata
    still stomach stopped strandlike streaky stroke structures study subacute subclavian subcut subcutaneous
    subdiaphragmatic subdural submucosa subpleural subq subsegmental subsiding subtle suggest suggesting
    suggestive suggests sulci superior supine supraclavicular surgical surrounding suspect suspected suspicious
    svc swelling symmetric symmetrical tapered tapering tb temporal temporally tension tentorium terminates
    territory th thalamic thalamus than that the there thick thickened thickening thicker thin thinner thoracentesis
    thoracic thorax though throughout tiny tip tissue tissues to today top tortuous trace trachea tracheal tract
    transformation transverse trivial truncus tube tubes tumor tumour two ulcer ulcerated ulceration ulcers
    ultrasound uncertain unchanged under uniform unilateral unilaterally unlikely unremarkable up upper uterus
    vague valve various vascular vasculature vena venous ventricle ventricles ventricular ventriculomegaly versus
    vertebra vertebrae vertebral very vessels view views visible visualised visualized volume vs wall was well
    were whereas which while widened widening widespread width wires with withdrawn within without worse worsening
    yet zonal zone zones
""",
    )
)
