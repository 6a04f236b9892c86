"use strict";

// Dark, unless this browser was switched to light. Not deferred: the first paint already has the chosen colours.

const THEME = "prelim.theme";

function applyTheme() {
  const light = setting(THEME) === "light";
  document.documentElement.dataset.theme = light ? "light" : "dark";
  document.getElementById("theme")?.setAttribute("aria-pressed", light);
}

document.documentElement.classList.add("scripted");
applyTheme();
document.addEventListener("DOMContentLoaded", applyTheme);
document.addEventListener("click", ({ target }) => {
  if (target.id !== "theme") return;
  keepSetting(THEME, setting(THEME) === "light" ? "dark" : "light");
  applyTheme();
});
