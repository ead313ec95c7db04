"use strict";
// Everything is put on the page as text, never as HTML: names come from strangers.
const data = JSON.parse(document.getElementById("data").textContent);
const KINDS = {
  baseline: "needs no training", trained: "trained", pretrained: "pretrained", "zero-shot": "zero-shot",
  external: "other systems", published: "published",
};
// By whether users, items and targets are those of the tables above: yes, nobody has compared, no.
const PUBLISHED_DATA = new Map([
  [true, ["same users and targets", "Numbers that others have published on the same users, items and targets; their rules may differ."]],
  [null, ["cut not compared", "Numbers that others have published on data of this name. Whether users, items and targets are the same has not been compared, so they are not compared with the tables above."]],
  [false, ["another cut", "Numbers that others have published on another cut of this data. They are not to be compared with the tables above."]],
]);
const INTERVAL = "95 % interval over users, who are drawn again 2,000 times; of several seeds the mean of their intervals";
const MAIN = ["hr@10", "ndcg@10", "mrr"];
const HIGHER_IS_BETTER = /^(hr|ndcg|mrr|recall|precision|map)(@|$)/; // of coverage, novelty and others nobody can say
const NAMES = { seconds: "time", num_trials: "trials", model: "model", seeds: "seeds" };
const state = { sort: "ndcg@10", descending: true, kinds: new Set(Object.keys(KINDS)), open: new Set(), curves: false };

function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "style") Object.assign(node.style, value);
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const link = (url, text) => /^https:\/\//.test(url) ? el("a", { href: url, rel: "noopener nofollow" }, text) : text;
const metricName = (name) => name.replace(/^(hr|ndcg|mrr|map)/, (found) => found.toUpperCase()).replaceAll("_", " ");
const number = (value) => Math.abs(value) >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 0 })
  : value.toFixed(Math.abs(value) < 10 ? 4 : Math.abs(value) < 100 ? 2 : 1);

const interval = (ends) => ends ? `${number(ends[0])} to ${number(ends[1])}` : null;

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function size(bytes) {
  return bytes === null || bytes === undefined ? "" : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

function count(value) {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)} billion`;
  return value >= 1e6 ? `${(value / 1e6).toFixed(1)} million` : value.toLocaleString("en");
}

// Tables and rows

const tables = data.tables.map((table, index) => ({ ...table, index, published: false }));
for (const table of data.published) tables.push({ ...table, index: tables.length, published: true });
const places = [...new Set(data.tables.map((table) => table.dataset))];
tables.sort((a, b) => places.indexOf(a.dataset) - places.indexOf(b.dataset) || a.published - b.published);
for (const table of tables) table.rows.forEach((row, index) => { row.key = `${table.index}-${index}`; row.table = table; });
const allRows = tables.flatMap((table) => table.rows);

const seeds = (row) => row.runs.filter((run) => run.seed !== null).length;

function valueOf(row, column) {
  if (column === "model") return row.model.toLowerCase();
  if (column === "seeds") return row.runs ? seeds(row) : undefined;
  if (column === "seconds" || column === "num_trials") return row[column] ?? undefined;
  return row.metrics[column]?.mean;
}

function compare(a, b) {
  const [left, right] = [valueOf(a, state.sort), valueOf(b, state.sort)];
  if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
  const order = left < right ? -1 : left > right ? 1 : 0;
  return state.descending ? -order : order;
}

function fits(row) {
  const chosen = (id) => document.getElementById(id).value;
  const [dataset, protocol, modality, budget] = ["dataset", "protocol", "modality", "budget"].map(chosen);
  const table = row.table;
  const words = document.getElementById("search").value.trim().toLowerCase();
  return (!dataset || table.dataset === dataset)
    && (!protocol || table.published || table.fingerprint === protocol)
    && (!modality || (row.modality ?? "none") === modality)
    && (!budget || (!table.published && (budget === "tuned" ? row.num_trials > 0 : row.num_trials === 0)))
    && state.kinds.has(row.kind)
    && (!words || row.model.toLowerCase().includes(words));
}

// One table

function columnsOf(table) {
  const found = new Set(table.rows.flatMap((row) => Object.keys(row.metrics)));
  if (document.getElementById("all").checked) return [...found];
  return [...new Set([...MAIN, document.getElementById("metric").value])].filter((name) => found.has(name));
}

function head(table, columns) {
  const cell = (column, text, cls) => el("th", {
    scope: "col", class: cls, "aria-sort": state.sort === column ? (state.descending ? "descending" : "ascending") : null,
  }, el("button", { type: "button", "data-focus": `${table.index} ${column}`, on: { click: () => sortBy(column) } }, text));
  return el("thead", {}, el("tr", {},
    el("th", { class: "rank", scope: "col" }, "#"),
    cell("model", "model", "left"),
    el("th", { class: "bar left", scope: "col" }, metricName(document.getElementById("metric").value)),
    ...columns.map((name) => cell(name, metricName(name))),
    ...(table.published ? [el("th", { scope: "col", class: "left" }, "run by"), el("th", { scope: "col", class: "left" }, "source"),
      el("th", { scope: "col", class: "left" }, "what differs")]
      : ["seeds", "num_trials", "seconds"].map((name) => cell(name, NAMES[name])))));
}

function bar(row, scale, mark) {
  const metric = row.metrics[document.getElementById("metric").value];
  const part = (value) => `${Math.max(0, Math.min(100, 100 * value / scale))}%`;
  const track = el("span", { class: `track ${row.kind}`, "aria-hidden": "true" });
  if (metric && scale > 0) {
    track.append(el("i", { style: { width: part(metric.mean) } }));
    if (metric.spread) {
      const low = metric.mean - metric.spread;
      track.append(el("b", { style: { left: part(low), width: `${100 * 2 * metric.spread / scale}%` } }));
    }
    if (mark !== undefined) track.append(el("u", { style: { left: part(mark) } }));
  }
  return el("td", { class: "bar" }, track);
}

function bodyRow(row, rank, columns, bests, scale, mark) {
  const isOpen = state.open.has(row.key);
  const sub = row.table.published ? [row.setting, row.modality]
    : [row.modality, row.scores === "own" ? null : row.scores, row.sources?.length ? `from ${row.sources.join(", ")}` : null];
  const button = el("button", {
    type: "button", class: "open", "data-focus": row.key, "aria-expanded": String(isOpen), "aria-controls": isOpen ? `detail-${row.key}` : null,
    on: { click: () => { isOpen ? state.open.delete(row.key) : state.open.add(row.key); render(); } },
  }, el("span", { class: `dot ${row.kind}`, title: KINDS[row.kind] }), el("strong", { class: row.kind }, row.model));
  const cells = columns.map((name) => {
    const metric = row.metrics[name];
    if (!metric) return el("td", {}, "");
    const spread = metric.spread === null ? null : el("span", { class: "spread" }, ` ± ${number(metric.spread)}`);
    return el("td", {}, el("span", { class: metric.mean === bests[name] ? "best" : null }, number(metric.mean)), spread,
      metric.interval ? el("span", { class: "interval", title: INTERVAL }, interval(metric.interval)) : null);
  });
  const last = row.table.published
    ? [el("td", { class: "left" }, row.run_by), el("td", { class: "left" }, link(row.url, row.short_source)),
      el("td", { class: "differs" }, `${row.differences.join(". ")}.`)]
    : [el("td", {}, seeds(row) ? String(seeds(row)) : "–"), el("td", {}, row.num_trials ? String(row.num_trials) : "–"), el("td", {}, duration(row.seconds))];
  return el("tr", { class: "row", id: `row-${row.key}` }, el("td", { class: "rank" }, String(rank)),
    el("th", { class: "model left", scope: "row" }, button, el("span", { class: "sub" }, sub.filter(Boolean).join(" · ") || KINDS[row.kind])),
    bar(row, scale, mark), ...cells, ...last);
}

function detail(row, span) {
  const facts = row.table.published ? {
    "How it was run": row.setting, "Run by": row.run_by, ...row.protocol, "To know": row.remarks,
  } : {
    Kind: KINDS[row.kind], Suite: row.suite, Scores: row.scores, "Pretrained on": row.sources.join(", "),
    Tuning: row.num_trials ? `${row.num_trials} trials on validation` : "none", Histories: `up to ${row.max_seq_len} items`,
    Parameters: row.num_parameters ? `${count(row.num_parameters)}, ${count(row.num_trained_parameters ?? 0)} trained` : "",
  };
  const list = el("dl", {}, ...Object.entries(facts).filter(([, value]) => value)
    .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  const inside = el("div", {}, list);
  if (row.table.published) inside.append(el("p", {}, link(row.url, row.source)));
  else inside.append(...runsOf(row));
  return el("tr", { class: "detail", id: `detail-${row.key}` }, el("td", { colspan: span }, inside));
}

// A run's id may be that of several models which ran together.
const address = (row, run) => `run-${run.id}/${row.model}/${row.scores}`;

function runsOf(row) {
  const shown = Object.keys(row.metrics).filter((name) => ["hr@10", "ndcg@10"].includes(name));
  const columns = {
    seed: (run) => run.seed === null ? "–" : String(run.seed),
    ...Object.fromEntries(shown.map((name) => [metricName(name), (run) => number(run.metrics[name]) + (run.intervals?.[name] ? ` (${interval(run.intervals[name])})` : "")])),
    started: (run) => run.started.slice(0, 16).replace("T", " "),
    time: (run) => Object.entries(run.seconds).filter(([, value]) => value).map(([name, value]) => `${name.replaceAll("_", " ")} ${duration(value)}`).join(", "),
    memory: (run) => size(run.peak_memory_bytes),
    energy: (run) => run.energy_joules === null ? "" : `${(run.energy_joules / 1000).toFixed(1)} kJ`,
    commit: (run) => run.git_commit ? run.git_commit.slice(0, 9) : "",
    card: (run) => run.card ? link(run.card, "model card") : "",
    run: (run) => el("a", { href: `#${encodeURI(address(row, run))}` }, run.id.slice(0, 8)),
  };
  const used = Object.entries(columns).filter(([, show]) => row.runs.some((run) => show(run)));
  const runs = el("table", { class: "runs" }, el("caption", {}, `Runs of ${row.model}`),
    el("thead", {}, el("tr", {}, ...used.map(([name]) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...row.runs.map((run) => el("tr", {}, ...used.map(([, show]) => el("td", {}, show(run)))))));
  const distinct = (name) => [...new Set(row.runs.map((run) => Object.entries(run[name] ?? {})
    .filter(([, value]) => value !== null).map(([key, value]) => `${key} ${value}`).join(", ")))].filter(Boolean);
  const facts = el("dl", {},
    ...distinct("hardware").map((text) => el("div", {}, el("dt", {}, "Hardware"), el("dd", {}, text))),
    ...distinct("versions").map((text) => el("div", { class: "wide" }, el("dt", {}, "Versions"), el("dd", {}, text))));
  const options = Object.entries(row.options ?? {});
  return [el("div", { class: "scroll" }, runs), facts,
    options.length ? el("details", {}, el("summary", {}, "Options"), el("pre", {}, JSON.stringify(row.options, null, 1))) : null,
    el("pre", {}, row.runs[0].command)].filter(Boolean);
}

function about(table, published) {
  const metric = document.getElementById("metric").value;
  const known = table.known_users ? `, ${table.known_users.toLocaleString("en")} known users` : "";
  if (table.published) {
    const [title, words] = PUBLISHED_DATA.get(table.same_targets);
    return el("div", { class: "about" }, el("h2", {}, `${table.dataset} `, el("span", { class: "split" }, `published, ${title}`)),
      el("p", {}, `${words} Each row says what is known to differ.`));
  }
  return el("div", { class: "about" }, el("h2", {}, `${table.dataset} `, el("span", { class: "split" }, `${table.split}${known}`)),
    el("p", {}, `${table.protocol_words} `, el("code", { title: "fingerprint of the protocol" }, table.fingerprint)),
    published === undefined ? null : el("p", {}, el("span", { class: "key" }), `best published ${metricName(metric)} on the same users, items and targets, ${number(published.value)} (${published.model})`));
}

function bestPublished(table) {
  const best = table.best_published?.[document.getElementById("metric").value];
  return state.kinds.has("published") ? best : undefined;
}

function section(table, rows) {
  const columns = columnsOf(table);
  const published = bestPublished(table);
  const metric = document.getElementById("metric").value;
  const tops = table.rows.map((row) => row.metrics[metric]).filter(Boolean).map((one) => one.mean + (one.spread ?? 0));
  const scale = Math.max(0, published?.value ?? 0, ...tops) * 1.04;
  const bests = Object.fromEntries(columns.filter((name) => HIGHER_IS_BETTER.test(name)).map((name) => [name, Math.max(...table.rows.map((row) => row.metrics[name]?.mean ?? -Infinity))]));
  const body = el("tbody", {});
  rows.forEach((row, index) => {
    body.append(bodyRow(row, index + 1, columns, bests, scale, published?.value));
    if (state.open.has(row.key)) body.append(detail(row, columns.length + 6));
  });
  const name = table.published ? `${table.dataset}, published by others, ${PUBLISHED_DATA.get(table.same_targets)[0]}` : `${table.dataset}, ${table.split}, protocol ${table.fingerprint}`;
  return el("section", { class: table.published ? "elsewhere" : null, "data-fingerprint": table.fingerprint, "aria-label": name },
    about(table, published),
    el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": name }, el("table", {}, el("caption", {}, name), head(table, columns), body)));
}

// The page

function sortBy(column) {
  state.descending = state.sort === column ? !state.descending : column !== "model" && column !== "seconds";
  state.sort = column;
  const metric = document.getElementById("metric");
  if ([...metric.options].some((option) => option.value === column)) metric.value = column;
  render();
}

function render() {
  const focused = document.activeElement?.dataset.focus; // the same button is made anew
  const shown = tables.map((table) => [table, table.rows.filter(fits).sort(compare)]).filter(([, rows]) => rows.length);
  const main = document.getElementById("tables");
  const [whole, parts] = [false, true].map((known) => shown.filter(([table]) => Boolean(table.known_users) === known));
  main.replaceChildren(...whole.map(([table, rows]) => section(table, rows)));
  if (parts.length) {
    const curves = el("details", { class: "curves", open: state.curves, on: { toggle: () => { state.curves = curves.open; } } },
      el("summary", {}, `Fewer known users: ${parts.length} tables, each of other users`), ...parts.map(([table, rows]) => section(table, rows)));
    main.append(curves);
  }
  if (!shown.length) main.append(el("p", { class: "none" }, "No row fits these filters."));
  document.getElementById("count").textContent = `${shown.reduce((sum, [, rows]) => sum + rows.length, 0)} of ${allRows.length} rows`;
  if (focused) [...main.querySelectorAll("[data-focus]")].find((one) => one.dataset.focus === focused)?.focus();
}

function fill(id, first, options) {
  document.getElementById(id).replaceChildren(...(first ? [el("option", { value: "" }, first)] : []),
    ...options.map(([value, text]) => el("option", { value }, text)));
}

function openAddressed() {
  const named = location.hash.slice(1);
  const row = allRows.find((one) => one.runs?.some((run) => encodeURI(address(one, run)) === named));
  if (!row) return;
  state.open.add(row.key);
  state.curves ||= Boolean(row.table.known_users);
  render();
  document.getElementById(`row-${row.key}`)?.scrollIntoView({ block: "center" });
}

const unique = (values) => [...new Set(values)].sort();
fill("dataset", "all", places.map((name) => [name, name]));
fill("protocol", "all", unique(data.tables.map((table) => table.fingerprint)).map((name) => [name, name]));
fill("modality", "all", unique(allRows.map((row) => row.modality ?? "none")).map((name) => [name, name]));
fill("budget", "all", [["untuned", "not tuned"], ["tuned", "tuned"]]);
const metrics = new Set(allRows.flatMap((row) => Object.keys(row.metrics)));
const ordered = [...MAIN.filter((name) => metrics.has(name)), ...[...metrics].filter((name) => !MAIN.includes(name))];
fill("metric", null, ordered.map((name) => [name, metricName(name)]));
if (metrics.has(state.sort)) document.getElementById("metric").value = state.sort;
else state.sort = ordered[0];
for (const [kind, name] of Object.entries(KINDS)) {
  if (!allRows.some((row) => row.kind === kind)) continue;
  const chip = el("button", { type: "button", class: `chip ${kind}`, "aria-pressed": "true" }, el("span", { class: "dot" }), name);
  chip.addEventListener("click", () => {
    state.kinds.has(kind) ? state.kinds.delete(kind) : state.kinds.add(kind);
    chip.setAttribute("aria-pressed", String(state.kinds.has(kind)));
    render();
  });
  document.getElementById("kinds").append(chip);
}
const models = new Set(data.tables.flatMap((table) => table.rows.map((row) => row.model)));
const runs = data.tables.reduce((sum, table) => sum + table.size, 0);
document.getElementById("summary").textContent = `${runs.toLocaleString("en")} runs of ${models.size} models on `
  + `${places.length} data set${places.length === 1 ? "" : "s"}: ${places.join(", ")}. `
  + "Each protocol has a table of its own; open a row for its runs, command, versions and cost."
  + (allRows.some((row) => Object.values(row.metrics).some((metric) => metric.interval)) ? ` ± is over seeds; below a number stands its ${INTERVAL}.` : "");
const form = document.getElementById("filters");
form.addEventListener("submit", (event) => event.preventDefault());
for (const id of ["dataset", "protocol", "modality", "budget", "all"]) document.getElementById(id).addEventListener("change", render);
document.getElementById("search").addEventListener("input", render);
document.getElementById("metric").addEventListener("change", (event) => { state.sort = event.target.value; state.descending = true; render(); });
addEventListener("hashchange", openAddressed);
render();
openAddressed();
