// The reader's theme, before anything is drawn: auto, light or dark.
(() => {
  let theme = "auto";
  try { theme = localStorage.getItem("routewright-theme") || "auto"; } catch { /* not allowed */ }
  if (theme !== "auto") document.documentElement.dataset.theme = theme;
})();
