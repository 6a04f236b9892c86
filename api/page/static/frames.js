// Message of a stored frame (docs/api.md#frames), and the levels that a window gives to its values. Levels are those of the
// server for the same window: the formulas of PS3.3 C.11.2.1.2 and C.11.2.1.3, truncated.

const TYPES = { uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array };
const UNSIGNED = { 1: Uint8Array, 2: Uint16Array };

// Typed arrays have the byte order of the machine, which is little endian wherever a browser runs.
export function parse(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const frame = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const count = frame.rows * frame.columns;
  const start = 4 + length;
  if (frame.type === "rgb") return { ...frame, bytes: buffer.byteLength, rgb: new Uint8Array(buffer, start, 3 * count) };
  const width = TYPES[frame.type].BYTES_PER_ELEMENT;
  const size = 256 ** width;
  const after = start + count * width;
  const values = frame.modality_table ? new Float32Array(buffer.slice(after + size, after + 5 * size)) : null;
  return {
    ...frame,
    bytes: buffer.byteLength,
    size,
    // The bits of each value as an index of the tables.
    indices: new UNSIGNED[width](buffer, start, count),
    levels: new Uint8Array(buffer, after, size),
    values,
  };
}

function storedOf(frame, index) {
  return frame.type.startsWith("int") && index >= frame.size / 2 ? index - frame.size : index;
}

// Value of a table index in the unit of the windows: Hounsfield units for most CT slices.
export function valueOf(frame, index) {
  return frame.values ? frame.values[index] : storedOf(frame, index) * frame.slope + frame.intercept;
}

function levelOf(value, { center, width, function: name }) {
  if (name === "SIGMOID") return 255 / (1 + Math.exp((-4 * (value - center)) / width));
  const [middle, span] = name === "LINEAR_EXACT" ? [center, width] : [center - 0.5, width - 1];
  if (value <= middle - span / 2) return 0;
  if (value > middle + span / 2) return 255;
  return ((value - middle) / span + 0.5) * 255;
}

// Level of each table index; without a window those of the usual presentation. Padding stays black.
export function tableOf(frame, window, inverted) {
  if (!window && !inverted) return frame.levels;
  const table = new Uint8Array(frame.size);
  const [low, high] = frame.padding ?? [1, 0];
  for (let index = 0; index < frame.size; index++) {
    const stored = storedOf(frame, index);
    if (stored >= low && stored <= high) continue;
    let level = window ? levelOf(valueOf(frame, index), window) : frame.levels[index];
    if (window && frame.inverted) level = 255 - level;
    table[index] = inverted ? 255 - level : level;
  }
  return table;
}

// Draw a frame at its own size.
export function draw(canvas, frame, window, inverted) {
  canvas.width = frame.columns;
  canvas.height = frame.rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(frame.columns, frame.rows);
  if (frame.rgb) colour(image.data, frame.rgb, inverted);
  else grey(new Uint32Array(image.data.buffer), frame.indices, tableOf(frame, window, inverted));
  context.putImageData(image, 0, 0);
}

function grey(pixels, indices, table) {
  const opaque = Uint32Array.from(table, (level) => 0xff000000 | (level << 16) | (level << 8) | level);
  for (let at = 0; at < pixels.length; at++) pixels[at] = opaque[indices[at]];
}

function colour(pixels, rgb, inverted) {
  const flip = inverted ? 255 : 0;
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    pixels[to] = rgb[from] ^ flip;
    pixels[to + 1] = rgb[from + 1] ^ flip;
    pixels[to + 2] = rgb[from + 2] ^ flip;
    pixels[to + 3] = 255;
  }
}
