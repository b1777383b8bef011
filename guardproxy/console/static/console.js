// Shared by every page: dialogs, and buttons that copy a text.
"use strict";

for (const button of document.querySelectorAll("[data-dialog]")) {
  button.addEventListener("click", () => document.getElementById(button.dataset.dialog).showModal());
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy).textContent;
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Browsers allow the clipboard on localhost and over HTTPS only.
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = before; }, 2000);
});

// Beside a wide table the filters are open, above it on a narrow screen they are closed.
for (const details of document.querySelectorAll("details.facets")) {
  details.open = matchMedia("(min-width: 900px)").matches;
}
