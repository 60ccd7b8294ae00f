// What is shown where. Names, addresses and texts come from strangers: they are only ever set as text, never as markup.

import { Chart } from "./charts.js";
import { follow, get, hasToken, post, setToken } from "./live.js";

const $ = (id) => document.getElementById(id);
const OUTCOMES = [
  ["hits", "hits"], ["stale", "stale"], ["forwarded", "forwarded"], ["coalesced", "coalesced"],
  ["local", "local"], ["rules", "rules"], ["limited", "limited"], ["overload", "overload"],
];
const MORE_OUTCOMES = [["malformed", "malformed"], ["failed", "failed"]];
const TROUBLE = [["limited", "limited"], ["overload", "overload"], ["servfail", "SERVFAIL"], ["timeouts", "upstream timeouts"]];

// ---------------------------------------------------------------- numbers

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const hundredth = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

function rate(value) {
  if (value === undefined || value === null) return "–";
  if (value >= 1e6) return `${hundredth.format(value / 1e6)} M`;
  if (value >= 1e5) return `${whole.format(value / 1e3)} k`;
  if (value >= 1e4) return `${tenth.format(value / 1e3)} k`;
  return value >= 100 ? whole.format(value) : value >= 0.1 || value === 0 ? tenth.format(value) : hundredth.format(value);
}

function count(value) {
  return value >= 1e9 ? `${hundredth.format(value / 1e9)} G` : value >= 1e7 ? `${tenth.format(value / 1e6)} M` : whole.format(value);
}

// Return a time as a number and its unit.
function timed(seconds) {
  if (!seconds) return ["–", ""];
  if (seconds >= 0.9995) return [tenth.format(seconds), "s"];
  const ms = seconds * 1000;
  return [ms >= 99.5 ? whole.format(ms) : ms >= 9.95 ? tenth.format(ms) : hundredth.format(ms), "ms"];
}

const latency = (seconds) => timed(seconds).join("\u202f");

function octets(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  return `${(power ? tenth : whole).format(value / 1024 ** power)} ${units[power]}`;
}

function duration(seconds) {
  for (const [unit, size, next, smaller] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
    if (seconds === size) return `1 ${unit}`;
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ${Math.floor((seconds % size) / smaller)} ${next}`;
  }
  return `${Math.floor(seconds)} s`;
}

// ---------------------------------------------------------------- parts

function element(name, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

function write(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

// Have one child for each item, kept by its key, so that what is pointed at stays: make(item) -> child, update(child, item).
function each(place, items, key, make, update) {
  const before = new Map([...place.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, number) => {
    const name = key(item);
    const child = before.get(name) ?? make(item);
    child.dataset.key = name;
    before.delete(name);
    if (place.children[number] !== child) place.insertBefore(child, place.children[number] ?? null);
    update(child, item);
  });
  for (const child of before.values()) child.remove();
}

// Fill a table: each row an array of cells, {text, className, small, buttons}.
function fill(id, rows) {
  each(
    $(id).tBodies[0], rows, (row) => row.key,
    (row) => element("tr", {}, ...row.cells.map((cell) => {
      const made = element("td", { className: cell.className ?? "" });
      if (cell.state !== undefined) made.append(element("span", { className: "state" }));
      else made.append(element("span"));
      if (cell.small !== undefined) made.append(element("small"));
      if (cell.buttons) made.append(...cell.buttons);
      return made;
    })),
    (child, row) => row.cells.forEach((cell, number) => {
      const place = child.cells[number];
      child.classList.toggle("off", row.off ?? false);
      if (cell.state !== undefined) place.firstChild.className = `state ${cell.state}`;
      if (cell.zero !== undefined) place.classList.toggle("zero", cell.zero);
      if (cell.text !== undefined) write(place.firstChild, cell.text);
      if (cell.small !== undefined) write(place.children[1], cell.small);
      if (cell.buttons) place.hidden = !mayChange();
      for (const button of place.querySelectorAll("button")) button.hidden = !exists(button.dataset.path);
    }),
  );
}

const number = (value, format = rate) => ({ text: format(value), className: "n", zero: !value });

// Fill a list of bars: items are {name, label, value}; `all` is what they are shares of.
function bars(id, items, all = items.reduce((total, item) => total + item.value, 0)) {
  each(
    $(id), items, (item) => item.name,
    (item) => {
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.append(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
      svg.firstChild.setAttribute("height", "4");
      const made = element("div", {}, element("span"), element("span", { className: "n" }), element("span", { className: "n share" }), svg);
      made.className = `bar ${item.className ?? ""}`;
      return made;
    },
    (child, item) => {
      const share = all ? Math.min(item.value / all, 1) : 0;
      child.classList.toggle("idle", !item.value);
      write(child.children[0], item.label ?? item.name);
      child.children[0].title = item.label ?? item.name;
      write(child.children[1], rate(item.value));
      write(child.children[2], `${tenth.format(share * 100)} %`);
      child.children[3].firstChild.setAttribute("width", `${(share * 100).toFixed(1)}%`);
    },
  );
}

// ---------------------------------------------------------------- the hour

const charts = {
  queries: new Chart($("c-queries"), { series: OUTCOMES, format: rate, kind: "areas" }),
  latency: new Chart($("c-latency"), { series: [["p50", "median"], ["p95", "p95"], ["p99", "p99"]], format: latency, kind: "lines", least: 0.0001 }),
  trouble: new Chart($("c-trouble"), { series: TROUBLE, format: rate, kind: "areas" }),
};
const SHORTEST = 300; // seconds that charts show, however short the shield has been up
let columns = [], samples = [], hour = 3600;

const named = (sample) => Object.fromEntries(columns.map((name, number) => [name, sample[number]]));

function drawCharts(now) {
  const latest = { ...now.outcomes, ...now.latency, time: now.time, servfail: now.rcodes.SERVFAIL ?? 0, timeouts: now.timeouts };
  const known = samples.length ? now.time - samples[0].time : 0;
  const seconds = Math.min(hour, Math.max(SHORTEST, known));
  for (const chart of Object.values(charts)) chart.show([...samples, latest], now.time, seconds);
  for (const place of document.querySelectorAll(".span")) {
    write(place, seconds > hour - 60 ? "last hour" : `last ${Math.round(seconds / 60)} minutes`);
  }
}

// ---------------------------------------------------------------- now

function showTiles(now) {
  const { rates, outcomes, gauges } = now;
  write($("t-queries"), rate(rates.queries));
  write($("t-queries-more"), `${count(now.totals.queries)} in all`);
  const fromCache = outcomes.hits + outcomes.stale;
  const lookedUp = fromCache + outcomes.forwarded + outcomes.coalesced + outcomes.local;
  write($("t-ratio"), lookedUp ? tenth.format((100 * fromCache) / lookedUp) : "–");
  const hits = now.totals.cache_hits, all = hits + now.totals.cache_misses;
  write($("t-ratio-more"), all ? `${tenth.format((100 * hits) / all)} % since the start` : "nothing was looked up yet");
  const [value, unit] = timed(now.latency.p50);
  write($("t-latency"), value);
  write($("t-latency-unit"), unit ? `${unit} median` : "");
  write($("t-latency-more"), now.latency.p99 ? `p95 ${latency(now.latency.p95)} · p99 ${latency(now.latency.p99)}` : "no misses now");
  write($("t-failures"), rate(outcomes.failed));
  $("tile-failures").classList.toggle("bad", outcomes.failed > 0);
  write($("t-failures-more"), `${count(now.totals.resolution_failures)} in all`);
  write($("t-waiting"), count(gauges.outstanding_queries));
  write($("t-waiting-more"), `${count(gauges.tcp_connections)} connections of clients`);
  const share = gauges.cache_limit_bytes ? gauges.cache_bytes / gauges.cache_limit_bytes : 0;
  write($("t-cache"), tenth.format(100 * share));
  write($("t-cache-more"), `${count(gauges.cache_entries)} entries · ${octets(gauges.cache_bytes)}`);
  $("t-cache-meter").value = share;
}

const TRANSPORTS = { udp: "UDP", tcp: "TCP", tls: "TLS", quic: "QUIC", https: "HTTPS", h3: "HTTP/3", http: "HTTP" };
const inUse = new Set(["udp", "tcp"]);

function showBars(now) {
  bars("outcomes", [...OUTCOMES, ...MORE_OUTCOMES].map(([name, label]) => ({ name, label, value: now.outcomes[name], className: name })));
  const byRate = (found) => Object.entries(found).map(([name, value]) => ({ name, value })).sort((a, b) => b.value - a.value);
  const colours = { NOERROR: "hits", NXDOMAIN: "forwarded", SERVFAIL: "failed", REFUSED: "limited" };
  bars("rcodes", byRate(now.rcodes).slice(0, 6).map((item) => ({ ...item, className: colours[item.name] ?? "local" })));
  for (const [name, value] of Object.entries(now.transports)) if (value) inUse.add(name);
  const transports = Object.entries(now.transports).filter(([name]) => inUse.has(name));
  bars("transports", transports.map(([name, value]) => ({ name, label: TRANSPORTS[name], value })));
  for (const subject of ["name", "client", "zone"]) {
    const top = now.top?.[`${subject}s`] ?? [];
    $(`p-${subject}s`).hidden = !top.length;
    bars(`top-${subject}s`, top.map((each) => ({ name: each[subject], value: each.queries / now.top.seconds })), now.rates.queries);
  }
}

function showUpstreams({ upstreams, steered }) {
  const up = upstreams.filter((each) => each.up).length;
  write($("n-upstreams"), `${up} of ${upstreams.length} in service`);
  fill("upstreams", upstreams.map((each) => ({
    key: `${each.name} ${each.address}`,
    cells: [
      { text: each.name, small: each.name === each.address ? undefined : each.address, className: "name" },
      { text: wordsOf(each, steered), state: stateOf(each) },
      number(each.queries), number(each.outstanding, count), number(each.latency.p50, latency), number(each.latency.p95, latency),
      number(each.failures + each.timeouts),
      { className: "steer", buttons: ["Up", "Drain", "Down"].map((word) => steer(word + ofAll(each, upstreams), `upstream/${word.toLowerCase()}`, each)) },
    ],
  })));
}

// Return what a button says besides where one name is of several addresses, which it steers all together.
function ofAll({ name }, upstreams) {
  const count = upstreams.filter((each) => each.name === name).length;
  return count > 1 ? ` all ${count}` : "";
}

function wordsOf({ name, state, suspected }, steered) {
  const by = steered?.upstreams[name];
  return by ? `${by} by hand` : suspected ? `${state}, verified over TCP` : state;
}

const stateOf = (each) => (!each.up ? "bad" : each.state.startsWith("up") && !each.suspected ? "" : "fair");

function showRules({ rules, steered }) {
  const disabled = new Set(steered?.["rules disabled"]);
  write($("n-rules"), rules.length ? `${rules.length}` : "");
  $("rules").hidden = !rules.length;
  $("no-rules").hidden = rules.length > 0;
  fill("rules", rules.map((each) => ({
    key: each.name,
    off: disabled.has(each.name),
    cells: [
      { text: each.name, small: disabled.has(each.name) ? "disabled by hand" : "", className: "name" },
      number(each.rate), number(each.matches, count), number(each.errors, count),
      { className: "steer", buttons: [steer("Enable", "rules/enable", each), steer("Disable", "rules/disable", each)] },
    ],
  })));
}

function showBlocks({ blocks, gauges }) {
  write($("n-blocks"), gauges.dynamic_blocks ? count(gauges.dynamic_blocks) : "");
  $("blocks").hidden = !blocks.length;
  $("no-blocks").hidden = blocks.length > 0;
  fill("blocks", blocks.map((each) => ({
    key: each.prefix,
    cells: [
      { text: each.prefix, className: "prefix" },
      { text: `${each.reason} (${each.action})` },
      { text: duration(each.seconds), className: "n" },
      { className: "steer", buttons: [steer("Remove", "block/remove", each, { prefix: each.prefix })] },
    ],
  })));
}

function showZones({ zones }) {
  $("p-configured").hidden = !zones?.length;
  fill("configured", (zones ?? []).map((each) => ({
    key: each.name,
    cells: [
      { text: each.name, className: "name" }, { text: each.upstreams },
      { text: each.watched ? `each ${duration(each.watched)}` : "no" }, { text: each.serials.join(", ") || "–", className: "n" },
    ],
  })));
}

function showFailures({ failures }) {
  $("p-failures").hidden = !failures;
  $("failures").hidden = !failures?.length;
  $("no-failures").hidden = Boolean(failures?.length);
  fill("failures", (failures ?? []).map((each, row) => ({
    key: `${each.time} ${each.name} ${row}`,
    cells: [
      { text: clock.format(each.time * 1000) }, { text: `${each.name} ${each.type}`, className: "name" },
      { text: each.upstream || "–" }, { text: each.text },
    ],
  })));
}

let steering = false;

function show(now) {
  steering = now.steering;
  write($("host"), now.host);
  document.title = `${rate(now.rates.queries)}/s · ${now.host} · FunkenShield`;
  write($("about"), `version ${now.version}, up ${duration(now.gauges.uptime_seconds)}`);
  write($("counted"), `Rates are of the last ${tenth.format(now.seconds)} seconds.`);
  showTiles(now);
  showBars(now);
  showUpstreams(now);
  showRules(now);
  showBlocks(now);
  showZones(now);
  showFailures(now);
  drawCharts(now);
  showControls();
}

// ---------------------------------------------------------------- steering

let paths = {};

const exists = (path) => `/api/${path}` in paths;
const mayChange = () => steering && hasToken();

function showControls() {
  $("unlock").hidden = !steering && state !== "locked";
  write($("unlock"), hasToken() ? "Lock" : "Unlock");
  for (const place of document.querySelectorAll("[data-steer]")) place.hidden = !mayChange() || !exists(place.dataset.steer);
  for (const place of document.querySelectorAll("th.steer")) place.hidden = !mayChange();
  $("p-explain").hidden = !exists("explain");
  $("p-explain").classList.toggle("all", $("p-purge").hidden);
}

let hiding = 0;

function say(text, bad = false) {
  $("said").hidden = false;
  $("said").className = bad ? "bad" : "";
  write($("said"), text);
  clearTimeout(hiding);
  hiding = setTimeout(() => ($("said").hidden = true), bad ? 12000 : 5000);
}

async function change(path, members, done) {
  try {
    const answer = await post(path, members);
    const errors = [...(answer.errors ?? []), ...(answer.warnings ?? [])];
    say(errors.length ? errors.join("; ") : done, errors.length > 0);
  } catch (error) {
    if (error.status === 401) setToken("");
    say(error.message, true);
    showControls();
  }
}

// Return a button that does something when it is pressed twice.
function steer(text, path, { name }, members = { name }) {
  const made = element("button", { type: "button", text });
  made.dataset.path = path;
  const done = `${text}: ${Object.values(members).join(" ")}`;
  sure(made, () => change(path, members, done));
  return made;
}

function sure(button, act) {
  let asked = 0;
  const text = button.textContent;
  const forget = () => {
    clearTimeout(asked);
    asked = 0;
    button.classList.remove("sure");
    write(button, text);
  };
  button.addEventListener("click", () => {
    if (asked) {
      forget();
      act();
      return;
    }
    button.classList.add("sure");
    write(button, `${text}?`);
    asked = setTimeout(forget, 4000);
  });
}

function onSubmit(id, act) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    act(new FormData(event.target), event.target);
  });
}

onSubmit("block", async (form, place) => {
  const prefix = form.get("prefix").trim();
  await change("block/add", { prefix, seconds: Number(form.get("seconds")) }, `${prefix} is blocked`);
  place.reset();
});

onSubmit("purge", async (form, place) => {
  const name = form.get("name").trim(), below = form.get("below") !== null;
  await change("purge", { name, below }, `${name}${below ? " and all below it" : ""} is purged`);
  place.reset();
});

sure($("reload"), () => change("reload", {}, "The configuration is read, and in force."));

$("unlock").addEventListener("click", () => {
  if (hasToken()) {
    setToken("");
    showControls();
  } else $("token").showModal();
});
$("cancel").addEventListener("click", () => $("token").close());
$("token").addEventListener("close", () => {
  const field = $("token").querySelector("input");
  if ($("token").returnValue === "unlock" && field.value) {
    setToken(field.value.trim());
    showControls();
    describe();
  }
  field.value = "";
  $("token").returnValue = "";
});

// ---------------------------------------------------------------- why?

onSubmit("explain", async (form) => {
  try {
    const text = ["name", "type", "source", "transport"].map((key) => [key, form.get(key).trim()]);
    const flags = ["RD", "AD"].filter((flag) => form.has(flag)).map((flag) => ["flags", flag]);
    explain(await get("explain", [...text, ...flags, ["edns", form.has("edns")], ["do", form.has("do")]]));
  } catch (error) {
    $("explained").replaceChildren(element("p", { className: "outcome", text: error.message }));
  }
});

const held = (conditions = []) => conditions.map((each) => `; ${each.condition}: ${each.held ? "yes" : "no"}`).join("");

function explain(found) {
  const outcome = element("p", { className: "outcome" }, element("b", { text: found.outcome }), found.why ?? "");
  const steps = (found.steps ?? []).map((step) => {
    const text = element("div", { text: step.text });
    const details = [
      ...(step.rules ?? []).map((rule) => `${rule.rule}: ${rule.verdict}${held(rule.conditions)}`),
      ...(step.upstreams ?? []).map((each) => `${each.upstream} (${each.state}): ${each.why}`),
    ];
    if (details.length) text.append(element("ul", {}, ...details.map((line) => element("li", { text: line }))));
    return element("li", {}, element("b", { text: step.step }), text);
  });
  $("explained").replaceChildren(outcome, element("ol", {}, ...steps));
}

// ---------------------------------------------------------------- light and dark

const THEMES = ["", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  write($("theme"), `Theme: ${theme || "auto"}`);
  localStorage.setItem("theme", theme);
}

setTheme(THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "");
$("theme").addEventListener("click", () => {
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
});

// ---------------------------------------------------------------- the stream

let state = "connecting", since = Date.now();

async function describe() {
  try {
    paths = (await get("openapi.json")).paths;
    showControls();
  } catch {
    // the stream tells why
  }
}

const WORDS = { live: "live", gone: "not reachable", locked: "locked", connecting: "connecting" };

function setState(now, error) {
  if (now === "gone" && state !== "gone") since = Date.now();
  if (now === "live" && state !== "live") describe();
  state = now;
  $("live").dataset.state = now;
  write($("live"), WORDS[now]);
  document.body.classList.toggle("stale-data", now !== "live");
  $("gone").hidden = now === "live";
  if (now === "gone") {
    const time = clock.format(since);
    const why = error?.status ? ` It says: ${error.message}.` : "";
    write($("gone"), `The daemon does not answer since ${time}; what is below is from before.${why} This page tries again by itself.`);
    document.title = `not reachable · ${$("host").textContent} · FunkenShield`;
  }
  if (now === "locked") {
    if (error?.status === 401) setToken("");
    write($("gone"), `Reading takes the token, too. ${error?.message ?? ""}`);
    $("unlock").hidden = false;
  }
}

follow({
  state: setState,
  history(found) {
    columns = found.columns;
    hour = found.seconds;
    samples = found.samples.map(named);
  },
  sample(found) {
    samples = [...samples, named(found)].filter((each) => each.time > Date.now() / 1000 - hour - 60);
  },
  now: show,
});
