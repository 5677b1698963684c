// The page of one image: picture and heatmap with zoom, and buttons and keys to say what it is.

document.addEventListener("DOMContentLoaded", async () => {
  const root = document.getElementById("result"), here = root.dataset.here, said = document.getElementById("answer");
  const viewer = new Viewer(document.getElementById("viewer")), draw = document.getElementById("draw");
  viewer.tapped = () => viewer.turn();
  const size = { width: Number(root.dataset.width), height: Number(root.dataset.height), boxes: JSON.parse(root.dataset.boxes || "[]") };
  const loaded = async (address) => { const image = new Image(); image.draggable = false; image.alt = ""; image.src = address; await image.decode(); return image; };
  viewer.show({ picture: null, heatmap: null, state: "waits", ...size });
  const show = (name, address) => loaded(address).then((image) => {
    if (name === "picture" && !size.width) [viewer.size, size.width] = [[image.naturalWidth, image.naturalHeight], image.naturalWidth];
    viewer.put(name, image, "shown"); viewer.place(); viewer.draw();
  }, () => viewer.put(name, null, "none"));

  async function say(button) {
    const label = button.dataset.say, kind = label === "NG" ? button.dataset.kind || document.getElementById("kind").value : "";
    const body = { label, kind, boxes: label === "NG" ? viewer.boxes : [], person: personName(), note: document.getElementById("note").value };
    if (await send(`${here}/labels`, body, said)) location.reload();
  }
  const acts = { h: () => viewer.turn(), "+": () => viewer.zoom(1.4), "-": () => viewer.zoom(1 / 1.4), 0: () => viewer.reset(),
    b: () => { viewer.setDrawing(!viewer.drawing); draw.setAttribute("aria-pressed", String(viewer.drawing)); } };
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.say) say(button);
    else if (button && acts[button.dataset.key]) acts[button.dataset.key]();
  });
  document.getElementById("withdraw")?.addEventListener("click", async () => {
    const body = { person: personName(), note: document.getElementById("note").value };
    if (await send(`${here}/labels/withdraw`, body, said)) location.reload();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.closest("input, textarea, select, summary")) return;
    if (event.target.closest("button, a") && (event.key === "Enter" || event.key === " ")) return;
    const button = root.querySelector(`.answers [data-key="${CSS.escape(event.key)}"]`);
    const next = { ArrowLeft: "before", ArrowRight: "after" }[event.key];
    if (viewer.key(event)) event.preventDefault();
    else if (button) { event.preventDefault(); button.click(); }
    else if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
    else if (next) document.getElementById(next)?.click();
  });
  await show("picture", `${here}/picture`);
  await show("heatmap", `${here}/overlay.jpg`);
});
