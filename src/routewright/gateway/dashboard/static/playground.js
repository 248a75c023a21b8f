// A conversation with one policy or with two: asks the gateway, and shows the answer as it streams.
"use strict";

const root = document.getElementById("talks");
const form = document.getElementById("ask");
const question = document.getElementById("question");
const stop = document.getElementById("stop");
const two = document.getElementById("two");
const talks = [...root.querySelectorAll(".talk")].map((element) => ({
  element,
  log: element.querySelector(".log"),
  model: element.querySelector("select"),
  messages: [],
}));
let running = null; // aborts the answers in progress

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(talk, who, text, className) {
  const article = element("article", `text ${className}`);
  article.append(element("h3", "", who), element("p", "", text));
  talk.log.append(article);
  talk.log.scrollTop = talk.log.scrollHeight;
  return article;
}

function limits() {
  const found = {};
  const number = (name, factor = 1) => {
    const text = form.elements[name].value.trim();
    if (text) found[name] = Number(text) * factor;
  };
  number("max_cost");
  number("min_quality", 0.01);
  number("max_latency_ms");
  const data = form.elements.data_class.value;
  if (data) found.data_class = data;
  return found;
}

async function* events(body) {
  const decoder = new TextDecoderStream();
  let rest = "";
  const reader = body.pipeThrough(decoder).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function money(usd) {
  if (!usd) return "US$ 0";
  return `US$ ${usd >= 1 ? usd.toFixed(2) : Number(usd.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 12 })}`;
}

function explain(article, facts, expert, seconds) {
  const foot = element("p", "foot");
  const path = element("span", "steps");
  for (const step of (facts.path || expert).split(">")) path.append(element("span", "step", step));
  foot.append(path, ` ${money(facts.cost)} · ${seconds.toFixed(1)} s · `);
  if (facts.decision_id) {
    const link = element("a", "", "why");
    link.href = root.dataset.decision + encodeURIComponent(facts.decision_id);
    foot.append(link);
  }
  if (facts.because) article.title = facts.because;
  article.append(foot);
  if (facts.because) article.append(element("p", "foot", facts.because));
}

async function answer(talk, text, signal) {
  const began = performance.now();
  talk.messages.push({ role: "user", content: text });
  say(talk, "you", text, "mine");
  const article = say(talk, talk.model.value, "", "reply");
  article.setAttribute("aria-busy", "true");
  const place = article.querySelector("p");
  let expert = "";
  let whole = "";
  let facts = {};
  try {
    const response = await fetch(root.dataset.ask, {
      method: "POST",
      headers: { "content-type": "application/json", "x-csrf-token": root.dataset.token },
      body: JSON.stringify({ model: talk.model.value, messages: talk.messages, stream: true, routewright: limits() }),
      signal,
    });
    if (!response.ok) throw new Error(await reason(response));
    facts = { decision_id: response.headers.get("x-routewright-decision-id") };
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      expert = event.model || expert;
      whole += event.choices?.[0]?.delta?.content ?? "";
      place.textContent = whole;
      if (expert) article.querySelector("h3").textContent = expert;
      facts = { ...facts, ...event.routewright };
      talk.log.scrollTop = talk.log.scrollHeight;
    }
    talk.messages.push({ role: "assistant", content: whole });
    explain(article, facts, expert, (performance.now() - began) / 1000);
  } catch (error) {
    talk.messages.pop();
    const stopped = error.name === "AbortError";
    article.append(element("p", stopped ? "foot" : "problem", stopped ? "Stopped." : error.message));
  }
  article.removeAttribute("aria-busy");
  talk.log.scrollTop = talk.log.scrollHeight;
}

async function reason(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return response.status === 401 || response.status === 403
      ? "You are signed out: load the page again."
      : `The gateway answered ${response.status}.`;
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || running) return;
  question.value = "";
  running = new AbortController();
  stop.disabled = false;
  form.elements.send.disabled = true;
  const shown = talks.filter((talk) => !talk.element.hidden);
  await Promise.all(shown.map((talk) => answer(talk, text, running.signal)));
  running = null;
  stop.disabled = true;
  form.elements.send.disabled = false;
  question.focus();
});

question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
stop.addEventListener("click", () => running?.abort());
document.getElementById("new").addEventListener("click", () => {
  running?.abort();
  for (const talk of talks) {
    talk.messages = [];
    talk.log.replaceChildren();
  }
  question.focus();
});

function address() {
  const query = new URLSearchParams({ a: talks[0].model.value });
  if (two.checked) query.set("b", talks[1].model.value);
  history.replaceState(null, "", `?${query}`);
}
two.addEventListener("change", () => {
  talks[1].element.hidden = !two.checked;
  address();
});
for (const talk of talks) talk.model.addEventListener("change", address);
