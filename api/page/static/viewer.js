// Viewer of the stored images: <stored-images data-study="ID">. A custom element, because refresh.js replaces parts of the
// page. Every drag has keys and buttons; the keys act while the picture has the focus. Pictures are never turned or
// mirrored: their edges name the directions of the patient, or the reason why these are not known.

import { draw, parse, valueOf } from "./frames.js";

const CT = [
  { name: "soft tissue", center: 40, width: 400, function: "LINEAR" },
  { name: "lung", center: -600, width: 1500, function: "LINEAR" },
  { name: "bone", center: 300, width: 2000, function: "LINEAR" },
  { name: "brain", center: 40, width: 80, function: "LINEAR" },
];
const KEPT_BYTES = 96 << 20;
const MAX_ZOOM = 32;
const TIMEOUT_MS = 30_000;
const PAN = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const round = (number) => Number(number.toPrecision(4));

class StoredImages extends HTMLElement {
  connectedCallback() {
    this.stack = null;
    this.at = 0;
    this.kept = new Map();
    this.full = document.createElement("canvas");
    this.canvas = this.querySelector("canvas");
    this.reset();
    this.addEventListener("click", ({ target }) => this.act(target.closest("[data-act]")?.dataset.act));
    this.addEventListener("change", ({ target }) => this.choose(target));
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.canvas.addEventListener("pointerdown", (event) => this.drag(event));
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.sized = new ResizeObserver(() => this.paint());
    this.sized.observe(this.canvas);
    this.follow = ({ target }) => this.jump(target.closest?.("[data-sentence]"));
    this.show = ({ target }) => target.matches?.("[data-stored]") && this.open(target.dataset.stored, Number(target.dataset.frame));
    document.addEventListener("focusin", this.follow);
    document.addEventListener("click", this.show);
  }

  disconnectedCallback() {
    this.sized.disconnect();
    document.removeEventListener("focusin", this.follow);
    document.removeEventListener("click", this.show);
  }

  part(name) {
    return this.querySelector(`[data-part="${name}"]`);
  }

  reset() {
    this.window = null;
    this.inverted = false;
    this.fit();
  }

  fit() {
    this.zoom = null;
    this.pan = [0, 0];
  }

  // Open the viewer at a frame (from 0) of an object, by default at the first image of the report.
  async open(uid, number = 0) {
    this.part("opened").hidden = false;
    this.part("closed").hidden = true;
    this.canvas.focus();
    try {
      this.stack ??= await this.list();
    } catch (error) {
      return this.fail(error.message);
    }
    const first = document.querySelector("[data-stored]");
    const [wanted, frame] = uid ? [uid, number] : [first?.dataset.stored, Number(first?.dataset.frame ?? 0)];
    await this.find(wanted, frame);
  }

  async list() {
    const answer = await this.get("");
    const { series, complete } = await answer.json();
    const stack = series.flatMap((one) => one.images.map((image, at) => ({ ...image, series: one, at, frame: 0, frames: 0 })));
    this.part("incomplete").hidden = complete;
    if (!stack.length) throw new Error("the study has no stored images");
    return stack;
  }

  async find(uid, frame) {
    const at = this.stack.findIndex((entry) => entry.sop_instance_uid === uid);
    this.part("missing").hidden = at >= 0 || !uid;
    await this.go(Math.max(at, 0));
    if (at >= 0 && frame && this.stack[at].frames > frame) await this.go(at + frame);
  }

  // The sentence with the focus shows its first image.
  jump(sentence) {
    const number = sentence?.dataset.sentence;
    const image = number && document.getElementById(`grounds-${number}`)?.dataset.images.split(" ")[0];
    const button = image && document.querySelector(`#image-${image} [data-stored]`);
    if (button && this.stack) this.find(button.dataset.stored, Number(button.dataset.frame));
  }

  get(path) {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    return fetch(`/v1/studies/${this.dataset.study}/instances${path}`, { signal }).then(async (answer) => {
      if (answer.ok) return answer;
      throw new Error((await answer.json().catch(() => ({}))).detail ?? `the server answered ${answer.status}`);
    });
  }

  async go(at) {
    this.at = Math.min(Math.max(at, 0), this.stack.length - 1);
    const entry = this.stack[this.at];
    try {
      const frame = await this.load(entry);
      // The reader has gone on.
      if (this.stack[this.at] !== entry) return;
      this.expand(entry, frame.frames);
      this.apply(entry, frame);
    } catch (error) {
      if (this.stack[this.at] === entry) this.fail(error.message, entry);
    }
  }

  async load(entry) {
    const key = `${entry.id}/frames/${entry.frame + 1}`;
    const frame = this.kept.get(key) ?? parse(await (await this.get(`/${key}`)).arrayBuffer());
    this.kept.delete(key);
    this.kept.set(key, frame);
    let bytes = 0;
    for (const [name, kept] of [...this.kept].reverse()) if ((bytes += kept.bytes) > KEPT_BYTES && name !== key) this.kept.delete(name);
    return frame;
  }

  // The number of frames of an object is known with its first one.
  expand(entry, frames) {
    if (entry.frames) return;
    entry.frames = frames;
    const others = Array.from({ length: frames - 1 }, (_, more) => ({ ...entry, frame: more + 1 }));
    this.stack.splice(this.at + 1, 0, ...others);
  }

  apply(entry, frame) {
    const other = this.series !== entry.series;
    this.series = entry.series;
    this.frame = frame;
    if (other) this.reset();
    this.presets();
    this.part("problem").hidden = true;
    this.redraw();
    this.words(entry);
    this.beside(entry);
  }

  // No picture stays under the words of another one.
  fail(why, entry) {
    this.frame = null;
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.part("problem").textContent = `This image cannot be shown: ${why}.`;
    this.part("problem").hidden = false;
    for (const edge of this.querySelectorAll(".edge")) edge.textContent = "";
    this.part("words").textContent = entry ? this.place(entry) : "";
    this.part("remarks").replaceChildren();
    this.canvas.setAttribute("aria-label", "No image");
  }

  place(entry) {
    const number = entry.series.series_number ?? "without number";
    const frame = entry.frames > 1 ? `, frame ${entry.frame + 1} of ${entry.frames}` : "";
    return `${entry.series.modality} series ${number}, image ${entry.at + 1} of ${entry.series.images.length}${frame}`;
  }

  words(entry) {
    const { frame } = this;
    const place = this.place(entry);
    this.part("words").textContent = `${place}. ${frame.columns} × ${frame.rows}.`;
    this.canvas.setAttribute("aria-label", `${place}. Stored image, not for diagnosis.`);
    for (const edge of this.querySelectorAll(".edge")) edge.textContent = frame.edges?.[edge.dataset.edge] ?? "";
    const side = [frame.laterality && `side ${frame.laterality}`, frame.view && `view ${frame.view}`].filter(Boolean).join(", ");
    const remarks = [
      side && `The header gives ${side}.`,
      frame.orientation_problem && `Left and right are not known: ${frame.orientation_problem}.`,
      frame.lossy && "Compressed with loss.",
      ...frame.warnings.map((warning) => `The image is ${warning}.`),
    ];
    this.part("remarks").replaceChildren(...remarks.filter(Boolean).map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  }

  // The model's picture of the same frame, which may be turned, cropped and windowed otherwise.
  beside(entry) {
    const shown = this.part("beside");
    if (shown.hidden) return;
    const button = [...document.querySelectorAll("[data-stored]")].find(
      ({ dataset }) => dataset.stored === entry.sop_instance_uid && Number(dataset.frame) === entry.frame,
    );
    const image = button?.closest("figure").querySelector("img");
    const caption = document.createElement("p");
    caption.textContent = image ? `Given to the model as ${image.alt.toLowerCase()}. ${button.dataset.turn}` : "This frame was not given to the model.";
    shown.replaceChildren(...(image ? [Object.assign(new Image(), { src: image.src, alt: image.alt })] : []), caption);
  }

  presets() {
    const { frame } = this;
    const select = this.part("preset");
    const named = frame.rgb ? [] : frame.hounsfield ? CT : frame.windows.map((one, at) => ({ ...one, name: one.window ?? `window ${at + 1}` }));
    this.offered = [null, ...named];
    select.replaceChildren(...this.offered.map((one, at) => new Option(`${at + 1} ${one?.name ?? "as usual"}`, String(at))));
    for (const control of this.querySelectorAll("[data-part=preset], [data-part=center], [data-part=width]")) control.disabled = Boolean(frame.rgb);
  }

  redraw() {
    if (!this.frame) return;
    draw(this.full, this.frame, this.window, this.inverted);
    const { center, width } = this.window ?? this.frame.window ?? {};
    this.part("center").value = center === undefined ? "" : round(center);
    this.part("width").value = width === undefined ? "" : round(width);
    const chosen = this.offered.findIndex((one) => one?.center === this.window?.center && one?.width === this.window?.width);
    this.part("preset").value = String(chosen);
    this.querySelector("[data-act=invert]").setAttribute("aria-pressed", this.inverted);
    this.paint();
  }

  scale() {
    const { frame, canvas } = this;
    // Pixels that are not square are stretched along their longer side.
    const wide = frame.columns * Math.max(1, 1 / frame.pixel_aspect);
    const high = frame.rows * Math.max(1, frame.pixel_aspect);
    const zoom = this.zoom ?? Math.min(canvas.width / wide, canvas.height / high);
    return { zoom, wide: wide * zoom, high: high * zoom };
  }

  paint() {
    if (!this.frame) return;
    const ratio = devicePixelRatio;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    const { zoom, wide, high } = this.scale();
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = zoom < 2;
    context.imageSmoothingQuality = "high";
    const left = Math.round((this.canvas.width - wide) / 2 + this.pan[0]);
    const top = Math.round((this.canvas.height - high) / 2 + this.pan[1]);
    context.drawImage(this.full, left, top, wide, high);
    this.origin = [left, top, zoom];
    this.part("zoom").textContent = `Zoom ${Math.round(100 * zoom)} %`;
    this.canvas.dataset.shown = `${this.stack[this.at].id}/${this.stack[this.at].frame + 1}`;
  }

  magnify(factor) {
    if (!this.frame) return;
    const before = this.scale().zoom;
    this.zoom = Math.min(MAX_ZOOM, Math.max(0.02, before * factor));
    this.pan = this.pan.map((part) => (part * this.zoom) / before);
    this.paint();
  }

  shift(x, y) {
    this.pan = [this.pan[0] + x, this.pan[1] + y];
    this.paint();
  }

  // Change the window: steps of 1 % of its width to the right and of its centre upwards.
  widen(right, up) {
    if (!this.frame?.window) return;
    const now = this.window ?? this.frame.window;
    const width = Math.max(1, now.width * (1 + right / 100));
    this.window = { ...now, width, center: now.center + (now.width * up) / 100 };
    this.redraw();
  }

  preset(at) {
    if (!this.offered || at >= this.offered.length) return;
    this.window = this.offered[at];
    this.redraw();
  }

  act(name) {
    const step = 40 * devicePixelRatio;
    const acts = {
      open: () => this.open(),
      before: () => this.stack && this.go(this.at - 1),
      next: () => this.stack && this.go(this.at + 1),
      first: () => this.stack && this.go(0),
      last: () => this.stack && this.go(this.stack.length - 1),
      larger: () => this.magnify(1.25),
      smaller: () => this.magnify(0.8),
      fit: () => (this.fit(), this.paint()),
      same: () => ((this.zoom = 1), (this.pan = [0, 0]), this.paint()),
      invert: () => ((this.inverted = !this.inverted), this.redraw()),
      reset: () => (this.reset(), this.redraw()),
      beside: () => this.toggle(),
      left: () => this.shift(step, 0),
      right: () => this.shift(-step, 0),
      up: () => this.shift(0, step),
      down: () => this.shift(0, -step),
    };
    acts[name]?.();
  }

  toggle() {
    const shown = this.part("beside");
    shown.hidden = !shown.hidden;
    this.querySelector("[data-act=beside]").setAttribute("aria-pressed", !shown.hidden);
    if (this.frame) this.beside(this.stack[this.at]);
  }

  choose(target) {
    if (target.dataset.part === "preset") this.preset(Number(target.value));
    const [center, width] = ["center", "width"].map((name) => Number(this.part(name).value));
    if (!["center", "width"].includes(target.dataset.part) || !this.frame?.window || !(width >= 1)) return;
    this.window = { ...(this.window ?? this.frame.window), center, width };
    this.redraw();
  }

  press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const named = { "[": "before", "]": "next", PageUp: "before", PageDown: "next", Home: "first", End: "last" };
    const more = { "+": "larger", "=": "larger", "-": "smaller", f: "fit", o: "same", i: "invert", r: "reset", b: "beside" };
    const act = { ...named, ...more }[event.key];
    const [x, y] = PAN[event.key] ?? [0, 0];
    if (act) this.act(act);
    else if (/^[1-9]$/.test(event.key)) this.preset(Number(event.key) - 1);
    else if (x || y) event.shiftKey ? this.widen(-5 * x, 5 * y) : this.shift(40 * x, 40 * y);
    else if (event.key === "Escape") document.querySelector(".grounds [data-sentence]")?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Drag: window; with Shift or the middle button: pan; with Alt: zoom. The select chooses another for touch.
  drag(event) {
    const kind = event.shiftKey || event.button === 1 ? "pan" : event.altKey ? "zoom" : this.part("drag").value;
    this.dragged = { kind, x: event.clientX, y: event.clientY };
    this.canvas.setPointerCapture(event.pointerId);
  }

  point(event) {
    this.readout(event);
    if (!this.dragged || !event.buttons) return (this.dragged = null);
    const [x, y] = [event.clientX - this.dragged.x, event.clientY - this.dragged.y];
    Object.assign(this.dragged, { x: event.clientX, y: event.clientY });
    if (this.dragged.kind === "pan") this.shift(x * devicePixelRatio, y * devicePixelRatio);
    else if (this.dragged.kind === "zoom") this.magnify(1.01 ** -y);
    else this.widen(x / 2, y / 2);
  }

  readout(event) {
    if (!this.frame || !this.origin) return;
    const [left, top] = this.origin;
    const { wide, high } = this.scale();
    const column = Math.floor((event.offsetX * devicePixelRatio - left) * (this.frame.columns / wide));
    const row = Math.floor((event.offsetY * devicePixelRatio - top) * (this.frame.rows / high));
    const inside = column >= 0 && row >= 0 && column < this.frame.columns && row < this.frame.rows && !this.frame.rgb;
    const value = inside && valueOf(this.frame, this.frame.indices[row * this.frame.columns + column]);
    this.part("value").textContent = inside ? `${column + 1}, ${row + 1}: ${round(value)}${this.frame.hounsfield ? " HU" : ""}` : "";
  }

  wheel(event) {
    if (!this.frame) return;
    event.preventDefault();
    if (event.ctrlKey) return this.magnify(1.002 ** -event.deltaY);
    if (event.timeStamp - (this.turned ?? 0) < 40) return;
    this.turned = event.timeStamp;
    this.act(event.deltaY < 0 ? "before" : "next");
  }
}

customElements.define("stored-images", StoredImages);
