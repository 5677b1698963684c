// Judges scores that there are by the threshold that the slider chooses. Nothing leaves the browser until it is saved.
(() => {
  const data = JSON.parse(document.getElementById("scores").textContent);
  const $ = (id) => document.getElementById(id);
  const all = [...data.validation, ...data.recent].map((one) => one.score).concat(data.threshold).sort((a, b) => a - b);
  const low = all[0], high = all[all.length - 1], room = (high - low || 1) * 0.03;
  const from = low - room, to = high + room;
  const svg = $("histogram"), NS = "http://www.w3.org/2000/svg", BINS = 48, WIDTH = 720, HEIGHT = 180;

  function bars() {
    const groups = [["good", data.validation.filter((one) => !one.ng)], ["bad", data.validation.filter((one) => one.ng)], ["link", data.recent]];
    for (const [place, [colour, rows]] of groups.entries()) {
      const counts = new Array(BINS).fill(0);
      for (const { score } of rows) counts[Math.min(BINS - 1, Math.floor(BINS * (score - from) / (to - from)))] += 1;
      const most = Math.max(1, ...counts);
      counts.forEach((count, bin) => {
        if (!count) return;
        const bar = document.createElementNS(NS, "rect"), height = Math.max(2, HEIGHT * count / most);
        const values = { x: bin * WIDTH / BINS + place * 5, y: HEIGHT - height, width: 4.5, height, fill: `var(--${colour})` };
        for (const [name, value] of Object.entries(values)) bar.setAttribute(name, value);
        svg.append(bar);
      });
    }
    const cut = document.createElementNS(NS, "line");
    for (const [name, value] of Object.entries({ id: "cut", y1: 0, y2: 200, stroke: "var(--ink)", "stroke-width": 2 })) cut.setAttribute(name, value);
    svg.append(cut);
  }

  // Wilson's interval of a share, 95 %
  function share(count, of) {
    if (!of) return "–";
    const z = 1.96, p = count / of, middle = (p + z * z / (2 * of)) / (1 + z * z / of);
    const half = z / (1 + z * z / of) * Math.sqrt(p * (1 - p) / of + z * z / (4 * of * of));
    const percent = (value) => Math.round(100 * Math.min(1, Math.max(0, value)));
    return `${count} / ${of} (${percent(middle - half)}–${percent(middle + half)} %)`;
  }

  function judged(threshold) {
    const defects = data.validation.filter((one) => one.ng), normal = data.validation.filter((one) => !one.ng);
    const missed = defects.filter((one) => one.score < threshold).length, alarms = normal.filter((one) => one.score >= threshold).length;
    const ng = data.recent.filter((one) => one.score >= threshold).length, said = data.recent.filter((one) => one.said);
    const wrong = said.filter((one) => (one.said === "NG") !== (one.score >= threshold)).length;
    const part = Number($("share").value) / 100;
    const cost = defects.length && normal.length
      ? 1000 * (part * Number($("miss").value) * missed / defects.length + (1 - part) * Number($("alarm").value) * alarms / normal.length) : null;
    return {
      missed: share(missed, defects.length), alarms: share(alarms, normal.length), ng: share(ng, data.recent.length),
      wrong: said.length ? `${wrong} / ${said.length}` : "–", cost: cost === null ? "–" : cost.toFixed(1),
    };
  }

  function changes(threshold) {
    const differ = data.recent.filter((one) => (one.score >= threshold) !== (one.score >= data.threshold));
    const told = $("changed-count"), place = $("changed");
    told.textContent = differ.length ? told.dataset.some.replace("{n}", differ.length).replace("{all}", data.recent.length) : told.dataset.none;
    place.replaceChildren(...differ.slice(0, 24).map((one) => {
      const address = `/lines/${place.dataset.line}/results/${one.id}`;
      const figure = document.createElement("figure"), link = document.createElement("a"), image = document.createElement("img"), words = document.createElement("figcaption");
      link.href = address; image.src = `${address}/thumbnail.jpg`; image.alt = one.name; image.loading = "lazy";
      words.textContent = `${one.name}: ${one.score >= threshold ? "NG" : "OK"}`;
      link.append(image); figure.append(link, words);
      return figure;
    }));
  }

  let later = null;
  function show(threshold, source) {
    if (source !== $("slider")) $("slider").value = Math.round(1000 * (threshold - from) / (to - from));
    if (source !== $("value")) $("value").value = Number(threshold.toPrecision(6));
    const x = WIDTH * (threshold - from) / (to - from);
    $("cut").setAttribute("x1", x); $("cut").setAttribute("x2", x);
    for (const [kind, value] of [["now", data.threshold], ["then", threshold]]) {
      const outcome = judged(value);
      for (const [name, text] of Object.entries(outcome)) document.querySelector(`[data-${kind}=${name}]`).textContent = text;
    }
    clearTimeout(later);  // pictures only when the slider rests
    later = setTimeout(() => changes(threshold), 150);
  }

  const chosen = () => Number($("value").value);
  bars();
  show(data.threshold);
  $("value").value = data.threshold;
  $("slider").addEventListener("input", () => show(from + (to - from) * $("slider").value / 1000, $("slider")));
  $("value").addEventListener("input", () => show(chosen(), $("value")));
  $("reset").addEventListener("click", () => { show(data.threshold); $("value").value = data.threshold; });
  for (const id of ["miss", "alarm", "share"]) {
    const kept = localStorage.getItem(`vad-cost-${id}`);
    if (kept !== null) $(id).value = kept;
    $(id).addEventListener("input", () => { localStorage.setItem(`vad-cost-${id}`, $(id).value); show(chosen(), $("value")); });
  }
  show(chosen(), $("value"));
  $("save")?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target, said = form.querySelector(".said"), button = form.querySelector("button");
    button.disabled = true;
    const sending = send(form.getAttribute("action"), { threshold: chosen(), reason: form.elements.reason.value, person: personName() }, said);
    said.textContent = said.dataset.wait;
    if (await sending) location.assign(`/lines/${$("changed").dataset.line}/versions`);
    else button.disabled = false;
  });
})();
