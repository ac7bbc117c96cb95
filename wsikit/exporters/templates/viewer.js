// Connects a report's data with OpenSeadragon. Coordinates are level-0 px of the slide; `unit` converts them to the
// frame of the pyramid. All text is set by textContent: nothing in it can become markup.
(async function () {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("slide-data").textContent);
  const FRAME = { x: data.slide.scale[0], y: data.slide.scale[1] }; // frame px per level-0 px
  const WIDTH = data.source.width; // frame px; OpenSeadragon's own unit is the slide's width
  const patches = await unpack(data.patches);
  const rowAt = new Map(patches.x.map((_, i) => [patches.row ? patches.row[i] : i, i]));
  const cells = indexCells();
  const state = { layer: null, last: null, pinned: -1, hovered: -1, opacity: 0.6 };

  byId("live").hidden = false;
  document.documentElement.classList.add("live");
  const viewer = OpenSeadragon({
    element: byId("viewer"),
    drawer: "canvas", // the same everywhere, with and without a GPU
    tileSources: tileSource(data.source),
    showNavigationControl: false,
    showNavigator: true,
    navigatorPosition: "BOTTOM_RIGHT",
    navigatorSizeRatio: 0.16,
    maxZoomPixelRatio: 4,
    visibilityRatio: 0.5,
    animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.6,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    crossOriginPolicy: false,
    imageLoaderLimit: 8,
  });
  window.wsikitViewer = viewer; // for tests and for debugging
  const layers = new Map(data.layers.map((layer) => [layer.key, { ...layer, item: null }]));
  const frameBox = mark("frame-live");
  viewer.addOnceHandler("open", start);

  // ---- pixels

  function tileSource(source) {
    const tiles = source.kind === "embedded" ? JSON.parse(byId("slide-tiles").textContent) : null;
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

  async function unpack(block) {
    const bytes = Uint8Array.from(atob(block), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // ---- places

  function toView(x, y, width, height) {
    return new OpenSeadragon.Rect((x * FRAME.x) / WIDTH, (y * FRAME.y) / WIDTH, (width * FRAME.x) / WIDTH, (height * FRAME.y) / WIDTH);
  }

  function tissueBox() {
    const [width, height] = data.grid.side;
    const ends = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    const [left, right] = ends(patches.x);
    const [top, bottom] = ends(patches.y);
    return toView(left - width, top - height, right - left + 3 * width, bottom - top + 3 * height);
  }

  function patchBox(i) {
    return [patches.x[i], patches.y[i], data.grid.side[0], data.grid.side[1]];
  }

  function indexCells() {
    const found = new Map();
    patches.x.forEach((x, i) => {
      found.set(`${Math.round(x / data.grid.stride[0])},${Math.round(patches.y[i] / data.grid.stride[1])}`, i);
    });
    return found;
  }

  // the most certain of the patches at a position, as on the map
  function patchAt(x, y) {
    const [sx, sy] = data.grid.stride;
    const reach = [Math.ceil(data.grid.side[0] / sx), Math.ceil(data.grid.side[1] / sy)];
    let best = -1;
    for (let dy = 0; dy <= reach[1]; dy++) {
      for (let dx = 0; dx <= reach[0]; dx++) {
        const i = cells.get(`${Math.floor(x / sx) + 1 - dx},${Math.floor(y / sy) + 1 - dy}`);
        if (i === undefined) continue;
        const inX = x >= patches.x[i] && x < patches.x[i] + data.grid.side[0];
        const inY = y >= patches.y[i] && y < patches.y[i] + data.grid.side[1];
        if (inX && inY && (best < 0 || sureness(i) > sureness(best))) best = i;
      }
    }
    return best;
  }

  function sureness(i) {
    return patches.label[i] < 0 || !patches.probs ? -1 : patches.probs[patches.label[i]][i];
  }

  function slidePoint(position) {
    const point = viewer.viewport.pointFromPixel(position);
    return [(point.x * WIDTH) / FRAME.x, (point.y * WIDTH) / FRAME.y];
  }

  // ---- layers

  function addLayers() {
    layers.forEach((layer) => {
      const box = toView(0, 0, layer.width, layer.height);
      viewer.addSimpleImage({
        url: layer.url,
        x: box.x,
        y: box.y,
        width: box.width,
        opacity: 0,
        success: (event) => {
          layer.item = event.item;
          showLayer(state.layer);
        },
      });
    });
  }

  function showLayer(key) {
    state.layer = key;
    if (key) state.last = key;
    layers.forEach((layer, name) => layer.item && layer.item.setOpacity(name === key ? state.opacity * fade() : 0));
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

  function frame(i, pinned) {
    viewer.removeOverlay(frameBox);
    if (i < 0) return;
    frameBox.className = pinned ? "frame-live pinned" : "frame-live";
    viewer.addOverlay({ element: frameBox, location: toView(...patchBox(i)) });
  }

  // ---- the patch panel

  function say(id, text) {
    byId(id).textContent = text;
  }

  function show(i, pinned) {
    frame(i, pinned);
    byId("patch-none").hidden = i >= 0;
    byId("patch-some").hidden = i < 0;
    if (i < 0) return;
    const row = patches.row ? patches.row[i] : i;
    byId("patch-some").dataset.row = row;
    const label = patches.label[i];
    const unreadable = patches.unreadable && patches.unreadable.includes(i);
    const title = unreadable ? "Could not be read" : label < 0 ? "No prediction" : data.classes[label].title;
    say("patch-title", title);
    say("patch-place", `x ${patches.x[i].toLocaleString("en")} · y ${patches.y[i].toLocaleString("en")} px · row ${row}${pinned ? " · kept (Esc)" : ""}`);
    const text = patches.caption && patches.caption[i] >= 0 ? patches.captions[patches.caption[i]] : "";
    say("patch-caption", text || (data.captioned ? "No caption for this patch." : ""));
    byId("patch-probs").replaceChildren(...(patches.probs && label >= 0 ? data.classes.map((item, c) => bar(item, patches.probs[c][i], c === label)).flat() : []));
    byId("patch-facts").replaceChildren(...facts(i).map(([name, value]) => factRow(name, value)));
    picture(i, row);
  }

  function bar(item, value, own) {
    const track = mark("track");
    const inner = mark("fill");
    inner.style.width = `${100 * (value || 0)}%`;
    inner.style.background = item.color;
    track.append(inner);
    const words = own ? "own" : "";
    return [mark(words, item.code), track, mark(words, value === null ? "–" : value.toFixed(2))];
  }

  function facts(i) {
    const found = [];
    const add = (name, value, unit) => value !== null && value !== undefined && found.push([name, unit ? `${value} ${unit}` : `${value}`]);
    if (patches.gate) add("weight of the text (gate)", patches.gate[i], "");
    if (patches.ood_score) add("out-of-distribution score (above 1: out-of-distribution)", patches.ood_score[i], "");
    (patches.fact_names || []).forEach((name, f) => add(name, number(patches.facts[f][i]), patches.fact_units[f]));
    if (patches.blur_um && patches.blur_um[i] > 0) add("blur", patches.blur_um[i].toFixed(1), "µm");
    if (patches.pen && patches.pen[i] >= 0.005) add("marker ink", (100 * patches.pen[i]).toFixed(0), "%");
    return found;
  }

  function number(value) {
    if (value === null || value === undefined) return null;
    return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(2)).toString();
  }

  function factRow(name, value) {
    const row = document.createElement("tr");
    const head = Object.assign(document.createElement("th"), { scope: "row", textContent: name });
    row.append(head, Object.assign(document.createElement("td"), { className: "num", textContent: value }));
    return row;
  }

  // the patch from the deepest tiles that hold all of it
  function picture(i, row) {
    const canvas = byId("patch-canvas");
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
    const [x, y, width, height] = patchBox(i);
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

  function pin(i) {
    state.pinned = i;
    show(i >= 0 ? i : state.hovered, i >= 0);
  }

  function goTo(row) {
    const i = rowAt.get(row);
    if (i === undefined) return;
    const [x, y, width, height] = patchBox(i);
    viewer.viewport.fitBounds(toView(x - width, y - height, 3 * width, 3 * height));
    pin(i);
    byId("live").scrollIntoView({ block: "nearest" });
    viewer.canvas.focus({ preventScroll: true });
  }

  // ---- scale bar

  function scale() {
    const item = state.layer && layers.get(state.layer).item;
    if (item && Math.abs(item.getOpacity() - state.opacity * fade()) > 0.02) item.setOpacity(state.opacity * fade());
    const umPerScreenPx = (data.slide.unit_um * WIDTH) / (viewer.viewport.getZoom(true) * viewer.container.clientWidth);
    const room = 180 * umPerScreenPx;
    const power = Math.pow(10, Math.floor(Math.log10(room)));
    const length = [5, 2, 1].map((n) => n * power).find((value) => value <= room);
    byId("scale-bar").style.width = `${length / umPerScreenPx}px`;
    say("scale-label", length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(2))} µm`);
    const level = deepest(viewer.viewport.getCenter(true));
    const coarse = level && umPerScreenPx < level.um / 1.5;
    say("zoom-label", `${umPerScreenPx.toPrecision(2)} µm per screen pixel` + (coarse ? ` · finest level here: ${level.um} µm/px` : ""));
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
    addLayers();
    addPins();
    if (data.second) viewer.addOverlay({ element: mark("second-live"), location: toView(...data.second) });
    showLayer(data.layers.length ? data.layers[0].key : null);
    ["animation", "resize", "open", "update-viewport"].forEach((name) => viewer.addHandler(name, scale));
    if (patches.x.length) viewer.viewport.fitBounds(tissueBox(), true);
    scale();
    viewer.canvas.setAttribute("aria-label", "Slide. Arrow keys move, plus and minus zoom, 0 shows all, n inspects the patch in the middle.");
    viewer.canvas.addEventListener("pointermove", hover);
    viewer.canvas.addEventListener("pointerleave", () => state.pinned < 0 && show((state.hovered = -1), false));
    viewer.addHandler("canvas-click", (event) => event.quick && pin(patchAt(...slidePoint(event.position))));
    viewer.addHandler("canvas-key", keys);
    byId("live").dataset.ready = "true";
  }

  function hover(event) {
    const edge = viewer.canvas.getBoundingClientRect();
    const point = new OpenSeadragon.Point(event.clientX - edge.left, event.clientY - edge.top);
    const i = patchAt(...slidePoint(point));
    if (i === state.hovered) return;
    state.hovered = i;
    if (state.pinned < 0) show(i, false);
  }

  function keys(event) {
    const key = event.originalEvent.key;
    if ("rRfF".includes(key)) event.preventDefaultAction = true; // no accidental rotation of the slide
    if (key === "n" || key === "Enter") {
      const middle = viewer.viewport.getCenter(true);
      pin(patchAt((middle.x * WIDTH) / FRAME.x, (middle.y * WIDTH) / FRAME.y));
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "radio") return;
    if (event.key === "Escape") pin(-1);
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
  byId("zoom-home").addEventListener("click", () => viewer.viewport.goHome());
  byId("full-screen").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : byId("live").requestFullscreen()));
})();
