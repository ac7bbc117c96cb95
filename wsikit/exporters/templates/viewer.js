// Connects a report's data with OpenSeadragon. Coordinates are level-0 px of the slide; `unit` converts them to the
// frame of the pyramid. All text is set by textContent: nothing in it can become markup. The other scripts of the page
// wait for `wsikitPage`, a promise of what they use here.
window.wsikitPage = (async function () {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("slide-data").textContent);
  const FRAME = { x: data.slide.scale[0], y: data.slide.scale[1] }; // frame px per level-0 px
  const WIDTH = data.source.width; // frame px; OpenSeadragon's own unit is the slide's width
  const patches = indexed(await unpack(data.patches)); // of all patches, or only of those shown below
  const everyPatch = !patches.row;
  const rowAt = new Map(patches.x.map((_, i) => [everyPatch ? i : patches.row[i], i]));
  const state = { layer: null, last: null, pinned: null, hovered: null, point: null, opacity: 0.6, takesClick: null };
  const tiles = data.tiles ? tileStore(data.tiles) : null;

  byId("live").hidden = false;
  document.documentElement.classList.add("live");
  const deepTiles = data.source.kind === "embedded" ? JSON.parse(byId("slide-tiles").textContent) : null;
  const layers = new Map(data.layers.map((layer) => [layer.key, layer]));
  const panes = []; // the slide; and next to it, if asked for, the slide with the map
  const viewer = addPane("viewer", { showNavigator: true });
  window.wsikitViewer = viewer; // for tests and for debugging
  const opened = new Promise((resolve) => viewer.addOnceHandler("open", resolve));

  // ---- panes: views of the slide

  function addPane(id, options) {
    const made = OpenSeadragon({
      element: byId(id),
      drawer: "canvas", // the same everywhere, with and without a GPU
      tileSources: tileSource(data.source),
      showNavigationControl: false,
      navigatorPosition: "BOTTOM_RIGHT",
      navigatorSizeRatio: 0.16,
      maxZoomPixelRatio: 4,
      visibilityRatio: 0.5,
      animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.6,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      crossOriginPolicy: false,
      imageLoaderLimit: 8,
      ...options,
    });
    const view = { viewer: made, items: new Map(), frame: mark("frame-live"), hasMap: true };
    panes.push(view);
    made.addOnceHandler("open", () => {
      addLayers(view);
      made.canvas.addEventListener("pointermove", (event) => hover(event, made));
      made.canvas.addEventListener("pointerleave", () => {
        state.point = null;
        look();
      });
      made.addHandler("canvas-click", (event) => {
        if (event.quick && !(state.takesClick && state.takesClick(event, made))) pin(patchAt(...slidePoint(event.position, made)));
      });
      made.addHandler("canvas-key", keys);
    });
    return made;
  }

  function pane(made) {
    return panes.find((view) => view.viewer === made);
  }

  // ---- pixels

  function tileSource(source) {
    const tiles = deepTiles;
    const found = new OpenSeadragon.TileSource({
      width: source.width,
      height: source.height,
      tileSize: 256,
      minLevel: source.levels[0].level,
      maxLevel: source.levels[source.levels.length - 1].level,
    });
    const at = (level) => source.levels[level - source.levels[0].level];
    found.getLevelScale = (level) => (at(level) ? at(level).scale : 0);
    found.getTileWidth = (level) => (at(level) ? at(level).tile[0] : 256);
    found.getTileHeight = (level) => (at(level) ? at(level).tile[1] : 256);
    found.getNumTiles = (level) =>
      at(level)
        ? new OpenSeadragon.Point(Math.ceil(at(level).width / at(level).tile[0]), Math.ceil(at(level).height / at(level).tile[1]))
        : new OpenSeadragon.Point(0, 0);
    found.hasTransparency = () => false;
    const inside = (level, x, y) => {
      const n = found.getNumTiles(level);
      return x >= 0 && y >= 0 && x < n.x && y < n.y;
    };
    if (tiles) {
      found.tileExists = (level, x, y) => inside(level, x, y) && tiles[`${level}/${x}_${y}`] !== undefined;
      found.getTileUrl = (level, x, y) => "data:image/jpeg;base64," + tiles[`${level}/${x}_${y}`];
      found.getTileHashKey = (level, x, y) => `tile/${level}/${x}_${y}`;
    } else {
      found.tileExists = inside;
      found.getTileUrl = (level, x, y) => `${source.base}${level}/${x}_${y}.jpg`;
    }
    return found;
  }

  async function inflate(text, format) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format))).arrayBuffer();
  }

  async function unpack(block) {
    return JSON.parse(new TextDecoder().decode(await inflate(block, "gzip")));
  }

  // ---- places

  function toView(x, y, width, height) {
    return new OpenSeadragon.Rect((x * FRAME.x) / WIDTH, (y * FRAME.y) / WIDTH, (width * FRAME.x) / WIDTH, (height * FRAME.y) / WIDTH);
  }

  function tissueBox() {
    const [width, height] = data.grid.side;
    const [left, top, right, bottom] = data.extent;
    return toView(left - width, top - height, right - left + 3 * width, bottom - top + 3 * height);
  }

  function patchBox(patch) {
    return [patch.x, patch.y, data.grid.side[0], data.grid.side[1]];
  }

  // ---- data of the patches: blocks of columns

  function indexed(block) {
    block.cells = new Map();
    for (let i = 0; i < block.x.length; i++) {
      const key = `${Math.round(block.x[i] / data.grid.stride[0])},${Math.round(block.y[i] / data.grid.stride[1])}`;
      const known = block.cells.get(key);
      block.cells.set(key, known === undefined ? [i] : [...known, i]);
    }
    return block;
  }

  function patchOf(block, i) {
    const column = (name) => (block[name] ? block[name][i] : null);
    return {
      row: block.row ? block.row[i] : i,
      x: block.x[i],
      y: block.y[i],
      label: block.label[i],
      unreadable: Boolean(block.unreadable && block.unreadable.includes(i)),
      probs: block.probs ? block.probs.map((values) => values[i]) : null,
      caption: block.caption && block.caption[i] >= 0 ? block.captions[block.caption[i]] : "",
      gate: column("gate"),
      ood_score: column("ood_score"),
      blur_um: column("blur_um"),
      pen: column("pen"),
      facts: (block.fact_names || []).map((name, f) => [name, block.facts[f][i], block.fact_units[f]]),
      complete: block.complete || !tiles,
    };
  }

  // the most certain of the patches at a position, as on the map; null: none, or not loaded yet
  function patchAt(x, y) {
    const [sx, sy] = data.grid.stride;
    const reach = [Math.ceil(data.grid.side[0] / sx), Math.ceil(data.grid.side[1] / sy)];
    let best = null;
    let certainty = -2;
    for (let dy = 0; dy <= reach[1]; dy++) {
      for (let dx = 0; dx <= reach[0]; dx++) {
        const [col, row] = [Math.floor(x / sx) + 1 - dx, Math.floor(y / sy) + 1 - dy];
        const block = everyPatch || !tiles ? patches : tiles.block(tiles.nameOf(col, row));
        if (!block) continue;
        for (const i of block.cells.get(`${col},${row}`) || []) {
          const inX = x >= block.x[i] && x < block.x[i] + data.grid.side[0];
          const inY = y >= block.y[i] && y < block.y[i] + data.grid.side[1];
          const sure = block.label[i] < 0 || !block.probs ? -1 : block.probs[block.label[i]][i];
          if (inX && inY && sure > certainty) [best, certainty] = [[block, i], sure];
        }
      }
    }
    return best ? patchOf(...best) : null;
  }

  // files next to the page, or of the server, each with the patches of a square of the grid; see patch_tiles.py
  function tileStore(index) {
    const blocks = new Map(); // the latest used last
    const asked = new Map();
    const lost = new Set();
    const KEPT = 48;
    window.wsikitPatches = async (name, text) => {
      if (!asked.has(name)) return;
      const block = indexed(unpackTile(await inflate(text, "deflate")));
      blocks.set(name, block);
      while (blocks.size > KEPT) blocks.delete(blocks.keys().next().value);
      asked.get(name)();
      asked.delete(name);
      arrived();
    };
    function load(name) {
      if (asked.has(name) || lost.has(name)) return;
      const script = document.createElement("script");
      asked.set(name, () => script.remove());
      script.onerror = () => {
        asked.delete(name);
        lost.add(name);
        arrived();
      };
      const digest = index.names[name];
      script.src = `${index.base}${name}${digest ? "_" + digest : ""}.js`;
      document.head.append(script);
    }
    return {
      nameOf: (col, row) => `${Math.floor(col / index.cells)}_${Math.floor(row / index.cells)}`,
      // null: there is none, or it is being loaded
      block(name) {
        if (index.names[name] === undefined) return null;
        const block = blocks.get(name);
        if (!block) {
          load(name);
          return null;
        }
        blocks.delete(name);
        blocks.set(name, block);
        return block;
      },
      isLost: (name) => lost.has(name),
      isAsked: (name) => asked.has(name),
      folder: index.base,
    };
  }

  function unpackTile(buffer) {
    const bytes = new Uint8Array(buffer);
    const start = 4 + new DataView(buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, start)));
    const block = { captions: head.captions, fact_names: head.fact_names, fact_units: head.fact_units, complete: true };
    const view = new DataView(buffer);
    let at = start;
    for (const name of head.int) {
      const first = at;
      block[name] = Int32Array.from({ length: head.n }, (_, i) => view.getInt32(first + 4 * i, true));
      at += 4 * head.n;
    }
    for (const name of head.float) {
      const bits = new Uint32Array(head.n);
      for (let i = 0; i < head.n; i++) {
        bits[i] = (bytes[at + i] << 24) | (bytes[at + head.n + i] << 16) | (bytes[at + 2 * head.n + i] << 8);
      }
      const values = new Float32Array(bits.buffer);
      const [column, entry] = name.split(":");
      if (entry === undefined) block[column] = values;
      else (block[column] = block[column] || [])[Number(entry)] = values;
      at += 3 * head.n;
    }
    if (block.unreadable) block.unreadable = [...block.unreadable.keys()].filter((i) => block.unreadable[i]);
    return block;
  }

  // all of a patch's data; null while they are being loaded, or if they are lost
  function whole(patch) {
    if (patch.complete) return patch;
    const [sx, sy] = data.grid.stride;
    const block = tiles.block(tiles.nameOf(Math.round(patch.x / sx), Math.round(patch.y / sy)));
    const i = block ? block.row.indexOf(patch.row) : -1;
    return i < 0 ? null : patchOf(block, i);
  }

  function arrived() {
    state.hovered = null; // what is shown of it may be more now
    if (state.pinned) show(state.pinned, true);
    look();
  }

  function slidePoint(position, made = viewer) {
    const point = made.viewport.pointFromPixel(position, true);
    return [(point.x * WIDTH) / FRAME.x, (point.y * WIDTH) / FRAME.y];
  }

  // ---- layers

  function addLayers(view) {
    layers.forEach((layer, key) => {
      const box = toView(0, 0, layer.width, layer.height);
      view.viewer.addSimpleImage({
        url: layer.url,
        x: box.x,
        y: box.y,
        width: box.width,
        opacity: 0,
        success: (event) => {
          view.items.set(key, event.item);
          showLayer(state.layer);
        },
      });
    });
  }

  function showLayer(key) {
    state.layer = key;
    if (key) state.last = key;
    panes.forEach((view) => view.items.forEach((item, name) => item.setOpacity(view.hasMap && name === key ? state.opacity * fade() : 0)));
    document.dispatchEvent(new CustomEvent("wsikit-layer"));
    document.querySelectorAll("input[name=layer]").forEach((input) => (input.checked = input.value === (key || "")));
    document.querySelectorAll(".layer-legend").forEach((legend) => (legend.hidden = legend.dataset.layer !== key));
  }

  // at high zoom the map would hide nuclei: it fades from 90 to 260 screen px per patch
  function fade() {
    const px = ((data.grid.side[0] * FRAME.x) / WIDTH) * viewer.viewport.getZoom(true) * viewer.container.clientWidth;
    return Math.max(0.25, Math.min(1, 1 - (0.75 * (px - 90)) / 170));
  }

  function setOpacity(percent) {
    const value = Math.min(100, Math.max(0, percent));
    state.opacity = value / 100;
    byId("opacity").value = value;
    byId("opacity-value").textContent = `${value} %`;
    showLayer(state.layer);
  }

  // ---- marks on the slide

  function mark(name, text) {
    const element = document.createElement(text === undefined ? "div" : "span");
    element.className = name;
    element.textContent = text === undefined ? "" : text;
    return element;
  }

  function addPins() {
    data.pins.forEach((pin) => {
      const element = mark("pin-live");
      const label = mark("", pin.name);
      label.style.borderBottomColor = pin.color;
      element.append(label);
      viewer.addOverlay({ element, location: toView(...pin.box) });
    });
  }

  function frame(patch, pinned) {
    panes.forEach((view) => {
      view.viewer.removeOverlay(view.frame);
      if (!patch) return;
      view.frame.className = pinned ? "frame-live pinned" : "frame-live";
      view.viewer.addOverlay({ element: view.frame, location: toView(...patchBox(patch)) });
    });
  }

  // ---- the patch panel

  function say(id, text) {
    byId(id).textContent = text;
  }

  const NONE = byId("patch-none").textContent;

  function show(known, pinned) {
    frame(known, pinned);
    byId("patch-none").hidden = Boolean(known);
    byId("patch-some").hidden = !known;
    if (!known) return;
    const patch = whole(known) || known;
    const { row, label } = patch;
    byId("patch-some").dataset.row = row;
    byId("patch-some").dataset.complete = patch.complete;
    const title = patch.unreadable ? "Could not be read" : label < 0 ? "No prediction" : data.classes[label].title;
    say("patch-title", title);
    say("patch-place", `x ${patch.x.toLocaleString("en")} · y ${patch.y.toLocaleString("en")} px · row ${row}${pinned ? " · kept (Esc)" : ""}`);
    say("patch-caption", patch.caption || (patch.complete ? (data.captioned ? "No caption for this patch." : "") : notHere(patch)));
    byId("patch-probs").replaceChildren(...(patch.probs && label >= 0 ? data.classes.map((item, c) => bar(item, patch.probs[c], c === label)).flat() : []));
    byId("patch-facts").replaceChildren(...facts(patch).map(([name, value]) => factRow(name, value)));
    picture(patch);
  }

  function notHere(patch) {
    const [sx, sy] = data.grid.stride;
    return lostWords([tiles.nameOf(Math.round(patch.x / sx), Math.round(patch.y / sy))]) || "Loading …";
  }

  function lostWords(names) {
    if (!names.some(tiles.isLost)) return "";
    return data.source.kind === "served"
      ? "The data of this patch could not be loaded."
      : `The data of this patch are in the folder ${tiles.folder.slice(0, -1)}, which belongs next to this page and is not there, or is of another report.`;
  }

  function bar(item, value, own) {
    const track = mark("track");
    const inner = mark("fill");
    inner.style.width = `${100 * (value || 0)}%`;
    inner.style.background = item.color;
    track.append(inner);
    const words = own ? "own" : "";
    return [mark(words, item.code), track, mark(words, isKnown(value) ? value.toFixed(2) : "–")];
  }

  function isKnown(value) {
    return value !== null && value !== undefined && !Number.isNaN(value);
  }

  function facts(patch) {
    const found = [];
    const add = (name, value, unit) => value !== null && found.push([name, unit ? `${value} ${unit}` : `${value}`]);
    const short = (value) => (isKnown(value) ? Number(value.toFixed(3)) : null);
    add("weight of the text (gate)", short(patch.gate), "");
    add("out-of-distribution score (above 1: out-of-distribution)", short(patch.ood_score), "");
    patch.facts.forEach(([name, value, unit]) => add(name, number(value), unit));
    if (patch.blur_um > 0) add("blur", patch.blur_um.toFixed(1), "µm");
    if (patch.pen >= 0.005) add("marker ink", (100 * patch.pen).toFixed(0), "%");
    return found;
  }

  function number(exact) {
    if (!isKnown(exact)) return null;
    const value = Number(exact.toPrecision(3));
    return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(2)).toString();
  }

  function factRow(name, value) {
    const row = document.createElement("tr");
    const head = Object.assign(document.createElement("th"), { scope: "row", textContent: name });
    row.append(head, Object.assign(document.createElement("td"), { className: "num", textContent: value }));
    return row;
  }

  // the patch from the deepest tiles that hold all of it
  function picture(patch) {
    const canvas = byId("patch-canvas");
    const { row } = patch;
    if (canvas.dataset.row === String(row)) return; // drawn, or being drawn
    const context = canvas.getContext("2d");
    context.fillStyle = "#eee";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const wanted = (canvas.dataset.row = String(row));
    if (data.source.kind === "served") {
      const image = new Image();
      image.onload = () => canvas.dataset.row === wanted && context.drawImage(image, 0, 0, canvas.width, canvas.height);
      image.src = `${data.source.patches}${row}.jpg`;
      say("patch-depth", `${data.grid.um_per_px} µm/px`);
      return;
    }
    const source = viewer.world.getItemAt(0).source;
    const [x, y, width, height] = patchBox(patch);
    const box = [x * FRAME.x, y * FRAME.y, width * FRAME.x, height * FRAME.y];
    for (let k = data.source.levels.length - 1; k >= 0; k--) {
      const level = data.source.levels[k];
      const scale = level.scale;
      const [tw, th] = level.tile;
      const places = [];
      const right = Math.min(box[0] + box[2], WIDTH) * scale;
      const bottom = Math.min(box[1] + box[3], data.source.height) * scale;
      for (let row = Math.floor((box[1] * scale) / th); row * th < bottom; row++) {
        for (let col = Math.floor((box[0] * scale) / tw); col * tw < right; col++) places.push([col, row]);
      }
      if (!places.every(([col, row]) => source.tileExists(level.level, col, row))) continue;
      places.forEach(([col, row]) => {
        const image = new Image();
        image.onload = () => {
          if (canvas.dataset.row !== wanted) return;
          const zoom = canvas.width / (box[2] * scale);
          const left = (col * tw - box[0] * scale) * zoom;
          const top = (row * th - box[1] * scale) * zoom;
          context.drawImage(image, left, top, image.width * zoom, image.height * zoom);
        };
        image.src = source.getTileUrl(level.level, col, row);
      });
      say("patch-depth", `${level.um} µm/px`);
      return;
    }
  }

  function pin(patch) {
    state.pinned = patch;
    show(patch || state.hovered, Boolean(patch));
  }

  // at a position whose patches are not loaded yet, the next tile that arrives shows what is there
  function look() {
    const patch = state.point ? patchAt(...state.point) : null;
    const same = patch && state.hovered && patch.row === state.hovered.row && patch.complete === state.hovered.complete;
    state.hovered = patch;
    if (state.pinned || same) return;
    show(patch, false);
    if (!patch) say("patch-none", (tiles && state.point && waitingWords(...state.point)) || NONE);
  }

  function waitingWords(x, y) {
    if (everyPatch) return "";
    const name = tiles.nameOf(Math.floor(x / data.grid.stride[0]), Math.floor(y / data.grid.stride[1]));
    return lostWords([name]) || (tiles.isAsked(name) ? "Loading …" : "");
  }

  function goTo(row) {
    const i = rowAt.get(row);
    if (i === undefined) return;
    const patch = patchOf(patches, i);
    const [x, y, width, height] = patchBox(patch);
    viewer.viewport.fitBounds(toView(x - width, y - height, 3 * width, 3 * height));
    pin(patch);
    byId("live").scrollIntoView({ block: "nearest" });
    viewer.canvas.focus({ preventScroll: true });
  }

  // ---- scale bar

  function umPerScreenPx(zoom = viewer.viewport.getZoom(true)) {
    return (data.slide.unit_um * WIDTH) / (zoom * viewer.container.clientWidth);
  }

  function scale() {
    const wanted = state.opacity * fade();
    panes.forEach((view) => {
      const item = view.hasMap && view.items.get(state.layer);
      if (item && Math.abs(item.getOpacity() - wanted) > 0.02) item.setOpacity(wanted);
    });
    const um = umPerScreenPx();
    const room = 180 * um;
    const power = Math.pow(10, Math.floor(Math.log10(room)));
    const length = [5, 2, 1].map((n) => n * power).find((value) => value <= room);
    byId("scale-bar").style.width = `${length / um}px`;
    say("scale-label", length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(2))} µm`);
    const level = deepest(viewer.viewport.getCenter(true));
    const coarse = level && um < level.um / 2;
    say("zoom-label", `${Number(um.toPrecision(2))} µm per screen pixel` + (coarse ? ` · finest level here: ${level.um} µm/px` : ""));
  }

  function deepest(point) {
    const source = viewer.world.getItemAt(0).source;
    for (let k = data.source.levels.length - 1; k >= 0; k--) {
      const level = data.source.levels[k];
      const pixel = point.times(WIDTH * level.scale);
      if (source.tileExists(level.level, Math.floor(pixel.x / level.tile[0]), Math.floor(pixel.y / level.tile[1]))) return level;
    }
    return null;
  }

  // ---- input of the reader

  function start() {
    addPins();
    if (data.second) viewer.addOverlay({ element: mark("second-live"), location: toView(...data.second) });
    showLayer(data.layers.length ? data.layers[0].key : null);
    ["animation", "resize", "open", "update-viewport"].forEach((name) => viewer.addHandler(name, scale));
    if (data.extent.length) viewer.viewport.fitBounds(tissueBox(), true);
    scale();
    viewer.canvas.setAttribute("aria-label", "Slide. Arrow keys move, plus and minus zoom, 0 shows all, n inspects the patch in the middle, ? lists all keys.");
    byId("live").dataset.ready = "true";
  }

  function hover(event, made) {
    const edge = made.canvas.getBoundingClientRect();
    const point = new OpenSeadragon.Point(event.clientX - edge.left, event.clientY - edge.top);
    state.point = slidePoint(point, made);
    look();
  }

  // centre of the view, level-0 px, and its scale
  function place() {
    const middle = viewer.viewport.getCenter();
    return { x: (middle.x * WIDTH) / FRAME.x, y: (middle.y * WIDTH) / FRAME.y, mpp: umPerScreenPx(viewer.viewport.getZoom()) };
  }

  function fit(x, y, mpp, immediately) {
    const zoom = (data.slide.unit_um * WIDTH) / (mpp * viewer.container.clientWidth);
    viewer.viewport.zoomTo(zoom, null, immediately);
    viewer.viewport.panTo(new OpenSeadragon.Point((x * FRAME.x) / WIDTH, (y * FRAME.y) / WIDTH), immediately);
    viewer.viewport.applyConstraints(immediately);
  }

  // maps reach beyond the slide's edge: OpenSeadragon's own home is the bounds of all of them
  function wholeSlide() {
    viewer.viewport.fitBounds(viewer.world.getItemAt(0).getBounds());
  }

  function keys(event) {
    const key = event.originalEvent.key;
    // no accidental rotation of the slide; letters are for this page's own keys
    if (/^[a-zA-Z]$/.test(key)) event.preventDefaultAction = true;
    if (key === "n" || key === "Enter") {
      const middle = viewer.viewport.getCenter(true);
      pin(patchAt((middle.x * WIDTH) / FRAME.x, (middle.y * WIDTH) / FRAME.y));
    }
  }

  function isTyping(event) {
    const { tagName, type } = event.target;
    return event.ctrlKey || event.metaKey || event.altKey || (/^(INPUT|TEXTAREA|SELECT)$/.test(tagName) && !/^(radio|checkbox)$/.test(type));
  }
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || isTyping(event)) return;
    if (event.key === "Escape") pin(null);
    else if (event.key === "m") showLayer(state.layer ? null : state.last);
    else if (event.key === "[" || event.key === "]") setOpacity(Math.round(100 * state.opacity) + (event.key === "]" ? 10 : -10));
  });
  document.querySelectorAll("input[name=layer]").forEach((input) => input.addEventListener("change", () => showLayer(input.value || null)));
  byId("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
  byId("show-pins").addEventListener("change", (event) => byId("viewer").classList.toggle("no-pins", !event.target.checked));
  document.querySelectorAll("button[data-row]").forEach((button) => button.addEventListener("click", () => goTo(Number(button.dataset.row))));
  document.querySelectorAll("button[data-box]").forEach((button) =>
    button.addEventListener("click", () => {
      const [x, y, width, height] = JSON.parse(button.dataset.box);
      viewer.viewport.fitBounds(toView(x - width / 4, y - height / 4, 1.5 * width, 1.5 * height));
      byId("live").scrollIntoView({ block: "nearest" });
    }),
  );
  byId("zoom-in").addEventListener("click", () => viewer.viewport.zoomBy(1.6));
  byId("zoom-out").addEventListener("click", () => viewer.viewport.zoomBy(1 / 1.6));
  byId("zoom-home").addEventListener("click", wholeSlide);
  byId("full-screen").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : byId("live").requestFullscreen()));

  await opened;
  start();
  return { addPane, fit, isTyping, panes, place, showLayer, slidePoint, state, toView, umPerScreenPx, wholeSlide, viewer, data, FRAME, WIDTH };
})();
