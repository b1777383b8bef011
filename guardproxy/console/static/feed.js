// New records arrive as server-sent events and go to the top of the table, until the reader pauses them.
"use strict";

const MOST_ROWS = 200;
const button = document.getElementById("live");
let source = null;
let arrived = 0;

function start() {
  source = new EventSource(button.dataset.live);
  source.addEventListener("rows", (event) => {
    const body = document.getElementById("rows");
    if (!body) { location.reload(); return; }
    const template = document.createElement("template");
    template.innerHTML = event.data;  // escaped by the server
    const rows = [...template.content.children];
    body.prepend(...rows);
    while (body.rows.length > MOST_ROWS) body.lastElementChild.remove();
    arrived += rows.length;
    document.getElementById("arrived").textContent = `${arrived} new since you came`;
    // After a pause the stream goes on behind the last record that is shown.
    const next = new URL(button.dataset.live, location.href);
    next.searchParams.set("last", event.lastEventId);
    button.dataset.live = next.href;
  });
}

function show(live) {
  button.setAttribute("aria-pressed", String(live));
  button.querySelector(".word").textContent = live ? "Live" : "Paused";
}

if (button) {
  button.hidden = false;
  button.addEventListener("click", () => {
    if (source) { source.close(); source = null; } else { start(); }
    show(source !== null);
  });
  start();
}
