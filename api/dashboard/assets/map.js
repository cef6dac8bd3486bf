// The map of the items. Points are written into the pixels of a canvas, which is fast without a graphics card, and
// moving the map draws them again. The element #map says in data-src where the points come from.
"use strict";

(() => {
  const EDGE = 22; // pixels around the canvas, so that points at its border need no checks
  const HIT = 9; // pixels around a point that count as the point
  const MOVING = 200000; // points that are drawn while the map moves; all others follow when it rests
  const RADII = [1.5, 1.9, 2.3, 2.8, 3.4, 4.1, 5, 6, 7, 8, 9, 10];
  const LONGEST = 5000; // items of a selection
  const kept = new Map(); // what part of a map was shown last, by version and projection
  let map = null, waiting = null;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const packed = (hex) => {
    const number = parseInt(hex.slice(1), 16);
    return (0xff000000 | ((number & 255) << 16) | (number & 0xff00) | (number >> 16)) >>> 0;
  };

  // A dark colour is lighter on a dark page.
  const onPage = (hex) => {
    if (document.documentElement.dataset.theme !== "dark") return packed(hex);
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const light = 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    const share = Math.max(0, (140 - light) / 200);
    return packed("#" + parts.map((one) => Math.round(one + share * (255 - one)).toString(16).padStart(2, "0")).join(""));
  };

  // Arrays over a buffer that the server made: see MapPoints.to_bytes.
  const read = (buffer) => {
    const length = new DataView(buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const { n } = head;
    let at = 4 + length;
    const x = new Float32Array(buffer, at, n), y = new Float32Array(buffer, at + 4 * n, n);
    at += 8 * n;
    return { ...head, x, y, size: new Uint8Array(buffer, at, n), colour: new Uint8Array(buffer, at + n, n) };
  };

  const bounds = (values) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
    return high > low ? [low, high] : [low - 1 || -1, low + 1 || 1];
  };

  // The order of drawing: large points, and those of the top colour, last.
  const drawingOrder = ({ n, size, colour, top }) => {
    const key = (at) => size[at] + (colour[at] === top ? 16 : 0);
    const starts = new Uint32Array(33), order = new Uint32Array(n);
    for (let at = 0; at < n; at++) starts[key(at) + 1]++;
    for (let k = 1; k < 33; k++) starts[k] += starts[k - 1];
    for (let at = 0; at < n; at++) order[starts[key(at)]++] = at;
    return order;
  };

  class ItemMap {
    constructor(box, points) {
      this.box = box;
      this.src = box.dataset.src;
      this.canvas = box.querySelector("canvas");
      this.tip = box.querySelector(".tip");
      this.context = this.canvas.getContext("2d", { alpha: false });
      this.points = points;
      this.order = drawingOrder(points);
      [this.x0, this.x1] = bounds(points.x);
      [this.y0, this.y1] = bounds(points.y);
      this.view = kept.get(box.dataset.key) || { x: (this.x0 + this.x1) / 2, y: (this.y0 + this.y1) / 2, zoom: 1 };
      kept.set(box.dataset.key, this.view);
      this.focus = { item: null };
      this.chosen = null; // a byte for each item: whether it is selected
      this.lasso = null;
      this.tool = "move";
      this.texts = new Map();
      this.drawn = 0;
      this.resize();
      this.listen();
    }

    listen() {
      const { canvas } = this;
      this.stop = new AbortController();
      const on = (name, does, element = canvas, more = {}) =>
        element.addEventListener(name, does, { signal: this.stop.signal, ...more });
      on("pointerdown", (event) => this.press(event));
      on("pointermove", (event) => this.move(event));
      on("pointerup", (event) => this.release(event));
      on("pointerleave", () => this.hover(-1));
      on("wheel", (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * 0.002), event.offsetX, event.offsetY);
      }, canvas, { passive: false });
      on("keydown", (event) => this.key(event));
      on("click", (event) => this.press_tool(event.target.dataset.tool), this.box.querySelector(".tools"));
      this.sizes = new ResizeObserver(() => { this.resize(); this.ask(); });
      this.sizes.observe(canvas);
      this.themes = new MutationObserver(() => this.ask());
      this.themes.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    }

    close() {
      this.stop.abort();
      this.sizes.disconnect();
      this.themes.disconnect();
    }

    resize() {
      this.dpr = Math.min(2, window.devicePixelRatio || 1);
      this.w = Math.max(1, Math.round(this.canvas.clientWidth * this.dpr));
      this.h = Math.max(1, Math.round(this.canvas.clientHeight * this.dpr));
      this.canvas.width = this.w;
      this.canvas.height = this.h;
      this.edge = Math.ceil(EDGE * this.dpr);
      this.stride = this.w + 2 * this.edge;
      this.image = new ImageData(this.stride, this.h + 2 * this.edge);
      this.pixels = new Uint32Array(this.image.data.buffer);
      this.discs = RADII.map((radius) => {
        const r = radius * this.dpr, core = [], edge = [];
        for (let dy = -Math.ceil(r); dy <= Math.ceil(r); dy++) {
          for (let dx = -Math.ceil(r); dx <= Math.ceil(r); dx++) {
            const distance = Math.hypot(dx, dy);
            if (distance <= r - 0.3) core.push(dy * this.stride + dx);
            else if (distance <= r + 0.4) edge.push(dy * this.stride + dx);
          }
        }
        return [Int32Array.from(core), Int32Array.from(edge)];
      });
    }

    // Pixels of the canvas for each unit of the data.
    get scale() {
      const part = 0.92 * this.view.zoom;
      return [part * this.w / (this.x1 - this.x0), part * this.h / (this.y1 - this.y0)];
    }

    // Where an item or a place is, in pixels of the page from the corner of the canvas.
    at(x, y) {
      const [sx, sy] = this.scale;
      return [((x - this.view.x) * sx + this.w / 2) / this.dpr, (this.h / 2 - (y - this.view.y) * sy) / this.dpr];
    }

    place(item) { return this.at(this.points.x[item], this.points.y[item]); }

    under(px, py) {
      const [sx, sy] = this.scale;
      return [this.view.x + (px * this.dpr - this.w / 2) / sx, this.view.y - (py * this.dpr - this.h / 2) / sy];
    }

    // Draw soon. Marks alone are drawn over the points as they are.
    ask(moving = false, marks = false) {
      this.stale = this.stale || !marks;
      this.moving = moving;
      clearTimeout(this.rest);
      if (moving && this.points.n > MOVING) this.rest = setTimeout(() => this.ask(), 150);
      if (!this.asked) this.asked = requestAnimationFrame(() => { this.asked = 0; this.draw(); });
    }

    draw() {
      if (this.stale) this.drawPoints();
      this.stale = false;
      this.context.putImageData(this.image, -this.edge, -this.edge);
      this.drawMarks();
      this.drawn++;
    }

    drawPoints() {
      const { points: { n, x, y, size, colour, palette }, order, pixels, stride, discs, chosen } = this;
      const colours = Uint32Array.from(palette, onPage), background = packed(css("--card"));
      pixels.fill(background);
      const [sx, sy] = this.scale;
      const { edge: around } = this, low = around - 8 * this.dpr, right = this.w + 2 * around - low;
      const ox = this.w / 2 - this.view.x * sx + around, oy = this.h / 2 + this.view.y * sy + around;
      const bottom = this.h + 2 * around - low, few = n < 5000 ? 2 : n < 30000 ? 1 : 0;
      const larger = Math.max(0, Math.min(4, few + Math.floor(Math.log2(this.view.zoom) / 2)));
      for (let k = this.moving ? Math.max(0, n - MOVING) : 0; k < n; k++) {
        const item = order[k], px = x[item] * sx + ox, py = oy - y[item] * sy;
        if (!(px > low && py > low && px < right && py < bottom)) continue;
        const at = Math.round(py) * stride + Math.round(px), [core, edge] = discs[size[item] + larger];
        let c = colours[colour[item]];
        if (chosen && !chosen[item]) c = (((background >>> 2) & 0x3f3f3f) * 3 + ((c >>> 2) & 0x3f3f3f)) | 0xff000000;
        const three = ((c >>> 2) & 0x3f3f3f) * 3, half = (c >>> 1) & 0x7f7f7f;
        for (let p = 0; p < core.length; p++) {
          pixels[at + core[p]] = (three + ((pixels[at + core[p]] >>> 2) & 0x3f3f3f)) | 0xff000000;
        }
        for (let p = 0; p < edge.length; p++) {
          pixels[at + edge[p]] = (half + ((pixels[at + edge[p]] >>> 1) & 0x7f7f7f)) | 0xff000000;
        }
      }
    }

    drawMarks() {
      const { context, focus, points } = this, taken = [];
      context.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
      context.textAlign = "center";
      context.textBaseline = "middle";
      const write = (text, px, py, font) => {
        context.font = font;
        const half = context.measureText(text).width / 2 + 4;
        const width = this.w / this.dpr, height = this.h / this.dpr;
        if (px < 0 || py < 0 || px > width || py > height) return;
        px = Math.max(half, Math.min(width - half, px));
        py = Math.max(10, Math.min(height - 10, py));
        if (taken.some(([x, y, h]) => Math.abs(x - px) < h + half && Math.abs(y - py) < 19)) return;
        taken.push([px, py, half]);
        context.globalAlpha = 0.82;
        context.fillStyle = css("--card");
        context.fillRect(px - half, py - 9, 2 * half, 18);
        context.globalAlpha = 1;
        context.fillStyle = css("--ink");
        context.fillText(text, px, py + 1);
      };
      const ring = (item, radius, width, colour) => {
        const [px, py] = this.place(item);
        context.beginPath();
        context.arc(px, py, radius, 0, 7);
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.stroke();
        return [px, py];
      };
      const family = "system-ui, sans-serif";
      if (focus.item !== null && focus.idx !== undefined) {
        focus.neighbours.forEach((item) => ring(item, 7, 2, css("--ink")));
        const [px, py] = ring(focus.idx, 10, 3, css("--low"));
        write(focus.names[0], px, py - 22, `bold 13px ${family}`);
        focus.neighbours.forEach((item, k) => {
          const [x, y] = this.place(item);
          write(focus.names[k + 1], x, y - 17, `12px ${family}`);
        });
      }
      points.labels.forEach(({ x, y, text }) => write(text, ...this.at(x, y), `bold 12px ${family}`));
      if (this.lasso && this.lasso.length > 1) {
        context.beginPath();
        this.lasso.forEach(([x, y]) => context.lineTo(...this.at(x, y)));
        context.closePath();
        context.lineWidth = 2;
        context.strokeStyle = css("--link");
        context.stroke();
      }
      context.setTransform(1, 0, 0, 1, 0, 0);
    }

    // Items by cells of a grid, made when it is first needed.
    get grid() {
      if (!this.cells) {
        const { n, x, y } = this.points, side = Math.max(1, Math.ceil(Math.sqrt(n / 4)));
        const column = (value) => Math.min(side - 1, Math.floor((value - this.x0) / (this.x1 - this.x0) * side));
        const row = (value) => Math.min(side - 1, Math.floor((value - this.y0) / (this.y1 - this.y0) * side));
        const starts = new Uint32Array(side * side + 1), members = new Uint32Array(n);
        for (let at = 0; at < n; at++) starts[row(y[at]) * side + column(x[at]) + 1]++;
        for (let k = 1; k < starts.length; k++) starts[k] += starts[k - 1];
        const next = starts.slice();
        for (let at = 0; at < n; at++) members[next[row(y[at]) * side + column(x[at])]++] = at;
        this.cells = { side, column, row, starts, members };
      }
      return this.cells;
    }

    // The item whose point is under a place on the canvas; −1: none. Of several, the nearest.
    nearest(px, py) {
      const { side, column, row, starts, members } = this.grid, [sx, sy] = this.scale;
      const [x, y] = this.under(px, py), rx = HIT * this.dpr / sx, ry = HIT * this.dpr / sy;
      let best = -1, distance = (HIT * this.dpr) ** 2;
      for (let r = Math.max(0, row(y - ry)); r <= Math.min(side - 1, row(y + ry)); r++) {
        for (let c = Math.max(0, column(x - rx)); c <= Math.min(side - 1, column(x + rx)); c++) {
          for (let k = starts[r * side + c]; k < starts[r * side + c + 1]; k++) {
            const item = members[k];
            const d = ((this.points.x[item] - x) * sx) ** 2 + ((this.points.y[item] - y) * sy) ** 2;
            if (d < distance) { distance = d; best = item; }
          }
        }
      }
      return best;
    }

    async about(item) {
      if (!this.texts.has(item)) {
        const address = this.box.dataset.about + "&idx=" + item;
        this.texts.set(item, fetch(address).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null));
      }
      return this.texts.get(item);
    }

    async hover(item) {
      if (item === this.hovered) return;
      this.hovered = item;
      this.tip.hidden = true;
      this.canvas.style.cursor = item >= 0 ? "pointer" : this.tool === "move" ? "grab" : "crosshair";
      if (item < 0) return;
      const text = await this.about(item);
      if (this.hovered !== item || !text) return;
      const [px, py] = this.place(item);
      this.tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: text.title }), text.line);
      this.tip.style.left = px + "px";
      this.tip.style.top = py + "px";
      this.tip.classList.toggle("to-left", px > this.canvas.clientWidth * 0.6);
      this.tip.hidden = false;
    }

    press(event) {
      if (event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.start = [event.offsetX, event.offsetY];
      this.last = this.start;
      this.dragging = false;
      if (this.tool === "select" || event.shiftKey) this.lasso = [this.under(event.offsetX, event.offsetY)];
    }

    move(event) {
      const here = [event.offsetX, event.offsetY];
      if (!this.start) { this.hover(this.nearest(...here)); return; }
      if (!this.dragging && Math.hypot(here[0] - this.start[0], here[1] - this.start[1]) < 4) return;
      this.dragging = true;
      this.hover(-1);
      if (this.lasso) this.lasso.push(this.under(...here));
      else {
        const [sx, sy] = this.scale;
        this.view.x -= (here[0] - this.last[0]) * this.dpr / sx;
        this.view.y += (here[1] - this.last[1]) * this.dpr / sy;
      }
      this.last = here;
      this.ask(true);
    }

    async release(event) {
      const { lasso, dragging } = this;
      this.start = this.lasso = null;
      if (lasso && dragging) { this.select(lasso); return; }
      if (dragging) { this.ask(); return; }
      const item = this.nearest(event.offsetX, event.offsetY);
      if (item < 0) { if (lasso) this.select(null); return; }
      const text = await this.about(item);
      if (text) window.recsysPage.set("item", text.item_id);
    }

    // Select the items inside a polygon of places; null selects nothing.
    select(polygon) {
      let found = [];
      if (polygon) {
        const { n, x, y } = this.points, inside = (px, py) => {
          let is = false;
          for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
            const [ax, ay] = polygon[a], [bx, by] = polygon[b];
            if (ay > py !== by > py && px < (bx - ax) * (py - ay) / (by - ay) + ax) is = !is;
          }
          return is;
        };
        const [x0, x1] = bounds(polygon.map((one) => one[0])), [y0, y1] = bounds(polygon.map((one) => one[1]));
        for (let at = 0; at < n; at++) {
          if (x[at] >= x0 && x[at] <= x1 && y[at] >= y0 && y[at] <= y1 && inside(x[at], y[at])) found.push(at);
        }
        this.chosen = new Uint8Array(n);
        found.forEach((item) => { this.chosen[item] = 1; });
      }
      if (!found.length) this.chosen = null;
      else found = [...found].sort((a, b) => this.points.size[b] - this.points.size[a]);
      window.dash_clientside.set_props("selected", { data: { n: found.length, idx: found.slice(0, LONGEST) } });
      this.ask();
    }

    zoom(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
      const before = this.under(px, py);
      this.view.zoom = Math.max(0.5, Math.min(5000, this.view.zoom * factor));
      const after = this.under(px, py);
      this.view.x += before[0] - after[0];
      this.view.y += before[1] - after[1];
      this.hover(-1);
      this.ask(true);
    }

    whole() {
      Object.assign(this.view, { x: (this.x0 + this.x1) / 2, y: (this.y0 + this.y1) / 2, zoom: 1 });
      this.ask();
    }

    key(event) {
      const step = 60 * this.dpr, [sx, sy] = this.scale;
      const does = {
        ArrowLeft: () => { this.view.x -= step / sx; },
        ArrowRight: () => { this.view.x += step / sx; },
        ArrowUp: () => { this.view.y += step / sy; },
        ArrowDown: () => { this.view.y -= step / sy; },
        "+": () => this.zoom(1.4),
        "=": () => this.zoom(1.4),
        "-": () => this.zoom(1 / 1.4),
        0: () => this.whole(),
        Escape: () => this.select(null),
      }[event.key];
      if (!does || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      does();
      this.ask(true);
    }

    press_tool(tool) {
      if (tool === "in") this.zoom(1.6);
      else if (tool === "out") this.zoom(1 / 1.6);
      else if (tool === "whole") this.whole();
      else if (tool === "save") {
        Object.assign(document.createElement("a"), { href: this.canvas.toDataURL(), download: "map.png" }).click();
      } else if (tool) {
        this.tool = tool;
        this.box.querySelectorAll("[aria-pressed]").forEach((button) => {
          button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
        });
      }
    }
  }

  const load = async (box) => {
    const src = box.dataset.src, state = box.querySelector(".state");
    if (map) { map.close(); map = window.recsysMap = null; }
    loading = src;
    waiting = null;
    let answer = null;
    try { answer = await fetch(src); } catch { /* said below */ }
    if (loading !== src || !box.isConnected) return;
    if (!answer || !answer.ok) { state.textContent = "The points could not be loaded: reload the page."; return; }
    const points = read(await answer.arrayBuffer());
    if (loading !== src || !box.isConnected) return;
    map = window.recsysMap = new ItemMap(box, points);
    state.textContent = "";
    map.focus = waiting || JSON.parse(box.dataset.focus);
    map.ask();
  };
  let loading = "";

  // A page with a map came, or its map is another one now.
  new MutationObserver(() => {
    const box = document.getElementById("map");
    if (!box) { if (map) { map.close(); map = window.recsysMap = null; } loading = ""; return; }
    if (box.dataset.src !== loading) load(box);
    else if (map && map.box !== box) load(box);
  }).observe(document.documentElement, {
    childList: true, subtree: true, attributes: true, attributeFilter: ["data-src"],
  });

  window.recsysFocus = (data) => {
    waiting = data;
    if (map && data) { map.focus = data; map.ask(false, true); }
  };
})();
