"use strict";

// Settings that this browser keeps. It may refuse to: blocked site data, full storage. A change lasts as long as the page
// then, and the page says so.

const SWITCH = "prelim.single-keys";
const unkept = new Map();

function setting(name) {
  if (unkept.has(name)) return unkept.get(name);
  try {
    return localStorage.getItem(name);
  } catch (error) {
    return null;
  }
}

function keepSetting(name, value) {
  try {
    localStorage.setItem(name, value);
    unkept.delete(name);
  } catch (error) {
    unkept.set(name, value);
  }
  showUnkept();
}

// In an open dialog, because nothing else can be reached then.
function showUnkept() {
  const shown = document.getElementById("unkept");
  if (!unkept.size) return shown?.remove();
  const notice = shown ?? Object.assign(document.createElement("p"), { id: "unkept", className: "warning" });
  notice.setAttribute("role", "status");
  (document.querySelector("dialog[open]") ?? document.getElementById("messages")).append(notice);
  notice.textContent = "This browser keeps no settings of this site: the change is lost when the page is left.";
}

const singleKeys = () => setting(SWITCH) !== "off";
