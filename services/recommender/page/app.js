"use strict";

// What the page shows follows from this alone; every change of it asks the service again.
const state = { user: null, history: new Map(), k: 10, excludeSeen: true, why: null, key: null, version: null };
const at = (id) => document.getElementById(id);
let asked = 0;

try { state.key = sessionStorage.getItem("rgals-key"); } catch { /* no storage: the key lasts as long as the page */ }

// ---- the service ----

async function call(path, body) {
  const headers = { accept: "application/json" };
  if (state.key) headers["x-api-key"] = state.key;
  const options = { headers, cache: "no-store", referrerPolicy: "no-referrer" };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["content-type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The service cannot be reached.");
  }
  if (answer.status === 401) at("key-form").hidden = false;
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    const error = new Error(`${problem.title || "The service failed"}: ${problem.detail || answer.status}`);
    error.status = answer.status;
    throw error;
  }
  const version = answer.headers.get("x-model-version");
  if (version && version !== state.version) showVersion(version);
  return answer;
}

const ask = async (path, body) => (await call(path, body)).json();
const idPath = (side, id, what) => `/v1/${side}/${encodeURIComponent(id)}/${what}`;

function showError(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
}

async function attempt(work) {
  try {
    const found = await work();
    showError(null);
    return found;
  } catch (error) {
    showError(error);
    return null;
  }
}

// ---- small parts ----

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const button = (text, label, act) => {
  const made = make("button", { type: "button", textContent: text, onclick: act });
  made.setAttribute("aria-label", label);
  return made;
};

const number = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : value.toFixed(4));

function later(work, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}

// ---- header ----

function showVersion(version) {
  state.version = version;
  at("version").textContent = version;
  refreshModel();
  refresh();
}

async function refreshModel() {
  await attempt(async () => {
    const model = await ask("/v1/model");
    at("trained").textContent =
      `${model.loss}, ${model.n_factors} factors, ${model.n_users.toLocaleString()} users, ` +
      `${model.n_items.toLocaleString()} items`;
    try {
      showNdcg(await ask("/v1/reports/ndcg"));
    } catch (error) {
      if (error.status !== 404) throw error;
      at("ndcg").textContent = "not evaluated";
    }
  });
}

const interval = (found) =>
  found.mean === null ? "undefined" : found.ci_low === null ? found.mean.toFixed(4)
    : `${found.mean.toFixed(4)} (${found.ci_low.toFixed(4)} to ${found.ci_high.toFixed(4)})`;

function showNdcg(report) {
  at("ndcg-name").textContent = `${report.metric.toUpperCase()}, ${report.part} part, ${report.n_users.toLocaleString()} users`;
  const parts = [`model ${interval(report.model)}`];
  const remark = report.softmax_notes.some((note) => note.includes("not tuned")) ? ", not tuned" : "";
  parts.push(report.softmax ? `softmax${remark} ${interval(report.softmax)}` : "softmax not evaluated");
  if (report.popularity) parts.push(`popularity ${interval(report.popularity)}`);
  at("ndcg").replaceChildren(parts.join("; "));
  if (report.has_page) at("ndcg").append(" ", button("report", "Open the report", openReport));
}

async function openReport() {
  await attempt(async () => {
    const page = await (await call("/v1/reports/latest")).blob();
    window.open(URL.createObjectURL(page), "_blank", "noopener");
  });
}

async function watchHealth() {
  const health = at("health");
  try {
    const answer = await fetch("/readyz", { cache: "no-store" });
    const found = await answer.json();
    health.textContent = answer.ok ? (found.problem ? `ready, but ${found.problem}` : "ready") : found.detail;
    health.className = answer.ok && !found.problem ? "good" : "bad";
    const version = answer.headers.get("x-model-version");
    if (version && version !== state.version) showVersion(version);
  } catch {
    health.textContent = "cannot be reached";
    health.className = "bad";
  }
}

// ---- whom to recommend to ----

function searchBox(box, list, side, take) {
  let found = [];
  const search = async () => {
    const prefix = box.value.trim();
    if (prefix === "") {
      found = [];
      list.replaceChildren();
      return;
    }
    const answer = await attempt(() => ask(`/v1/${side}?limit=12&prefix=${encodeURIComponent(prefix)}`));
    if (!answer || box.value.trim() !== prefix) return;
    found = answer.ids;
    const taken = (id) => { box.value = ""; found = []; list.replaceChildren(); take(id); };
    list.replaceChildren(...found.map((id) => make("li", {}, button(id, `Take ${id}`, () => taken(id)))));
    if (!found.length) list.replaceChildren(make("li", { className: "help", textContent: "Nothing begins with that." }));
    box.taken = taken;
  };
  box.addEventListener("input", later(search, 120));
  box.addEventListener("keydown", async (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    await search();
    if (found.length) box.taken(found.includes(box.value.trim()) ? box.value.trim() : found[0]);
  });
}

async function chooseUser(id) {
  state.user = id;
  at("chosen").hidden = id === null;
  at("chosen-id").textContent = id ?? "";
  at("seen").replaceChildren();
  at("seen-more").textContent = id === null ? "Choose a user first." : "";
  refresh();
  if (id === null) return;
  const answer = await attempt(() => ask(`${idPath("users", id, "history")}?limit=200`));
  if (!answer || state.user !== id) return;
  at("seen").replaceChildren(...answer.items.map((entry) => make("li", {}, make("span", { textContent: entry.item_id }))));
  const more = answer.n_items - answer.items.length;
  at("seen-more").textContent = answer.n_items === 0 ? "Nothing." : more > 0 ? `and ${more.toLocaleString()} more` : "";
}

function showHistory() {
  at("history").replaceChildren(
    ...[...state.history.keys()].map((id) =>
      make("li", {}, button(`${id} ×`, `Remove ${id} from the history`, () => { state.history.delete(id); showHistory(); refresh(); }))),
  );
  at("history-empty").hidden = state.history.size > 0;
  at("clear").hidden = state.history.size === 0;
}

function addItem(id) {
  state.history.set(id, 1);
  showHistory();
  refresh();
}

// ---- the list ----

async function refresh() {
  const turn = ++asked;
  const list = at("list");
  if (state.user === null && state.history.size === 0) {
    list.replaceChildren();
    at("list-note").textContent = "Choose a user, or add items to a history.";
    return;
  }
  const request = { k: state.k, exclude_seen: state.excludeSeen, explain: true };
  if (state.user !== null) request.user_id = state.user;
  if (state.history.size) request.history = [...state.history].map(([item_id, weight]) => ({ item_id, weight }));
  const answer = await attempt(async () => {
    const batch = await ask("/v1/recommendations", { requests: [request] });
    const found = batch.answers[0];
    if (found.problem) throw new Error(`${found.problem.title}: ${found.problem.detail}`);
    return found;
  });
  if (!answer || turn !== asked) return;
  showList(answer);
}

const SOURCES = {
  factors: "by the factors learned from this user's interactions",
  fold_in: "by factors solved just now from the history",
  popular: "the most popular items: there is nothing else to go by",
};

function showList(answer) {
  const notes = [`${SOURCES[answer.source]}, model ${state.version}`];
  if (answer.known_user === false) notes.push("the model does not know this user");
  if (answer.exhausted) notes.push("no more items are left");
  at("list-note").textContent = notes.join("; ") + ".";
  at("list").replaceChildren(...answer.items.map(listItem));
  const shown = answer.items.find((entry) => entry.item_id === state.why);
  showWhy(shown && shown.explanation ? shown : null);
}

function listItem(entry) {
  const acts = make("span", { className: "acts" });
  acts.append(button("+", `Add ${entry.item_id} to the history`, () => addItem(entry.item_id)));
  if (entry.explanation) {
    const why = button("why", `Why ${entry.item_id}`, () => { state.why = entry.item_id; showWhy(entry); markWhy(); });
    why.dataset.why = entry.item_id;
    why.setAttribute("aria-pressed", String(state.why === entry.item_id));
    acts.append(why);
  }
  acts.append(button("similar", `Items similar to ${entry.item_id}`, () => showSimilar(entry.item_id)));
  const name = make("span", { className: "name" }, entry.item_id, " ", make("span", { className: "score", textContent: number(entry.score) }));
  return make("li", {}, name, acts);
}

function markWhy() {
  for (const each of document.querySelectorAll("[data-why]")) {
    each.setAttribute("aria-pressed", String(each.dataset.why === state.why));
  }
}

// ---- explanation and neighbors ----

function bar(value, largest) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", "-100 0 200 10");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  const box = document.createElementNS(space, "rect");
  const width = largest > 0 ? (Math.abs(value) / largest) * 100 : 0;
  box.setAttribute("x", String(value < 0 ? -width : 0));
  box.setAttribute("width", String(width));
  box.setAttribute("height", "10");
  box.setAttribute("class", value < 0 ? "minus" : "plus");
  picture.append(box);
  return picture;
}

function showWhy(entry) {
  at("why").hidden = entry === null;
  at("why-empty").hidden = entry !== null;
  if (entry === null) { state.why = null; markWhy(); return; }
  const found = entry.explanation;
  const rows = found.contributions.map((share) => [`item ${share.item_id}`, share.score]);
  if (found.n_others) rows.push([`${found.n_others} other items`, found.others]);
  rows.push(["all items not interacted with", found.background]);
  if (Math.abs(found.remainder) > 5e-5) rows.push(["the items’ last step in training", found.remainder]);
  const largest = Math.max(...rows.map(([, value]) => Math.abs(value)));
  at("why-item").textContent = entry.item_id;
  at("why-score").textContent = number(entry.score);
  at("why-table").tBodies[0].replaceChildren(
    ...rows.map(([name, value]) =>
      make("tr", {}, make("td", { textContent: name }), make("td", { textContent: number(value) }), make("td", {}, bar(value, largest)))),
  );
}

async function showSimilar(id) {
  const answer = await attempt(() => ask(`${idPath("items", id, "similar")}?k=10`));
  if (!answer) return;
  at("similar").hidden = false;
  at("similar-empty").hidden = true;
  at("similar-item").textContent = answer.id;
  at("similar-list").replaceChildren(
    ...answer.neighbors.map((near) =>
      make("li", {},
        make("span", { className: "name" }, near.id, " ", make("span", { className: "score", textContent: number(near.score) })),
        make("span", { className: "acts" }, button("+", `Add ${near.id} to the history`, () => addItem(near.id))))),
  );
}

// ---- beginning ----

searchBox(at("user"), at("users"), "users", chooseUser);
searchBox(at("item"), at("items"), "items", addItem);
at("forget").addEventListener("click", () => chooseUser(null));
at("clear").addEventListener("click", () => { state.history.clear(); showHistory(); refresh(); });
at("k").addEventListener("change", () => {
  state.k = Math.min(100, Math.max(1, Math.round(Number(at("k").value) || 10)));
  at("k").value = state.k;
  refresh();
});
at("exclude-seen").addEventListener("change", () => { state.excludeSeen = at("exclude-seen").checked; refresh(); });
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = at("key").value.trim() || null;
  try { sessionStorage.setItem("rgals-key", state.key ?? ""); } catch { /* as above */ }
  at("key-form").hidden = true;
  at("key").value = "";
  refreshModel();
  refresh();
});
chooseUser(null);
showHistory();
watchHealth();
setInterval(watchHealth, 3000);
