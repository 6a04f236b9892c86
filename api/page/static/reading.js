"use strict";

// Keys, acceptance and copies on the page of one study (after refresh.js and copying.js). Every action has a control that works without
// this file: sentences are links, acceptance is a form, the text to copy is in the page. Events are handled at the document,
// because refresh.js replaces parts of it.

const WIDE = matchMedia("(min-width: 60.01rem)");
const byId = (id) => document.getElementById(id);
const main = () => byId("main");
const listed = () => [...document.querySelectorAll(".grounds > [data-sentence]")];

function say(text) {
  byId("said").textContent = text;
}

function current() {
  const number = document.activeElement?.closest("[data-sentence]")?.dataset.sentence;
  return number && byId(`grounds-${number}`);
}

function move(step) {
  const all = listed();
  const at = all.indexOf(current());
  const next = all[at < 0 ? 0 : Math.min(Math.max(at + step, 0), all.length - 1)];
  if (!next) return say("This report has no sentences to go through.");
  next.focus();
}

// Mark the images and regions of the sentence with the focus.
function show(sentence) {
  const number = sentence?.dataset.sentence;
  const images = (number && byId(`grounds-${number}`)?.dataset.images.split(" ")) || [];
  for (const figure of document.querySelectorAll(".images figure")) {
    figure.classList.toggle("current", images.includes(figure.id.replace("image-", "")));
  }
  for (const region of document.querySelectorAll("[data-of]")) {
    region.classList.toggle("current", region.dataset.of.split(" ").includes(number));
  }
  if (WIDE.matches) document.querySelector("figure.current")?.scrollIntoView({ block: "nearest" });
}

async function judge(form, kind) {
  const sentence = Number(form.elements.sentence.value);
  try {
    const answer = await fetch(`/v1/studies/${main().dataset.study}/report/feedback`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "If-Match": form.elements.tag.value },
      body: JSON.stringify({ kind, sentence }),
      signal: AbortSignal.timeout(TIMEOUT_SECONDS * 1000),
    });
    const problem = answer.ok ? null : await answer.json();
    await update();
    say(problem ? `Not stored: ${problem.detail}.` : `Sentence ${kind}.`);
  } catch (error) {
    say("Not stored, or not known whether it is: no answer from the server.");
  }
}

// Return the words for a change that is not acknowledged, or nothing.
function changed() {
  if (byId("newer")) return "the report or its status has changed since it was opened; n leads to what changed";
  return byId("unseen") ? "you have read an older version; n leads to what changed" : "";
}

// Return why the text must not leave this page, or nothing.
function obstacle() {
  if (byId("stale")) return "the server does not answer, and the report may be out of date";
  return changed() || (byId("status")?.dataset.obstacle ?? "");
}

async function copyReport() {
  // A selected part is not refreshed.
  getSelection().removeAllRanges();
  const reached = await update();
  const why = reached ? obstacle() : "the server does not answer, and the report may be out of date";
  if (why) return say(`Not copied: ${why}.`);
  const text = document.querySelector(".to-copy").textContent;
  const write = (event) => put(event, text);
  document.addEventListener("copy", write, { once: true, capture: true });
  const copied = document.execCommand("copy");
  document.removeEventListener("copy", write, { capture: true });
  say(copied ? "Copied with banner, version, time and marks." : "Not copied: the browser does not permit it.");
}

function showKeys() {
  const dialog = byId("keys");
  byId("single-keys").checked = singleKeys();
  if (!dialog.open) dialog.showModal();
}

function showBeside() {
  const link = byId("close-beside") ?? document.querySelector("a.beside-link") ?? document.querySelector("a.other");
  if (!link) return say("No other study of the patient is listed.");
  if (link.matches(".other")) link.focus();
  else link.click();
}

function showChanges() {
  const control = document.querySelector("[data-acknowledge]");
  if (control) control.focus();
  else say("Nothing has changed since this page was opened.");
}

function showViewer() {
  if (byId("picture")?.offsetParent) byId("picture").focus();
  else if (byId("open-viewer")) byId("open-viewer").click();
  else say("No images can be shown: this key of the API lacks the scope images.");
}

function ask() {
  const field = byId("question");
  if (field) field.focus();
  else say("No question can be asked here: the study or this key does not permit it.");
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  t: () => current() && byId(`sentence-${current().dataset.sentence}`).focus(),
  a: () => press("accepted"),
  x: () => press("rejected"),
  c: copyReport,
  p: showBeside,
  q: ask,
  n: showChanges,
  v: showViewer,
  "?": showKeys,
};

function press(kind) {
  const sentence = current();
  const button = sentence?.querySelector(`.judge [value="${kind}"]`);
  if (!sentence) return say("Choose a sentence first: j goes to the next one.");
  const why = changed();
  if (why) return say(`Not stored: ${why}.`);
  if (!button) return say("This key of the API lacks the scope feedback: nothing was stored.");
  judge(button.form, kind);
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable]");
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || typing) return;
  if (!byId("keys") || byId("keys").open || !singleKeys() || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});
document.addEventListener("focusin", ({ target }) => show(target.closest("[data-sentence]")));
document.addEventListener("submit", (event) => {
  if (!event.target.matches(".judge")) return;
  event.preventDefault();
  const why = changed();
  if (why) return say(`Not stored: ${why}.`);
  judge(event.target, event.submitter.value);
});
document.addEventListener("click", ({ target }) => {
  if (target.id === "copy") copyReport();
  if (target.id === "show-keys") showKeys();
});
document.addEventListener("change", ({ target }) => {
  if (target.id === "single-keys") keepSetting(SWITCH, target.checked ? "on" : "off");
});
