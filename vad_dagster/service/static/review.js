// The review: images are shown one after the other, and answers are sent behind them, in order, each exactly once.

const AHEAD = 6, FIRST_PAUSE = 1000, LONGEST_PAUSE = 15000, LOOK_AGAIN = 10000, RENEW = 45000;
const here = document.getElementById("review"), line = here.dataset.line, said = JSON.parse(document.getElementById("review-texts").textContent);
const at = (id) => document.getElementById(id);
const words = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
const person = () => personName() || (here.dataset.known === "1" ? "known" : "");
const number = (value) => Number(value).toFixed(3).replace(/\.?0+$/, "") || "0";

/* Answers that are not sent yet. Each lies under a key of its own in the browser's storage until the service has it. */
const outbox = {
  prefix: `vad-answer:${line}:`,
  keys() { return Object.keys(localStorage).filter((key) => key.startsWith(this.prefix)).sort(); },
  all() { return this.keys().map((key) => ({ key, ...JSON.parse(localStorage.getItem(key)) })); },
  waiting() { return this.all().filter((one) => !one.refused); },
  put(item, action, body) {
    const key = crypto.randomUUID?.() || [...crypto.getRandomValues(new Uint32Array(4))].map((one) => one.toString(16)).join("-");
    const place = String(Date.now()).padStart(15, "0") + String(this.count++ % 1e6).padStart(6, "0");
    const entry = { id: item.prediction_id, name: item.name, page: item.page, action, label: body.label || "", body: { ...body, person: personName(), key } };
    localStorage.setItem(`${this.prefix}${place}:${key}`, JSON.stringify(entry));
    this.send();
  },
  count: 0, busy: false, pause: FIRST_PAUSE, reason: "",
  async send() {
    if (this.busy) return;
    this.busy = true;
    clearTimeout(this.again);
    for (let [one] = this.waiting(); one; [one] = this.waiting()) {
      const outcome = await this.attempt(one);
      if (outcome === "later") { this.again = setTimeout(() => this.send(), this.pause); this.pause = Math.min(LONGEST_PAUSE, this.pause * 2); break; }
      this.pause = FIRST_PAUSE;
      if (outcome === "sent") localStorage.removeItem(one.key);
      else { const { key, ...entry } = one; localStorage.setItem(key, JSON.stringify({ ...entry, refused: outcome })); }
      this.reason = "";
    }
    this.busy = false;
    this.show();
  },
  /** Send one answer; returns "sent", "later", or why it was refused. */
  async attempt({ page, action, body }) {
    try { await post(`${page}/${action}`, body); return "sent"; } catch (error) {
      const refused = error.status >= 400 && error.status < 500 && ![401, 408, 429].includes(error.status);
      if (!refused) this.reason = error.status ? error.message : said.away;
      return refused ? error.message : "later";
    }
  },
  show() {
    const all = this.all(), waiting = all.filter((one) => !one.refused), sending = at("sending");
    here.dataset.unsent = all.length;
    sending.hidden = !(waiting.length && this.reason);
    sending.textContent = sending.hidden ? "" : words(said.waits, { count: waiting.length, reason: this.reason });
    at("unsent").replaceChildren(...all.filter((one) => one.refused).map((one) => {
      const row = document.createElement("li"), link = document.createElement("a");
      link.href = one.page; link.textContent = words(said.refused, { name: one.name, label: one.label || "undo", reason: one.refused });
      const button = (text, act) => { const made = document.createElement("button"); made.type = "button"; made.className = "quiet"; made.textContent = text; made.addEventListener("click", act); return made; };
      row.append(link, " ", button(said.resend, () => { const { key, refused, ...entry } = one; localStorage.setItem(key, JSON.stringify(entry)); this.send(); this.show(); }),
        " ", button(said.discard, () => { localStorage.removeItem(one.key); this.show(); }));
      return row;
    }));
  },
};

/* The images: those seen, the one on the screen, and those ahead. */
const list = [];
let place = 0, turn = 0, fetching = false, looked = false, next = null, judgedToday = 0, waiting = 0, more = false, viewer = null;
const shown = () => list[place];
const blindChoice = { always: sessionStorage.getItem("vad-blind") === "1" };
const isHidden = (entry) => !entry.said && (entry.reveal === undefined ? entry.item.blind || blindChoice.always : !entry.reveal);

/** Get images until enough are ahead; then now and then, so that what is on the screen stays one's own. */
async function getMore() {
  if (fetching || !person()) return;
  fetching = true;
  clearTimeout(next);
  const unsent = outbox.waiting().map((one) => one.id), asked = Math.max(0, AHEAD - (list.length - 1 - place));
  const have = [...new Set([...list.slice(-40).map((one) => one.item.prediction_id), ...unsent])].slice(-200);
  let again = LOOK_AGAIN;
  try {
    const told = await post(`/lines/${line}/review/next`, { person: personName(), count: asked, turn, have });
    turn += told.items.length;
    [judgedToday, waiting, more] = [told.judged_today + unsent.length, told.waiting, told.more_wait];
    const had = shown();
    drop(told.lost);
    for (const item of told.items) list.push({ item, boxes: [] });
    looked = true;
    if (shown() !== had || !had) show();
    prepare();
    progress();
    const ahead = list.length - 1 - place;
    again = ahead >= AHEAD - 1 ? RENEW : told.items.length && told.items.length === asked ? 0 : LOOK_AGAIN;
  } catch (error) { at("last").textContent = words(texts().away, { reason: error.message }); again = 3000; }
  fetching = false;
  next = setTimeout(getMore, again);
}

/** Post JSON and return the answer; throws what was said where it was refused. */
async function post(address, body) {
  const reply = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: AbortSignal.timeout(20000) });
  const told = await reply.json().catch(() => ({}));
  if (reply.ok) return told;
  const reason = typeof told.detail === "string" ? told.detail : (told.detail || []).map((one) => one.msg).join(" ");
  throw Object.assign(new Error(reason || `HTTP ${reply.status}`), { status: reply.status });
}

/** Somebody else has these by now: they go, where they are not judged. */
function drop(lost) {
  for (const id of lost) {
    const where = list.findIndex((one, index) => one.item.prediction_id === id && !one.said && index >= place);
    if (where < 0) continue;
    const [gone] = list.splice(where, 1);
    if (where === place) at("last").textContent = words(said.lost, { name: gone.item.name });
  }
}

const loaded = async (address) => { const image = new Image(); image.draggable = false; image.alt = ""; image.src = address; await image.decode(); return image; };

/** Load the pictures of the image on the screen and of those ahead, and one heatmap after the other. */
let drawing = false;
async function prepare() {
  const wanted = () => list.slice(Math.max(0, place - 1), place + 1 + AHEAD);
  for (const old of list.slice(0, Math.max(0, place - 20))) for (const name of ["picture", "image", "map", "mapState"]) delete old[name];
  for (const entry of wanted()) entry.picture ??= loaded(`${entry.item.page}/picture`).then((image) => { entry.image = image; refresh(entry); }, () => { entry.image = null; refresh(entry); });
  if (drawing) return;
  drawing = true;
  for (let entry; (entry = [shown(), ...wanted()].find((one) => one && one.map === undefined));) {
    entry.map = null;
    await loaded(`${entry.item.page}/overlay.jpg`).then((image) => { entry.map = image; entry.mapState = "shown"; }, () => { entry.mapState = "none"; });
    refresh(entry);
  }
  drawing = false;
}
const refresh = (entry) => { if (entry === shown()) paint(entry); };

function paint(entry) {
  const hidden = isHidden(entry);
  const boxes = viewer.boxes.length && viewer.entry === entry ? viewer.boxes : entry.boxes;
  const keep = viewer.entry === entry ? [viewer.zoomed, viewer.left, viewer.top] : null;
  viewer.entry = entry;
  viewer.show({ picture: entry.image || null, heatmap: hidden ? null : entry.map, state: hidden ? "hidden" : entry.mapState || "waits",
    width: entry.item.width, height: entry.item.height, boxes });
  if (entry.image === null) here.querySelector(".pane.picture").dataset.state = "none";
  if (keep) { [viewer.zoomed, viewer.left, viewer.top] = keep; viewer.place(); }
  const { predicted, p, inference_threshold: threshold } = entry.item;
  at("verdict").textContent = hidden ? said.hidden : words(said.says, { predicted, p: number(p), threshold: number(threshold) });
  at("verdict").className = hidden ? "faint" : predicted;
}

function go(where) {
  place = Math.min(Math.max(0, where), list.length);
  show();
  prepare();
  if (list.length - 1 - place < AHEAD - 1) getMore();
}

function show() {
  const entry = shown();
  at("stage").hidden = !entry;
  at("answers").hidden = !entry && !list.length;
  at("nothing").hidden = Boolean(entry) || !looked;
  if (entry) {
    const { source, nearest, other, person: unsure, name, page } = entry.item;
    const why = source === "new" && nearest === null ? "new_first" : source === "disagreement" ? (other === "description" ? "disagreement_description" : "disagreement_version") : source;
    at("why").textContent = words(said[why], { nearest: nearest === null ? "" : number(nearest), other, person: unsure });
    at("page").textContent = name;
    at("page").href = page;
    at("blind").checked = isHidden(entry);
    paint(entry);
    if (entry.said) at("last").textContent = words(said.again, { label: entry.said });
    here.dataset.prediction = entry.item.prediction_id;
  } else delete here.dataset.prediction;
  for (const button of here.querySelectorAll("#answers [data-key]")) button.classList.toggle("given", Boolean(entry?.said) && (button.dataset.kind || button.dataset.key) === entry.given);
}

function progress() {
  at("progress").textContent = words(said.progress, { judged: judgedToday, waiting: more ? words(said.more, { count: waiting }) : waiting });
}

function answer(label, kind = "", given = "") {
  const entry = shown();
  if (!entry) return;
  entry.boxes = viewer.boxes;
  const first = !entry.said;
  [entry.said, entry.given] = [kind || label, kind || given];
  outbox.put(entry.item, "labels", { label, kind, boxes: label === "NG" ? entry.boxes : [] });
  if (first) { judgedToday += 1; waiting = Math.max(0, waiting - 1); progress(); }
  if (kind) remember(kind);
  setDrawing(false);
  go(place + 1);
  at("last").textContent = words(said.said, { name: entry.item.name, label: entry.said, predicted: entry.item.predicted });
}

/** Take back the answer on the screen, else the last one before it, and show that image again. */
function undo() {
  let where = Math.min(place, list.length - 1);
  while (where >= 0 && !list[where].said) where -= 1;
  if (where < 0) { at("last").textContent = said.nothing_back; return; }
  const entry = list[where];
  entry.said = entry.given = undefined;
  outbox.put(entry.item, "labels/withdraw", { undo: true });
  judgedToday = Math.max(0, judgedToday - 1);
  waiting += 1;
  progress();
  go(where);
  at("last").textContent = words(said.taken_back, { name: entry.item.name });
}

/** Give a new kind of defect its own key, while there are any. */
function remember(kind) {
  const buttons = [...at("kinds").querySelectorAll("button")];
  if (buttons.some((one) => one.dataset.kind === kind)) return;
  at("all-kinds").append(new Option("", kind));
  if (buttons.length >= 9) return;
  const button = document.createElement("button"), key = document.createElement("kbd");
  Object.assign(button, { type: "button", className: "ng", textContent: `${kind} ` });
  Object.assign(button.dataset, { kind, key: String(buttons.length + 1) });
  key.textContent = button.dataset.key;
  button.append(key);
  at("kind").before(button, " ");
}

function setDrawing(on) {
  viewer.setDrawing(on);
  at("draw").setAttribute("aria-pressed", String(on));
}

function press(key) {
  const kinds = at("kinds").querySelectorAll("button");
  if (key === "o") answer("OK", "", key);
  else if (key === "n") answer("NG", "", key);
  else if (key === "u") answer("unsure", "", key);
  else if (/^[1-9]$/.test(key) && kinds[key - 1]) answer("NG", kinds[key - 1].dataset.kind);
  else if (key === "z" || key === "Backspace") undo();
  else if (key === "ArrowLeft") { if (place > 0) go(place - 1); else at("last").textContent = said.first; }
  else if (key === "ArrowRight") { if (place < list.length - 1) go(place + 1); }
  else if (key === "h") viewer.turn();
  else if (key === "b") setDrawing(!viewer.drawing);
  else if (key === "k") at("kind").focus();
  else if (key === "p") { const entry = shown(); if (entry) reveal(isHidden(entry)); }
  else if (key === "?") at("help").showModal();
  else return false;
  return true;
}

/** Show or hide what the detector says: of a random image for this one, of others from now on. */
function reveal(show_it) {
  const entry = shown();
  entry.reveal = show_it;
  if (!entry.item.blind) { blindChoice.always = !show_it; sessionStorage.setItem("vad-blind", show_it ? "0" : "1"); }
  at("blind").checked = !show_it;
  paint(entry);
}

function begin() {
  const who = at("who");
  who.hidden = Boolean(person());
  if (!who.hidden) { who.elements.person.focus(); return; }
  getMore();
}

document.addEventListener("DOMContentLoaded", () => {
  if (!at("answers")) return;
  viewer = new Viewer(at("viewer"), () => { at("last").textContent = words(said.boxes, { count: viewer.boxes.length }); });
  viewer.tapped = () => viewer.turn();
  at("answers").addEventListener("click", (event) => {
    const button = event.target.closest("[data-key]");
    if (!button) return;
    press(button.dataset.key);
    button.blur();  // so that Enter and the space bar do not repeat it
  });
  at("kind").addEventListener("keydown", (event) => {
    event.stopPropagation();
    const kind = at("kind").value.trim().replace(/\s+/g, " ");
    if (event.key === "Enter" && kind) { at("kind").value = ""; at("kind").blur(); answer("NG", kind); }
    else if (event.key === "Escape") at("kind").blur();
  });
  at("blind").addEventListener("change", (event) => { if (shown()) reveal(!event.target.checked); event.target.blur(); });
  at("help-button").addEventListener("click", () => press("?"));
  at("who").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = document.getElementById("person");
    field.value = at("who").elements.person.value;
    field.dispatchEvent(new Event("change"));
    begin();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || at("help").open || event.target.closest("input:not([type=checkbox]), textarea, select")) return;
    if (event.target.closest("button, a, summary") && (event.key === "Enter" || event.key === " ")) return;
    const holds = event.repeat && !/^(Arrow|[+\-=])/.test(event.key);  // a key that is held judges one image only
    if (holds || (shown() && viewer.key(event)) || press(event.key)) event.preventDefault();
  });
  addEventListener("online", () => outbox.send());
  addEventListener("beforeunload", (event) => { if (outbox.waiting().length && outbox.reason) event.preventDefault(); });
  outbox.show();
  outbox.send();
  begin();
});
