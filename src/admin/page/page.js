"use strict";
const byId = (id) => document.getElementById(id);
const STATE_CLASS = { valid: "good", stale: "warn", expired: "bad", missing: "bad", login_required: "bad" };
// Limits the page's size with ten thousand upstreams; the search finds the others.
const MOST_CARDS = 100;
const SEARCH_FROM = 12;
// Five minutes at one sample per response.
const SAMPLES = 150;
const POLL = 2000;
// In bytes: larger responses are requested less often.
const LARGE = 500000;
let report = null;
let receivedAt = 0;

// Sets text only: no data from the server ever becomes markup.
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// Changes only what differs: selected text stays selected, and screen readers repeat nothing.
function write(node, text, className) {
  if (node.textContent !== text) node.textContent = text;
  if (className !== undefined && node.className !== className) node.className = className;
}

function attribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function say(text) {
  byId("said").textContent = text;
}

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  if (d > 0) return d + " d " + h + " h";
  if (h > 0) return h + " h " + m + " min";
  if (m > 0) return m + " min " + (s % 60) + " s";
  return s + " s";
}

function milliseconds(seconds) {
  if (seconds === null) return "–";
  if (seconds >= 1) return seconds.toFixed(1) + " s";
  const ms = seconds * 1000;
  return (ms < 10 ? ms.toFixed(1) : Math.round(ms)) + " ms";
}

const count = (number) => number.toLocaleString();
const rate = (number) => (number < 10 ? number.toFixed(1) : count(Math.round(number))) + "/s";

// Counts between two responses by the browser's clock only.
function countdown(seconds) {
  return seconds - (performance.now() - receivedAt) / 1000;
}

// === Providers

const inState = (provider) => provider.state.replace("_", " ");

function expiry(provider) {
  if (provider.expires_in_seconds === null) return provider.fetched_at === null ? "no token" : "does not expire";
  const left = countdown(provider.expires_in_seconds);
  return left > 0 ? "expires in " + span(left) : "expired " + span(-left) + " ago";
}

function nextFetch(provider) {
  if (provider.token_endpoint === null) return "not fetched: a token of your own";
  if (provider.state === "login_required") return "";
  if (provider.next_fetch_in_seconds === null) return "fetching, or none is due";
  const left = countdown(provider.next_fetch_in_seconds);
  return left > 0 ? "next fetch in " + span(left) : "next fetch now";
}

function trouble(provider) {
  const error = provider.last_error || "";
  const again = provider.failures > 1 ? " (" + provider.failures + " times in a row)" : "";
  if (provider.state !== "login_required") return error + (error && again);
  return "Log in again: cupbearer login " + provider.name + (error ? ". " + error : "");
}

async function refresh(card, name) {
  const { button, outcome } = card.parts;
  if (button.getAttribute("aria-disabled") === "true") return;
  // Not `disabled`, which would take the focus away.
  button.setAttribute("aria-disabled", "true");
  write(outcome, "fetching a token…", "small quiet");
  try {
    const response = await fetch("/-/refresh/" + encodeURIComponent(name), { method: "POST", headers: { "X-Cupbearer": "1" } });
    const { detail } = await response.json();
    write(outcome, detail, "small " + (response.ok ? "good" : "bad"));
  } catch {
    write(outcome, "no answer from Cupbearer", "small bad");
  }
  button.removeAttribute("aria-disabled");
  ask();
}

function providerCard(provider) {
  const node = document.createElement("li");
  const top = element("div", "row"), foot = element("div", "row");
  const parts = {
    state: element("span", "badge"), about: element("p", "small quiet"), life: element("div", "life"), left: element("div", "left"),
    tick: element("div", "tick"), expires: element("span", "small time"), next: element("span", "small quiet time"),
    error: element("p", "small bad"), button: element("button", "", "Refresh now"), outcome: element("span", "small"),
  };
  const title = element("h3", "", provider.name);
  parts.life.setAttribute("role", "meter");
  parts.life.setAttribute("aria-label", "Life of the token of " + provider.name);
  parts.life.append(parts.left, parts.tick);
  parts.button.type = "button";
  parts.button.setAttribute("aria-label", "Refresh " + provider.name + " now");
  parts.outcome.setAttribute("role", "status");
  top.append(title, parts.state);
  const times = element("div", "row");
  times.append(parts.expires, parts.next);
  foot.append(parts.outcome, parts.button);
  node.append(top, parts.about, parts.life, times, parts.error, foot);
  const card = { node, parts, state: provider.state };
  parts.button.addEventListener("click", () => refresh(card, provider.name));
  return card;
}

function updateProvider(card, provider) {
  const parts = card.parts;
  const look = STATE_CLASS[provider.state] || "";
  write(parts.state, inState(provider), "badge " + look);
  if (card.state !== provider.state) {
    say("The token of " + provider.name + " is now " + inState(provider));
    card.state = provider.state;
  }
  const about = [provider.token_endpoint || "static token"];
  if (provider.single_active) about.push("single active");
  if (!provider.required) about.push("optional");
  if (provider.generation > 0) about.push("token no. " + provider.generation);
  write(parts.about, about.join(" · "));
  showLife(parts, provider, look);
  write(parts.expires, expiry(provider));
  attribute(parts.expires, "title", provider.expires_at || "");
  write(parts.next, nextFetch(provider));
  attribute(parts.next, "title", provider.next_fetch_at || "");
  const error = trouble(provider);
  write(parts.error, error);
  parts.error.hidden = error === "";
  parts.button.hidden = provider.token_endpoint === null;
}

function showLife(parts, provider, look) {
  const life = provider.life_seconds;
  const eternal = provider.expires_in_seconds === null && provider.fetched_at !== null;
  const left = provider.expires_in_seconds === null ? 0 : Math.max(0, countdown(provider.expires_in_seconds));
  // Without a known start of the token's life the bar is full until the end.
  const part = eternal || (life === null && left > 0) ? 1 : life > 0 ? Math.min(1, left / life) : 0;
  parts.life.className = "life " + look;
  parts.left.style.width = 100 * part + "%";
  const due = provider.next_fetch_in_seconds;
  const known = life > 0 && due !== null && left > 0;
  parts.tick.hidden = !known;
  if (known) parts.tick.style.left = "calc(" + 100 * Math.min(1, Math.max(0, left - Math.max(0, countdown(due))) / life) + "% - 1px)";
  attribute(parts.life, "aria-valuemin", "0");
  attribute(parts.life, "aria-valuemax", "100");
  attribute(parts.life, "aria-valuenow", String(Math.round(100 * part)));
  attribute(parts.life, "aria-valuetext", [inState(provider), expiry(provider), nextFetch(provider)].filter(Boolean).join(", "));
}

// === Upstreams

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

// Interpolates the quantile between the bounds of its bucket; null without requests.
function quantile(counts, fraction) {
  const total = sum(counts);
  if (total === 0) return null;
  let rest = total * fraction;
  for (let i = 0; i < counts.length; i++) {
    if (rest <= counts[i] && counts[i] > 0) {
      const low = i === 0 ? 0 : report.latency_bounds[i - 1];
      const high = i < report.latency_bounds.length ? report.latency_bounds[i] : low;
      return low + (high - low) * rest / counts[i];
    }
    rest -= counts[i];
  }
  return report.latency_bounds[report.latency_bounds.length - 1];
}

function sample(card, upstream, at) {
  const last = card.last;
  // A smaller counter means that the process has restarted.
  if (last && upstream.requests >= last.requests) {
    const seconds = Math.max(0.001, (at - last.at) / 1000);
    const counts = upstream.latency.map((value, i) => value - (last.latency[i] || 0));
    card.samples.push({ rate: (upstream.requests - last.requests) / seconds, half: quantile(counts, 0.5), most: quantile(counts, 0.99) });
    if (card.samples.length > SAMPLES) card.samples.shift();
  }
  card.last = { at, requests: upstream.requests, latency: upstream.latency };
}

function chart(name) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const label = element("span", "", name), now = document.createElement("span");
  caption.append(label, now);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 " + (SAMPLES - 1) + " 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const lines = ["first", "second"].map((className) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("class", className);
    return line;
  });
  svg.append(...lines);
  figure.append(caption, svg);
  return { figure, svg, lines, now };
}

// Skips null values, so that the line continues over gaps without requests.
function draw(line, values, top) {
  const shift = SAMPLES - values.length;
  const points = values.flatMap((value, i) => value === null ? [] : [(shift + i) + "," + (38 - 36 * value / top).toFixed(1)]);
  attribute(line, "points", points.join(" "));
}

const FIGURES = ["requests", "answered 4xx", "answered 5xx", "own errors", "tokens rejected", "replayed", "not replayed", "in flight", "connections"];

function upstreamCard(upstream) {
  const node = document.createElement("li");
  const top = element("div", "row");
  const parts = { provider: element("span", "small quiet"), way: element("p", "small quiet"), rates: chart("requests"), times: chart("p50, p99"), figures: [] };
  top.append(element("h3", "", upstream.name), parts.provider);
  const charts = element("div", "charts");
  charts.append(parts.rates.figure, parts.times.figure);
  const list = document.createElement("dl");
  for (const name of FIGURES) {
    const pair = document.createElement("div"), value = document.createElement("dd");
    pair.append(element("dt", "", name), value);
    list.append(pair);
    parts.figures.push(value);
  }
  node.append(top, parts.way, charts, list);
  return { node, parts, samples: [], last: null };
}

function updateUpstream(card, upstream) {
  const parts = card.parts;
  write(parts.provider, "token of " + upstream.provider);
  write(parts.way, upstream.route + " → " + upstream.url);
  const replays = upstream.replays;
  const figures = [
    [upstream.requests, ""], [upstream.answers["4xx"] || 0, ""], [upstream.answers["5xx"] || 0, "warn"], [upstream.errors, "bad"],
    [upstream.token_rejections, "warn"], [replays.ok, ""], [replays.rejected + replays.not_replayable, "bad"],
    [upstream.in_flight, ""], [upstream.connections, ""],
  ];
  figures.forEach(([value, look], i) => write(parts.figures[i], count(value), value > 0 ? look : ""));
  showCharts(card, upstream);
}

function showCharts(card, upstream) {
  const { rates, times } = card.parts;
  const latest = card.samples[card.samples.length - 1];
  const overall = [0.5, 0.99].map((fraction) => milliseconds(quantile(upstream.latency, fraction)));
  const now = latest ? rate(latest.rate) : "–";
  write(rates.now, now);
  draw(rates.lines[0], card.samples.map((it) => it.rate), Math.max(1, ...card.samples.map((it) => it.rate)));
  attribute(rates.svg, "aria-label", "Requests to " + upstream.name + ": " + now + " now");
  const recent = card.samples.filter((it) => it.half !== null).pop();
  const pair = recent ? [milliseconds(recent.half), milliseconds(recent.most)] : overall;
  write(times.now, pair.join(", "));
  const top = Math.max(0.001, ...card.samples.map((it) => it.most || 0));
  draw(times.lines[0], card.samples.map((it) => it.half), top);
  draw(times.lines[1], card.samples.map((it) => it.most), top);
  attribute(times.svg, "aria-label", "Latency of " + upstream.name + ": median " + pair[0] + ", 99th percentile " + pair[1]);
}

// === The page

const providers = { list: byId("providers"), more: byId("providers-more"), cards: new Map(), make: providerCard, update: updateProvider };
const upstreams = { list: byId("upstreams"), more: byId("upstreams-more"), cards: new Map(), make: upstreamCard, update: updateUpstream };

// Keeps one node per name, so that focus and selected text survive an update.
function fill(kind, entries, nothing) {
  const wanted = byId("filter").value.trim().toLowerCase();
  const found = entries.filter((entry) => entry.name.toLowerCase().includes(wanted));
  const shown = found.slice(0, MOST_CARDS);
  const names = new Set(shown.map((entry) => entry.name));
  for (const [name, card] of kind.cards) {
    if (names.has(name)) continue;
    card.node.remove();
    kind.cards.delete(name);
  }
  const nodes = shown.map((entry) => {
    let card = kind.cards.get(entry.name);
    if (!card) kind.cards.set(entry.name, card = kind.make(entry));
    kind.update(card, entry);
    return card.node;
  });
  if (nodes.length === 0) nodes.push(element("li", "none", wanted ? "None has “" + wanted + "” in its name." : nothing));
  if (nodes.length !== kind.list.children.length || nodes.some((node, i) => kind.list.children[i] !== node)) kind.list.replaceChildren(...nodes);
  const rest = found.length - shown.length;
  kind.more.hidden = rest === 0;
  write(kind.more, "and " + count(rest) + " more: search by name");
}

// Failing providers come first.
const URGENCY = ["login_required", "expired", "missing", "stale", "valid"];
const byUrgency = (a, b) => URGENCY.indexOf(a.state) - URGENCY.indexOf(b.state);

function list(node, lines) {
  node.hidden = lines.length === 0;
  const same = node.children.length === lines.length && lines.every(([text, look], i) => node.children[i].textContent === text && node.children[i].className === look);
  if (!same) node.replaceChildren(...lines.map(([text, look]) => element("li", look, text)));
}

function show() {
  // An update would clear a selection that is about to be copied.
  if (report === null || !getSelection().isCollapsed) return;
  const before = byId("ready").textContent;
  const words = report.ready ? "ready" : "not ready";
  write(byId("ready"), words, "badge " + (report.ready ? "good" : "bad"));
  if (before !== words && before !== "loading") say("Cupbearer is " + words);
  write(byId("about"), "version " + report.version + ", up " + span(report.uptime_seconds + (performance.now() - receivedAt) / 1000));
  document.title = (report.ready ? "" : "not ready – ") + "Cupbearer";
  list(byId("notes"), report.pending.map((text) => [text, ""]).concat(report.config_problems.map((text) => ["Configuration not reloaded: " + text, "bad"])));
  byId("search").hidden = report.providers.length <= SEARCH_FROM && report.upstreams.length <= SEARCH_FROM;
  fill(providers, [...report.providers].sort(byUrgency), "No providers.");
  fill(upstreams, report.upstreams, "No upstreams.");
  const reloads = report.reloads.map((it) => [span(it.seconds_ago + (performance.now() - receivedAt) / 1000) + " ago: " + (it.ok ? "" : "refused: ") + it.detail, it.ok ? "" : "bad"]);
  list(byId("reloads"), reloads.length > 0 ? reloads : [["None since the start.", "quiet"]]);
  write(byId("listeners"), "Proxy: " + report.listeners.join(", "));
}

async function ask() {
  let size = 0;
  try {
    const response = await fetch("/status", { signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(response.statusText);
    const text = await response.text();
    size = text.length;
    report = JSON.parse(text);
    receivedAt = performance.now();
    byId("lost").hidden = true;
  } catch {
    byId("lost").hidden = false;
  }
  show();
  if (byId("lost").hidden) {
    for (const upstream of report.upstreams) {
      const card = upstreams.cards.get(upstream.name);
      if (card) sample(card, upstream, receivedAt);
    }
  }
  return size;
}

async function poll() {
  const size = document.hidden ? 0 : await ask();
  setTimeout(poll, size > LARGE ? 5 * POLL : POLL);
}

byId("filter").addEventListener("input", show);
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
setInterval(show, 1000);
poll();
