"use strict";
const byId = (id) => document.getElementById(id);
const STATE_CLASS = { valid: "good", stale: "warn", expired: "bad", missing: "bad", login_required: "bad" };
let report = null;
let receivedAt = 0;

// Text only: nothing that comes from the server ever becomes markup.
function element(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  if (d > 0) return d + " d " + h + " h";
  if (h > 0) return h + " h " + m + " min";
  if (m > 0) return m + " min " + (s % 60) + " s";
  return s + " s";
}

// Counts on between two answers, by this machine's clock only.
function countdown(seconds) {
  return seconds - (performance.now() - receivedAt) / 1000;
}

function expiry(provider) {
  if (provider.expires_in_seconds === null) return provider.fetched_at === null ? "–" : "never";
  const left = countdown(provider.expires_in_seconds);
  return left > 0 ? "in " + span(left) : span(-left) + " ago";
}

function nextFetch(provider) {
  if (provider.next_fetch_in_seconds === null) return "–";
  const left = countdown(provider.next_fetch_in_seconds);
  return left > 0 ? "in " + span(left) : "now";
}

function providerRow(provider) {
  const row = document.createElement("tr");
  const name = element("td", provider.name);
  if (!provider.required) name.append(" ", element("span", "optional", "quiet"));
  const state = document.createElement("td");
  state.append(element("span", provider.state.replace("_", " "), "badge " + (STATE_CLASS[provider.state] || "")));
  const expires = element("td", expiry(provider), "time");
  if (provider.expires_at) expires.title = provider.expires_at;
  const next = element("td", nextFetch(provider), "time");
  if (provider.next_fetch_at) next.title = provider.next_fetch_at;
  const error = element("td", provider.last_error || "", "bad");
  if (provider.failures > 1) error.append(" (" + provider.failures + " in a row)");
  row.append(name, state, expires, next, element("td", provider.token_endpoint || "static"), error);
  return row;
}

function upstreamRow(upstream) {
  const row = document.createElement("tr");
  const number = (value, className) => element("td", value.toLocaleString(), "number " + (value > 0 && className || ""));
  row.append(
    element("td", upstream.name), element("td", upstream.route), element("td", upstream.url), element("td", upstream.provider),
    number(upstream.requests), number(upstream.errors, "bad"), number(upstream.token_rejections, "warn"), number(upstream.in_flight));
  return row;
}

function fill(body, rows, nothing) {
  if (rows.length === 0) {
    const row = document.createElement("tr");
    const cell = element("td", nothing, "quiet");
    cell.colSpan = 8;
    row.append(cell);
    rows = [row];
  }
  body.replaceChildren(...rows);
}

function show() {
  // Not while somebody marks an error to copy it.
  if (report === null || !getSelection().isCollapsed) return;
  const ready = byId("ready");
  const words = report.ready ? "ready" : "not ready";
  if (ready.textContent !== words) ready.textContent = words;
  ready.className = "badge " + (report.ready ? "good" : "bad");
  byId("about").textContent = "version " + report.version + ", up " + span(report.uptime_seconds + (performance.now() - receivedAt) / 1000);
  const notes = report.pending.map((text) => element("li", text))
    .concat(report.config_problems.map((text) => element("li", "Configuration not reloaded: " + text, "bad")));
  byId("notes").hidden = notes.length === 0;
  byId("notes").replaceChildren(...notes);
  fill(byId("providers"), report.providers.map(providerRow), "No providers.");
  fill(byId("upstreams"), report.upstreams.map(upstreamRow), "No upstreams.");
  byId("listeners").textContent = "Proxy: " + report.listeners.join(", ");
}

async function poll() {
  if (!document.hidden) {
    try {
      const answer = await fetch("/status", { signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(answer.statusText);
      report = await answer.json();
      receivedAt = performance.now();
      byId("lost").hidden = true;
    } catch {
      byId("lost").hidden = false;
    }
    show();
  }
  setTimeout(poll, 2000);
}

setInterval(show, 1000);
poll();
