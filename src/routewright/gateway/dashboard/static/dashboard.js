// What every page does: times in the reader's zone, the theme, and copying.
"use strict";

function showTimes(root) {
  const sameYear = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
  for (const element of root.querySelectorAll("time[datetime]:not([data-shown])")) {
    const time = new Date(element.dateTime);
    if (Number.isNaN(time.getTime())) continue;
    const recent = time.getFullYear() === new Date().getFullYear();
    element.title = element.textContent;
    element.textContent = time.toLocaleString(undefined, recent ? sameYear : { ...sameYear, year: "numeric" });
    element.dataset.shown = "";
  }
}

function setUpTheme() {
  const button = document.getElementById("theme");
  if (!button) return;
  const root = document.documentElement;
  const show = () => { document.getElementById("theme-name").textContent = root.dataset.theme || "auto"; };
  button.addEventListener("click", () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[root.dataset.theme || "auto"];
    if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
    try { localStorage.setItem("routewright-theme", next); } catch { /* for this page only */ }
    show();
    document.dispatchEvent(new Event("theme"));
  });
  show();
  button.hidden = false;
}

function setUpCopying() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
}

showTimes(document);
setUpTheme();
setUpCopying();
for (const element of document.querySelectorAll("[data-origin]")) element.textContent = location.origin;
document.addEventListener("htmx:afterSwap", (event) => showTimes(event.target));
