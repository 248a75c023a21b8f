// The part of the first page that changes all the time, while somebody looks.
"use strict";

const live = document.getElementById("live");

async function refresh() {
  if (document.hidden || live.contains(document.activeElement)) return;
  try {
    const response = await fetch(live.dataset.from, { headers: { "hx-request": "true" } });
    if (!response.ok) return;
    live.innerHTML = await response.text();
    showTimes(live);
  } catch {
    // the gateway is away, or the reader leaves: the next time will tell
  }
}

setInterval(refresh, 10000);
document.addEventListener("visibilitychange", refresh);
