"use strict";

// Nothing of a report, an answer or a difference leaves a page without banner, version and time: before the selected words
// stands the head of their element (data-head), and elements with data-obstacle give none at all.

const HEADED = "[data-head]";

function sayCopied(text) {
  document.getElementById("said").textContent = text;
}

function put(event, text, bold = 1) {
  const lines = text.split("\n").map((line, at) => {
    const shown = document.createElement(at < bold ? "strong" : "span");
    shown.textContent = line;
    const paragraph = document.createElement("p");
    paragraph.append(shown);
    return paragraph.outerHTML;
  });
  event.clipboardData.setData("text/plain", text);
  event.clipboardData.setData("text/html", lines.join("\n"));
  event.preventDefault();
  event.stopImmediatePropagation();
}

// Outermost elements with a head that the selection touches.
function touched(selection) {
  const range = selection.getRangeAt(0);
  const found = [...document.querySelectorAll(HEADED)].filter((element) => range.intersectsNode(element));
  return found.filter((element) => !found.some((other) => other !== element && other.contains(element)));
}

// The report's own head is refreshed with its text to copy.
function headOf(element) {
  const text = element.querySelector(".to-copy")?.textContent.split("\n").slice(0, 2).join("\n");
  return text ?? element.dataset.head.trim();
}

function copySelected(event) {
  const selection = getSelection();
  const elements = selection.isCollapsed ? [] : touched(selection);
  if (!elements.length) return;
  // reading.js defines the obstacles of the page's own report.
  const general = typeof obstacle === "function" ? obstacle() : "";
  const why = elements.map((element) => element.dataset.obstacle || (element.matches(".own") ? general : "")).find(Boolean);
  if (why) {
    event.preventDefault();
    return sayCopied(`Not copied: ${why}.`);
  }
  put(event, [...elements.map(headOf), "Part of it:", selection.toString()].join("\n"));
}

document.addEventListener("copy", copySelected);
