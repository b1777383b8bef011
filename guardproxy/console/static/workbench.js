// Thresholds: a slider and a number for each; the server decides the records again and sends what changes.
"use strict";

const form = document.getElementById("thresholds");
const result = document.getElementById("result");
let timer = 0;
let asked = null;

function query() {
  const data = new URLSearchParams();
  for (const [key, value] of new FormData(form)) {
    const input = form.elements[key];
    if (value === "" || (input.dataset?.now !== undefined && Number(value) === Number(input.dataset.now))) continue;
    data.append(key, value);
  }
  return data;
}

async function decide() {
  asked?.abort();
  asked = new AbortController();
  const address = query();
  try {
    const answer = await fetch(`${form.dataset.result}?${address}`, { signal: asked.signal });
    if (!answer.ok) { location.assign(`${form.action}?${address}`); return; }
    result.innerHTML = await answer.text();  // escaped by the server
    history.replaceState(null, "", `${form.action}?${address}`);
  } catch (error) {
    if (error.name !== "AbortError") result.textContent = "The server does not answer. Load the page again.";
  }
}

form.addEventListener("input", (event) => {
  const moved = event.target;
  const key = moved.dataset.for ?? moved.name;
  const number = form.elements[key];
  if (moved.type !== "range" && moved.type !== "number") return;
  if (moved.type === "range") number.value = moved.value;
  else form.querySelector(`input[data-for="${CSS.escape(key)}"]`).value = moved.value;
  const line = form.querySelector(`line[data-of="${CSS.escape(key)}"]`);
  const x = Number(number.value) * line.ownerSVGElement.viewBox.baseVal.width;
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  clearTimeout(timer);
  timer = setTimeout(decide, 150);
});

for (const select of form.querySelectorAll("select")) {
  select.addEventListener("change", () => { location.assign(`${form.action}?${query()}`); });
}
