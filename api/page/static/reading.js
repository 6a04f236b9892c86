"use strict";

// Keys, acceptance and copies on the page of one study (after refresh.js). Every action has a control that works without
// this file: sentences are links, acceptance is a form, the text to copy is in the page. Events are handled at the document,
// because refresh.js replaces parts of it.

const SWITCH = "prelim.single-keys";
const WIDE = matchMedia("(min-width: 60.01rem)");
const byId = (id) => document.getElementById(id);
const main = () => byId("main");
const listed = () => [...document.querySelectorAll(".grounds > [data-sentence]")];
const singleKeys = () => localStorage.getItem(SWITCH) !== "off";

document.documentElement.classList.add("scripted");

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

// Return why the text must not leave this page, or nothing.
function obstacle() {
  if (byId("stale")) return "the server does not answer, and the report may be out of date";
  if (byId("newer")) return "the report or its status has changed since it was opened; show the current state first";
  if (byId("status")?.hasAttribute("data-held")) return "the study is held";
  return "";
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

function put(event, text) {
  const lines = text.split("\n").map((line) => {
    const shown = document.createElement("p");
    shown.textContent = line;
    return shown.outerHTML;
  });
  lines[0] = lines[0].replace("<p>", "<p><strong>").replace("</p>", "</strong></p>");
  event.clipboardData.setData("text/plain", text);
  event.clipboardData.setData("text/html", lines.join("\n"));
  event.preventDefault();
  event.stopImmediatePropagation();
}

// A selected part of the report never leaves without banner, version and time.
function copySelected(event) {
  const selection = getSelection();
  const report = document.querySelector(".report");
  if (selection.isCollapsed || !report || !selection.getRangeAt(0).intersectsNode(report)) return;
  const why = obstacle();
  if (why) {
    event.preventDefault();
    return say(`Not copied: ${why}.`);
  }
  const head = document.querySelector(".to-copy").textContent.split("\n").slice(0, 2);
  put(event, [...head, "Part of the report:", selection.toString()].join("\n"));
}

function showKeys() {
  const dialog = byId("keys");
  byId("single-keys").checked = singleKeys();
  if (!dialog.open) dialog.showModal();
}

function showOthers() {
  const other = document.querySelector("a.other");
  if (other) other.focus();
  else say("No other study has this patient ID.");
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  t: () => current() && byId(`sentence-${current().dataset.sentence}`).focus(),
  a: () => press("accepted"),
  x: () => press("rejected"),
  c: copyReport,
  p: showOthers,
  v: () => (byId("picture")?.offsetParent ? byId("picture").focus() : byId("open-viewer")?.click()),
  "?": showKeys,
};

function press(kind) {
  const sentence = current();
  const button = sentence?.querySelector(`.judge [value="${kind}"]`);
  if (!sentence) return say("Choose a sentence first: j goes to the next one.");
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
  judge(event.target, event.submitter.value);
});
document.addEventListener("click", ({ target }) => {
  if (target.id === "copy") copyReport();
  if (target.id === "show-keys") showKeys();
});
document.addEventListener("change", ({ target }) => {
  if (target.id === "single-keys") localStorage.setItem(SWITCH, target.checked ? "on" : "off");
});
document.addEventListener("copy", copySelected);
