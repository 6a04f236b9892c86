"use strict";

// Update the marked part of a page without losing scroll position or focus, and show a warning when that fails: an
// outdated work list must not look current. Without scripts the page reloads itself (refreshing.html).

const SECONDS = 5;

async function refresh() {
  const part = document.querySelector("[data-refresh]");
  if (!part) return;
  try {
    const answer = await fetch(location.href);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById(part.id);
    if (answer.redirected) return location.reload();
    if (!answer.ok) throw new Error(answer.status);
    replace(part, fresh);
  } catch (error) {
    warn(part);
  }
  setTimeout(refresh, SECONDS * 1000);
}

function replace(part, fresh) {
  const focused = document.activeElement?.id;
  part.replaceWith(fresh);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function warn(part) {
  if (document.getElementById("stale")) return;
  const warning = document.createElement("p");
  warning.id = "stale";
  warning.className = "warning";
  warning.setAttribute("role", "alert");
  warning.textContent = "The server is unreachable: this page may be out of date.";
  part.prepend(warning);
}

setTimeout(refresh, SECONDS * 1000);
