// The keys of the review queue. They do nothing while somebody types, and with Ctrl, Alt or Meta.
"use strict";

const form = document.getElementById("labelling");
const sheet = document.getElementById("keys");
const KINDS = { f: "false_positive", c: "correct", n: "false_negative" };

function follow(id) {
  const link = document.getElementById(id);
  if (link) link.click();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || sheet.open) return;
  if (event.target.closest("input, textarea, select")) return;
  const key = event.key.toLowerCase();
  if (key in KINDS) form.requestSubmit(form.querySelector(`button[value=${KINDS[key]}]`));
  else if (key === "j") follow("next");
  else if (key === "k") follow("previous");
  else if (key === "u") document.getElementById("undo")?.requestSubmit();
  else if (key === "?") sheet.showModal();
  else if (/^[0-9]$/.test(key)) {
    const select = form.elements.category;
    if (Number(key) < select.options.length) select.selectedIndex = Number(key);
  } else return;
  event.preventDefault();
});
