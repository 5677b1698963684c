// A picture beside its heatmap: they zoom and move together, and boxes can be drawn on both.

const MOST_ZOOM = 24, LEAST_BOX = 3;

class Viewer {
  /** `root` holds the panes `.picture` and `.heatmap`, each with a `.layer`; `changed` is told when boxes change. */
  constructor(root, changed = () => {}) {
    this.root = root;
    this.changed = changed;
    this.panes = [...root.querySelectorAll(".pane")];
    this.boxes = [];
    this.chosen = -1;
    this.size = [1, 1];
    this.pointers = new Map();
    this.reset();
    for (const pane of this.panes) {
      pane.addEventListener("pointerdown", (event) => this.down(event, pane));
      pane.addEventListener("pointermove", (event) => this.move(event, pane));
      for (const name of ["pointerup", "pointercancel"]) pane.addEventListener(name, (event) => this.up(event, pane));
      pane.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.deltaY) return;
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 300), this.at(event, pane));
      }, { passive: false });
      pane.addEventListener("dblclick", (event) => this.drawing ? null : this.zoomed > 1 ? this.reset() : this.zoom(3, this.at(event, pane)));
    }
    new ResizeObserver(() => this.place()).observe(root);
  }

  /** Show loaded images, or null for a heatmap that there is none of or that is not there yet (`state` says which). */
  show({ picture, heatmap, state, width, height, boxes }) {
    this.size = [width || picture?.naturalWidth || 1, height || picture?.naturalHeight || 1];
    this.boxes = (boxes || []).map((box) => [...box]);
    this.chosen = -1;
    this.put("picture", picture, picture ? "shown" : "waits");
    this.put("heatmap", heatmap, state);
    this.reset();
    this.draw();
  }

  put(name, image, state) {
    const pane = this.root.querySelector(`.pane.${name}`), layer = pane.querySelector(".layer");
    layer.querySelectorAll("img").forEach((old) => old.remove());
    if (image) { image.alt = pane.querySelector("b").textContent; layer.prepend(image); }
    pane.dataset.state = state;
  }

  reset() { this.zoomed = 1; this.left = this.top = 0; this.place(); }

  /** The size of the whole picture in a pane, unzoomed, and where it begins. */
  fitted() {
    const pane = this.panes.find((one) => one.clientWidth) || this.panes[0];
    const scale = Math.min(pane.clientWidth / this.size[0], pane.clientHeight / this.size[1]) || 1;
    const width = this.size[0] * scale, height = this.size[1] * scale;
    return { scale, width, height, x: (pane.clientWidth - width) / 2, y: (pane.clientHeight - height) / 2, pane };
  }

  place() {
    const { scale, width, height, x, y, pane } = this.fitted();
    const within = (at, begin, long, room) => {
      const spare = room - long * this.zoomed;  // smaller than its room: it stands in the middle
      return spare >= 0 ? spare / 2 - begin : Math.min(-begin, Math.max(spare - begin, at));
    };
    this.left = within(this.left, x, width, pane.clientWidth);
    this.top = within(this.top, y, height, pane.clientHeight);
    for (const one of this.panes) {
      const layer = one.querySelector(".layer");
      layer.style.cssText = `left: ${x}px; top: ${y}px; width: ${width}px; height: ${height}px; `
        + `transform: translate(${this.left}px, ${this.top}px) scale(${this.zoomed})`;
    }
    this.root.classList.toggle("zoomed", this.zoomed > 1);
    this.root.classList.toggle("coarse", scale * this.zoomed >= 3);
  }

  at(event, pane) {
    const around = pane.getBoundingClientRect();
    return [event.clientX - around.left, event.clientY - around.top];
  }

  /** Zoom by a factor about a point of a pane; about its middle where none is given. */
  zoom(factor, about = null) {
    const { x, y, pane } = this.fitted(), [px, py] = about || [pane.clientWidth / 2, pane.clientHeight / 2];
    const next = Math.min(MOST_ZOOM, Math.max(1, this.zoomed * factor)), by = next / this.zoomed;
    this.left = (px - x) - (px - x - this.left) * by;
    this.top = (py - y) - (py - y - this.top) * by;
    this.zoomed = next;
    this.place();
  }

  pan(dx, dy) { this.left += dx; this.top += dy; this.place(); }

  /** Where a point of a pane lies in the image, in whole pixels. */
  pixel([px, py]) {
    const { scale, x, y } = this.fitted(), by = scale * this.zoomed;
    const inside = (value, most) => Math.min(most, Math.max(0, Math.round(value)));
    return [inside((px - x - this.left) / by, this.size[0]), inside((py - y - this.top) / by, this.size[1])];
  }

  down(event, pane) {
    if (event.button) return;
    pane.setPointerCapture(event.pointerId);
    const at = this.at(event, pane);
    this.pointers.set(event.pointerId, at);
    this.moved = false;
    this.begun = this.drawing && this.pointers.size === 1 ? this.pixel(at) : null;
  }

  move(event, pane) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const at = this.at(event, pane);
    if (Math.hypot(at[0] - before[0], at[1] - before[1]) < 4 && !this.moved) return;
    this.moved = true;
    if (this.pointers.size === 2) {
      const [, other] = [...this.pointers.entries()].find(([id]) => id !== event.pointerId);
      const gap = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
      this.begun = null;
      this.zoom(gap(at) / Math.max(1, gap(before)), [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2]);
      this.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
    } else if (this.begun) this.draw(this.between(this.begun, this.pixel(at)));
    else if (this.zoomed > 1) this.pan(at[0] - before[0], at[1] - before[1]);
    if (!this.begun) this.pointers.set(event.pointerId, at);
  }

  up(event, pane) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.begun && event.type === "pointerup") {
      const end = this.pixel(this.at(event, pane)), box = this.between(this.begun, end);
      if (this.moved && box[2] - box[0] >= LEAST_BOX && box[3] - box[1] >= LEAST_BOX) this.add(box);
      else this.choose(this.boxes.findIndex(([l, t, r, b]) => l <= end[0] && end[0] <= r && t <= end[1] && end[1] <= b));
    } else if (!this.moved && !this.drawing && event.pointerType === "touch") this.tapped?.();
    this.begun = null;
    this.draw();
  }

  between(one, other) {
    const [l, r] = [one[0], other[0]].sort((a, b) => a - b), [t, b] = [one[1], other[1]].sort((x, y) => x - y);
    return [l, t, r, b];
  }

  add(box) { this.boxes.push(box); this.choose(this.boxes.length - 1); this.changed(); }
  choose(place) { this.chosen = place; this.draw(); }

  draw(unfinished = null) {
    const all = unfinished ? [...this.boxes, unfinished] : this.boxes;
    for (const pane of this.panes) {
      const svg = pane.querySelector("svg");
      svg.setAttribute("viewBox", `0 0 ${this.size[0]} ${this.size[1]}`);
      svg.replaceChildren(...all.map(([left, top, right, bottom], place) => {
        const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        for (const [name, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) rect.setAttribute(name, value);
        if (place === this.chosen && this.drawing) rect.classList.add("chosen");
        return rect;
      }));
    }
  }

  setDrawing(on) { this.drawing = on; this.root.classList.toggle("drawing", on); this.draw(); }

  /** The keys of the picture; returns whether it took the key. */
  key(event) {
    const step = Math.max(1, Math.round(Math.max(...this.size) / 60)), arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "+" || event.key === "=") this.zoom(1.4);
    else if (event.key === "-") this.zoom(1 / 1.4);
    else if (event.key === "0") this.reset();
    else if (this.drawing && event.key === "Enter") {
      const [w, h] = this.size;
      this.add([w * 3 / 8, h * 3 / 8, Math.max(w * 5 / 8, w * 3 / 8 + 1), Math.max(h * 5 / 8, h * 3 / 8 + 1)].map(Math.round));
    } else if (this.drawing && (event.key === "Delete" || event.key === "x") && this.boxes.length) {
      this.boxes.splice(this.chosen < 0 ? -1 : this.chosen, 1);
      this.chosen = this.boxes.length - 1;
      this.changed();
      this.draw();
    } else if (this.drawing && this.chosen >= 0 && arrows[event.key]) {
      const [dx, dy] = arrows[event.key].map((one) => one * step), box = this.boxes[this.chosen], [w, h] = this.size;
      const [l, t, r, b] = event.shiftKey ? [box[0], box[1], box[2] + dx, box[3] + dy] : [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy];
      if (l >= 0 && t >= 0 && r <= w && b <= h && r > l && b > t) { this.boxes[this.chosen] = [l, t, r, b]; this.changed(); this.draw(); }
    } else if (this.zoomed > 1 && (event.key === "ArrowUp" || event.key === "ArrowDown")) this.pan(0, event.key === "ArrowUp" ? 60 : -60);
    else return false;
    return true;
  }

  /** Show both, or one of them; the next of these where none is named. On a narrow screen one at a time. */
  turn(view = null) {
    const narrow = matchMedia("(max-width: 700px)").matches;
    const order = narrow ? ["picture", "heatmap"] : ["both", "picture", "heatmap"], now = this.root.dataset.view;
    this.root.dataset.view = view || order[(order.indexOf(narrow && now === "both" ? "picture" : now) + 1) % order.length];
    this.place();
  }
}
