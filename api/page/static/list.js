"use strict";

// The work list (after refresh.js): keys, and refreshes by which no row moves while one of them has the focus or the pointer.
// New rows wait behind a chip then. Events of the server make a refresh earlier; it happens without them, too.

const KINDS = ["received", "state", "report", "feedback", "hold", "release", "resync"];
const MIN_GAP_MS = 3000;
const REOPEN_MS = 15_000;
const VIEWS = "prelim.views";
const KEPT = ["state", "modality", "body_part", "ae_title", "priority", "attention", "unread", "sort"];
const rowsOf = (part) => new Map([...part.querySelectorAll("tbody tr")].map((row) => [row.querySelector("th a").id, row]));
const links = () => [...document.querySelectorAll("#list tbody th a")];
let forced = false;
let stream = null;
let planned = 0;

// Called by refresh.js: return whether the list was brought up to date row by row.
function merge(part, fresh) {
  const body = part.id === "list" && part.querySelector("tbody");
  const used = body && (body.contains(document.activeElement) || body.matches(":hover"));
  if (!used || forced) {
    if (part.id === "list") showNews(0);
    return false;
  }
  const shown = rowsOf(part);
  const current = rowsOf(fresh);
  for (const [id, row] of shown) {
    if (current.has(id)) replace(row, current.get(id).cloneNode(true));
    else leave(row);
  }
  for (const name of [".heading", ".filters"]) {
    const [own, other] = [part.querySelector(name), fresh.querySelector(name)];
    if (own && other && !own.contains(document.activeElement)) replace(own, other.cloneNode(true));
  }
  showNews([...current.keys()].filter((id) => !shown.has(id)).length);
  return true;
}

function leave(row) {
  if (row.classList.contains("left")) return;
  row.classList.add("left");
  const words = document.createElement("small");
  words.textContent = "No longer in this list";
  row.cells[0].append(words);
}

function showNews(count) {
  const chip = document.getElementById("news");
  chip.hidden = !count;
  const text = `${count} new – n`;
  if (chip.textContent !== text) chip.textContent = text;
}

async function takeNews() {
  forced = true;
  await update();
  forced = false;
  links()[0]?.focus();
}

function move(step) {
  const all = links();
  const at = all.indexOf(document.activeElement);
  all[at < 0 ? 0 : Math.min(Math.max(at + step, 0), all.length - 1)]?.focus();
}

function showKeys() {
  const dialog = document.getElementById("keys");
  document.getElementById("single-keys").checked = singleKeys();
  if (!dialog.open) dialog.showModal();
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  n: () => document.getElementById("news").hidden || takeNews(),
  "/": () => document.querySelector(".search input[type=text]").focus(),
  "?": showKeys,
};

// Views that this browser keeps: addresses of the list, without the fields that name a patient or a study.
function views() {
  try {
    const found = JSON.parse(setting(VIEWS));
    return Array.isArray(found) ? found.filter((view) => typeof view === "string") : [];
  } catch (error) {
    return [];
  }
}

function current() {
  const given = new URLSearchParams(location.search);
  return new URLSearchParams(KEPT.filter((name) => given.get(name)).map((name) => [name, given.get(name)])).toString();
}

function viewItem(view) {
  const words = [...new URLSearchParams(view)].map(([name, value]) => (value === "true" ? name : `${name.replace("_", " ")} ${value}`)).join(", ");
  const item = document.createElement("span");
  const link = Object.assign(document.createElement("a"), { href: `/?${view}`, textContent: words });
  const remove = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "×" });
  remove.dataset.view = view;
  remove.setAttribute("aria-label", `Remove the view ${words}`);
  item.append(link, remove);
  return item;
}

function keep(kept) {
  keepSetting(VIEWS, JSON.stringify(kept));
  showViews();
}

function showViews() {
  document.getElementById("own-views").replaceChildren(...views().map(viewItem));
  document.getElementById("keep-view").hidden = !current() || views().includes(current());
}

// At most one refresh in MIN_GAP_MS, and not those of all open lists at the same moment.
function soon() {
  if (planned) return;
  const wait = Math.max(200, MIN_GAP_MS - (Date.now() - updated)) + Math.random() * 500;
  planned = setTimeout(async () => {
    await update();
    planned = 0;
  }, wait);
}

// Only while the list can be seen: a browser has few connections to one server.
function listen() {
  if (document.hidden) {
    stream?.close();
    stream = null;
  } else if (!stream) {
    stream = new EventSource("/v1/events");
    for (const kind of KINDS) stream.addEventListener(kind, soon);
    stream.addEventListener("error", reopen);
  }
}

// A browser connects again by itself, but not after an answer such as 503 while the database restarts.
function reopen({ target }) {
  if (target !== stream || target.readyState !== EventSource.CLOSED) return;
  stream = null;
  setTimeout(listen, REOPEN_MS);
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=checkbox]), textarea, select");
  if (event.ctrlKey || event.altKey || event.metaKey || typing || document.getElementById("keys").open) return;
  if (!singleKeys() || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});
document.addEventListener("click", ({ target }) => {
  if (target.id === "news") takeNews();
  if (target.id === "show-keys") showKeys();
  if (target.id === "keep-view") {
    keep([...views(), current()]);
    document.querySelector("#own-views span:last-child a").focus();
  }
  if (target.dataset.view) {
    keep(views().filter((view) => view !== target.dataset.view));
    document.getElementById("show-keys").focus();
  }
});
document.addEventListener("change", ({ target }) => {
  if (target.id === "single-keys") keepSetting(SWITCH, target.checked ? "on" : "off");
});
document.addEventListener("visibilitychange", listen);
listen();
showViews();
