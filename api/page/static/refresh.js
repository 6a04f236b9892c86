"use strict";

// Keep a page current without losing scroll position, focus or selected text. The text of a report never changes while it
// is shown: a notice offers the newer version. A server that does not answer is noticed by the age of the page, which
// is counted here. Without scripts, pages without a report reload themselves (refreshing.html).

const SECONDS = 5;
const TIMEOUT_SECONDS = 8;
const OLD_SECONDS = 15;
let updated = Date.now();

async function refresh() {
  await update();
  setTimeout(refresh, SECONDS * 1000);
}

// Return whether the server answered.
async function update() {
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(TIMEOUT_SECONDS * 1000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (answer.redirected) {
      location.reload();
      return false;
    }
    if (answer.status === 404 && document.getElementById("main").dataset.study) withdraw();
    else if (!answer.ok) throw new Error(answer.status);
    else apply(page);
    updated = Date.now();
    return true;
  } catch (error) {
    // The page grows old, and showAge says so.
    return false;
  }
}

function apply(page) {
  const shown = document.getElementById("main");
  const fresh = page.getElementById("main");
  if (shown.dataset.study) compare(shown, fresh);
  const named = document.getElementById("newer");
  if (!shown.dataset.version && fresh.dataset.version && !named) return replace(shown, fresh);
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const other = page.getElementById(part.id);
    if (!other || isSelected(part)) continue;
    keepState(part, other);
    // list.js keeps the rows of the work list where they are.
    if (typeof merge === "function" && merge(part, other)) continue;
    replace(part, other);
  }
}

function replace(part, fresh) {
  if (part.isEqualNode(fresh)) return;
  const focused = document.activeElement?.id;
  part.replaceWith(fresh);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

// The age and what the reader has opened are states of this page, not of the server's.
function keepState(part, fresh) {
  const shown = part.querySelectorAll("details");
  fresh.querySelectorAll("details").forEach((details, index) => (details.open = Boolean(shown[index]?.open)));
  const counter = fresh.querySelector("#age");
  if (counter) counter.textContent = part.querySelector("#age").textContent;
}

function isSelected(part) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(part, true);
}

// Name what has changed since the page was opened. The notice stays until the reader acknowledges it: also if the
// status is again as it was. Without a report only patient and reader are compared: the status on the page is refreshed,
// and a report that arrives is shown after the acknowledgement.
function compare(shown, fresh) {
  const count = shown.dataset.version ? undefined : 2;
  const facts = (main) => [...main.querySelector("#facts").content.children].map((one) => one.textContent).slice(0, count);
  const [before, now] = [shown, fresh].map(facts);
  const { version, tag } = shown.dataset.version ? fresh.dataset : shown.dataset;
  const same = shown.dataset.tag === tag && before.join() === now.join();
  if (same && !document.getElementById("newer")) return;
  const lines = [
    ...now.filter((fact) => !before.includes(fact)).map((fact) => `Now: ${fact}`),
    ...before.filter((fact) => !now.includes(fact)).map((fact) => `No longer: ${fact}`),
  ];
  offer(version, shown.dataset.version, tag, lines);
}

// The study was deleted, or this reader may no longer see it.
function withdraw() {
  offer("", document.getElementById("main").dataset.version, "", ["The server no longer shows this study."]);
}

async function offer(version, shown, tag, lines) {
  const text = !shown
    ? "This study has changed since it was opened. "
    : !version
    ? "This report is no longer current. "
    : version === shown
      ? "The status of this report has changed since it was opened. "
      : `Version ${version} of this report exists; version ${shown} is shown. `;
  const notice = message("newer", text);
  const key = `${tag}\n${lines.join("\n")}`;
  if (notice.dataset.key === key) return;
  const again = notice.contains(document.activeElement);
  notice.dataset.key = key;
  const list = document.createElement("ul");
  list.replaceChildren(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  notice.replaceChildren(text, list, acknowledgement(version, tag));
  if (again) notice.querySelector("button").focus();
  if (!version || version === shown) return;
  const words = await differences(Number(shown));
  if (notice.dataset.key === key) list.after(...words);
}

// Sections of the page of versions, each with the words that differ from the version before; a sentence if it has none.
async function differences(shown) {
  const missing = document.createElement("p");
  missing.textContent = "The words that differ could not be loaded.";
  try {
    const answer = await fetch(`/studies/${document.getElementById("main").dataset.study}/versions`, { signal: AbortSignal.timeout(TIMEOUT_SECONDS * 1000) });
    const page = new DOMParser().parseFromString(answer.ok ? await answer.text() : "", "text/html");
    const found = [...page.querySelectorAll("[data-change]")].filter(({ dataset }) => Number(dataset.change) > shown);
    return found.length ? found : [missing];
  } catch (error) {
    return [missing];
  }
}

// Stored with the reader's name; then the page shows the current state.
function acknowledgement(version, tag) {
  const form = document.createElement("form");
  form.method = version ? "post" : "get";
  form.action = `/studies/${document.getElementById("main").dataset.study}${version ? "/acknowledgement" : ""}`;
  const button = Object.assign(document.createElement("button"), { textContent: "I have seen what changed: show the current state" });
  button.dataset.acknowledge = "";
  if (version) form.append(Object.assign(document.createElement("input"), { type: "hidden", name: "tag", value: tag }));
  form.append(button);
  return form;
}

function showAge() {
  const age = Math.round((Date.now() - updated) / 1000);
  const counter = document.getElementById("age");
  if (counter) counter.textContent = `Updated ${age} s ago`;
  if (age <= OLD_SECONDS) return document.getElementById("stale")?.remove();
  message("stale", `No answer from the server for ${age} s: this page may be out of date.`);
}

// A message stands before the refreshed parts, so that a refresh does not remove it.
function message(id, text) {
  const found = document.getElementById(id);
  const shown = found ?? document.createElement("section");
  if (!found) {
    shown.id = id;
    shown.className = "warning";
    shown.setAttribute("role", id === "stale" ? "alert" : "status");
    document.getElementById("messages").append(shown);
  }
  if (id === "stale") shown.textContent = text;
  return shown;
}

// An image that the server cannot send must not be taken for one without findings.
function showBroken(image) {
  const notice = document.createElement("p");
  notice.className = "outdated";
  notice.textContent = `${image.alt} cannot be shown, although the report was written from it.`;
  image.replaceWith(notice);
}

const IMAGES = ".images img";
for (const image of document.querySelectorAll(IMAGES)) if (image.complete && !image.naturalWidth) showBroken(image);
// An error of an image does not bubble.
document.addEventListener("error", ({ target }) => target.matches?.(IMAGES) && showBroken(target), true);
setInterval(showAge, 1000);
setTimeout(refresh, SECONDS * 1000);
document.addEventListener("visibilitychange", () => document.hidden || showAge());
