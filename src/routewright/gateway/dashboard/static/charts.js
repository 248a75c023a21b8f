// Bars over time, drawn by uPlot from the attribute `data-series` in the colours of the theme.
"use strict";

const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5, 1e6];
const drawn = [];

function colour(name) {
  const probe = document.createElement("span");
  probe.className = `ink-${name}`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function number(value) {
  return value == null ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

function time(at, options) {
  return new Date(at * 1000).toLocaleString(undefined, options);
}

function draw(element, columns) {
  const column = Number(element.dataset.column);
  const unit = element.dataset.unit;
  const step = columns[0].length > 1 ? columns[0][1] - columns[0][0] : 3600;
  const short = step < 86400 ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" };
  const axis = { stroke: colour("muted"), font: "12px system-ui, sans-serif", grid: { stroke: colour("rule"), width: 1 }, ticks: { show: false } };
  const bars = { stroke: colour("router"), fill: colour("router"), paths: uPlot.paths.bars({ size: [0.7, 40] }), points: { show: false } };
  const options = {
    width: element.clientWidth,
    height: 175,
    cursor: { drag: { x: false, y: false }, points: { show: false } },
    scales: {
      x: { range: (_, low, high) => [low - step / 2, high + step / 2] },
      y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] },
    },
    series: [
      { label: "from", value: (_, at) => (at == null ? "–" : time(at, { day: "numeric", month: "short", ...short })) },
      { ...bars, label: unit, value: (_, value) => number(value) },
    ],
    axes: [
      { ...axis, space: 64, size: 28, values: (_, ticks) => ticks.map((at) => time(at, short)), grid: { show: false } },
      { ...axis, size: 66, values: (_, ticks) => ticks.map(number), ...(unit === "requests" ? { incrs: WHOLE } : {}) },
    ],
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
