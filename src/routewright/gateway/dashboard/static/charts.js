// Bars over time, drawn by uPlot from the attribute `data-series` in the colours of the theme.
"use strict";

const drawn = [];

function colour(name) {
  const probe = document.createElement("span");
  probe.className = `ink-${name}`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function draw(element, columns) {
  const column = Number(element.dataset.column);
  const unit = element.dataset.unit;
  const axis = { stroke: colour("muted"), grid: { stroke: colour("rule"), width: 1 }, ticks: { show: false } };
  const show = (value) => (value == null ? "–" : value.toLocaleString(undefined, { maximumSignificantDigits: 4 }));
  const options = {
    width: element.clientWidth,
    height: 180,
    legend: { live: true },
    cursor: { drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    series: [
      { value: (_, at) => (at == null ? "–" : new Date(at * 1000).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" })), label: "from" },
      { label: unit, stroke: colour("router"), fill: colour("router"), value: (_, value) => show(value), paths: uPlot.paths.bars({ size: [0.7, 40] }), points: { show: false } },
    ],
    axes: [axis, { ...axis, size: 62, values: (_, ticks) => ticks.map(show) }],
  };
  return new uPlot(options, [columns[0], columns[column]], element);
}

function drawAll() {
  while (drawn.length) drawn.pop().destroy();
  for (const group of document.querySelectorAll("[data-series]")) {
    const columns = JSON.parse(group.dataset.series);
    for (const element of group.querySelectorAll(".chart")) drawn.push(draw(element, columns));
  }
}

drawAll();
document.addEventListener("theme", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  drawAll();
});
