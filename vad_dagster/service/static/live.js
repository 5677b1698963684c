// Live: parts of pages that the service made come as server-sent events. A hidden page does not listen: browsers keep
// only six connections to one address.
document.addEventListener("DOMContentLoaded", () => {
  const live = document.getElementById("live"), told = document.getElementById("stream");
  const most = Number(live.dataset.most), places = new Map();
  for (const place of live.querySelectorAll("[data-line]")) places.set(place.dataset.line, place);
  let after = Number(live.dataset.after), source = null;

  function show(event) {
    after = Math.max(after, Number(event.lastEventId));
    const { line, html, images } = JSON.parse(event.data), place = places.get(line);
    if (!place) return;
    const tiles = place.querySelector("[data-tiles]");
    let shown = 0;
    for (const text of html) {  // the oldest first
      const tile = new DOMParser().parseFromString(text, "text/html").body.firstElementChild;
      if (tiles.querySelector(`[data-id="${tile.dataset.id}"]`)) { shown += 1; continue; }
      tile.classList.add("is-new");
      tile.querySelector("img").loading = "eager";
      tiles.prepend(tile);
      shown += 1;
    }
    while (tiles.children.length > most) tiles.lastElementChild.remove();
    place.querySelector("[data-empty]")?.setAttribute("hidden", "");
    const more = place.querySelector("[data-more]"), others = Math.max(0, images - shown);
    if (more && others) {
      more.dataset.count = Number(more.dataset.count || 0) + others;
      more.firstElementChild.textContent = more.dataset.more.replace("{n}", more.dataset.count);
      more.hidden = false;
    }
  }
  function showState(event) {
    const { line, html } = JSON.parse(event.data), place = places.get(line);
    if (place) place.querySelector("[data-state]").innerHTML = html;
  }
  function listen() {
    const address = new URL(live.dataset.events, location);
    address.searchParams.set("after", after);
    source = new EventSource(address);
    source.addEventListener("open", () => { told.textContent = ""; });
    source.addEventListener("results", show);
    source.addEventListener("state", showState);
    source.addEventListener("error", () => {
      told.textContent = live.dataset.away;
      if (source?.readyState !== EventSource.CLOSED) return;  // else it tries again by itself
      source = null;
      setTimeout(follow, 10000);
    });
  }
  function follow() {
    if (document.hidden) { source?.close(); source = null; } else if (!source) listen();
  }
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", () => { source?.close(); source = null; });
  window.addEventListener("pageshow", follow);
  follow();

  document.querySelector("[data-pause]")?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target, address = form.closest("[data-pause]").dataset.pause;
    const body = { reason: form.elements.reason.value, person: personName() };
    if (await send(`${address}/${event.submitter.value}`, body, form.querySelector(".said"))) location.reload();
  });
});
