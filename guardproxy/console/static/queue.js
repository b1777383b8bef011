// The keys of the review queue. They do nothing while somebody types, and with Ctrl, Alt or Meta.
"use strict";

const form = document.getElementById("labelling");
const sheet = document.getElementById("keys");
const BUTTONS = { f: "button[value=false_positive]", c: "button[value=correct]", n: "button[value=false_negative]", e: "#exclude" };
let sent = false;

// A page that the browser takes from its memory can send again.
addEventListener("pageshow", () => { sent = false; });
// A second press must not send a form that is on its way.
document.addEventListener("submit", (event) => {
  if (event.target.method === "dialog") return;
  if (event.submitter && !isReady(event.submitter)) event.preventDefault();
  else if (sent) event.preventDefault();
  else sent = true;
});

function isReady(button) {
  const why = button.dataset.why
    ?? ("needsCategory" in button.dataset && !form.elements.category.value
      ? "No threshold was reached: choose the category to exclude first, with the keys 1 to 9." : "");
  const said = document.getElementById("said");
  if (said) {
    said.hidden = !why;
    said.textContent = why;
  }
  return !why;
}

function press(button) {
  if (button && isReady(button)) form.requestSubmit(button);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || sheet?.open) return;
  if (event.target.closest("input, textarea, select")) return;
  const key = event.key.toLowerCase();
  if (key in BUTTONS) press(form?.querySelector(BUTTONS[key]));
  else if (key === "j") document.getElementById("next")?.click();
  else if (key === "k") document.getElementById("previous")?.click();
  else if (key === "s") document.getElementById("same-text")?.click();
  else if (key === "u") document.getElementById("undo")?.requestSubmit();
  else if (key === "?") sheet?.showModal();
  else if (form && /^[0-9]$/.test(key)) {
    const select = form.elements.category;
    if (Number(key) < select.options.length) select.selectedIndex = Number(key);
  } else return;
  event.preventDefault();
});
