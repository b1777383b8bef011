// Thresholds: a slider and a number for each; the server decides the records again and sends what changes.
"use strict";

const form = document.getElementById("thresholds");
const result = document.getElementById("result");
let timer = 0;
let asked = null;

// The fields that differ from the policy in force. What it does not have has no `now`, and counts as it stands.
function query() {
  const data = new URLSearchParams();
  for (const [key, value] of new FormData(form)) {
    const now = form.elements[key].dataset?.now;
    const same = now !== undefined && (value === now || (value !== "" && now !== "" && Number(value) === Number(now)));
    if (same || (value === "" && now === undefined)) continue;
    data.append(key, value);
  }
  return data;
}

// Beside each field, what the server says of its value.
function showMistakes() {
  const said = new Map([...result.querySelectorAll("#mistakes li")].map(
    (item) => [item.dataset.key, item.querySelector("span").textContent]));
  for (const place of form.querySelectorAll("[data-mistake]")) {
    const mistake = said.get(place.dataset.mistake) ?? "";
    place.textContent = mistake;
    const field = form.elements[place.dataset.mistake];
    if (mistake) field.setAttribute("aria-invalid", "true"); else field.removeAttribute("aria-invalid");
  }
}

async function decide() {
  asked?.abort();
  asked = new AbortController();
  const address = query();
  try {
    const answer = await fetch(`${form.dataset.result}?${address}`, { signal: asked.signal });
    if (!answer.ok) { location.assign(`${form.action}?${address}`); return; }
    result.innerHTML = await answer.text();  // escaped by the server
    showMistakes();
    document.getElementById("said").textContent = result.querySelector("[data-summary]").textContent;
    history.replaceState(null, "", `${form.action}?${address}`);
  } catch (error) {
    if (error.name !== "AbortError") result.textContent = "The server does not answer. Load the page again.";
  }
}

form.addEventListener("input", (event) => {
  const moved = event.target;
  if (moved.type !== "range" && moved.type !== "number") return;
  const key = moved.dataset.for ?? moved.name;
  const number = form.elements[key];
  if (moved.type === "range") number.value = moved.value;
  else form.querySelector(`input[data-for="${CSS.escape(key)}"]`).value = moved.value;
  const line = form.querySelector(`line[data-of="${CSS.escape(key)}"]`);
  if (line) {
    const x = Number(number.value) * line.ownerSVGElement.viewBox.baseVal.width;
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  }
  clearTimeout(timer);
  timer = setTimeout(decide, 150);
});

// The page is made anew for another side or time, and for a rule more or less; what is unchanged stays out of its address.
for (const select of form.querySelectorAll("select")) {
  select.addEventListener("change", () => {
    if (select.name === "at" || select.name === "since") location.assign(`${form.action}?${query()}`);
    else decide();
  });
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const data = query();
  if (event.submitter?.name) data.append(event.submitter.name, event.submitter.value);
  location.assign(`${form.action}?${data}`);
});
document.getElementById("refused")?.focus();
