// The slider says its point to screen readers, and its form goes without a button.
"use strict";

document.addEventListener("htmx:afterSwap", (event) => {
  const chosen = event.target.querySelector?.("[data-text]");
  if (event.target.id === "point" && chosen) {
    document.getElementById("place").setAttribute("aria-valuetext", chosen.dataset.text);
  }
});
