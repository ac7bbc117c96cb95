// Regions drawn on the slide: polygons and rectangles of a class, edited, saved by the page's server as GeoJSON next to the
// store. Coordinates are level-0 px. All text is set by textContent.
(async function () {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const page = await window.wsikitPage;
  const { viewer, FRAME, WIDTH } = page;
  const SVG = "http://www.w3.org/2000/svg";
  const NEAR = 9; // screen px
  const MAX_UNDO = 100;
  const SPARE = ["#009e73", "#56b4e9", "#e69f00", "#cc79a7", "#ffffff"]; // of Okabe and Ito, for classes of no model
  const mm2 = (page.data.slide.unit_um ** 2 * FRAME.x * FRAME.y) / 1e6; // per px of level 0
  const size = { x: WIDTH / FRAME.x, y: page.data.source.height / FRAME.y };
  const SERVER = "drawing";

  let regions = [];
  let classes = [];
  let current = null; // class of the next region
  let selected = null;
  let tool = null; // "polygon", "rectangle"
  let draft = []; // corners of the polygon that is being drawn
  let pointer = null; // the last place of the pointer
  let drag = null;
  let wasDragged = false;
  let revision = "";
  let file = "";
  let fault = "Loading the regions …";
  let saved = "[]";
  let busy = false;
  let shownStatus = "";
  const past = [];
  const sheets = new Map(); // viewer of a pane → svg

  // ---- places

  function clamp([x, y]) {
    return [Math.min(size.x, Math.max(0, x)), Math.min(size.y, Math.max(0, y))].map((value) => Math.round(value * 100) / 100);
  }

  function toScreen([x, y], made) {
    const point = made.viewport.pixelFromPoint(new OpenSeadragon.Point((x * FRAME.x) / WIDTH, (y * FRAME.y) / WIDTH), true);
    return [point.x, point.y];
  }

  function distance(a, b) {
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  }

  function toLine(point, a, b) {
    const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
    const along = Math.max(0, Math.min(1, ((point[0] - a[0]) * dx + (point[1] - a[1]) * dy) / (dx * dx + dy * dy || 1)));
    return distance(point, [a[0] + along * dx, a[1] + along * dy]);
  }

  function edges(corners) {
    return corners.map((corner, i) => [corner, corners[(i + 1) % corners.length]]);
  }

  function area(corners) {
    return Math.abs(edges(corners).reduce((sum, [a, b]) => sum + a[0] * b[1] - b[0] * a[1], 0)) / 2;
  }

  function side(a, b, c) {
    return Math.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]));
  }

  // whether two edges that are not neighbours meet
  function crosses(corners) {
    const all = edges(corners);
    return all.some(([a, b], i) =>
      all.some(([c, d], j) => {
        if (j < i + 2 || (i === 0 && j === all.length - 1)) return false;
        return side(a, b, c) !== side(a, b, d) && side(c, d, a) !== side(c, d, b);
      }),
    );
  }

  // ---- what is shown

  function element(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function sheetOf(made) {
    if (!sheets.has(made)) {
      const svg = element("svg", { class: "sheet", "aria-hidden": "true" });
      made.element.parentElement.append(svg);
      sheets.set(made, svg);
      made.addHandler("update-viewport", () => draw(made));
      listen(made);
    }
    return sheets.get(made);
  }

  function drawAll() {
    page.panes.forEach((view) => draw(view.viewer));
  }

  function draw(made) {
    const svg = sheetOf(made);
    const parts = [];
    regions.forEach((region) => {
      const points = region.corners.map((corner) => toScreen(corner, made));
      const text = points.map((point) => point.map((value) => value.toFixed(1)).join(",")).join(" ");
      const words = ["line", region === selected ? "selected" : "", region.crossed ? "crossed" : ""].join(" ");
      parts.push(element("polygon", { class: "under", points: text }));
      parts.push(element("polygon", { class: words, points: text, stroke: region.color, fill: region.color }));
      const [left, top] = points.reduce((best, point) => (point[1] < best[1] ? point : best));
      parts.push(element("text", { x: left, y: top - 8, "text-anchor": "middle" }, region.label));
    });
    if (selected && !tool) {
      const points = selected.corners.map((corner) => toScreen(corner, made));
      edges(points).forEach(([a, b]) => {
        if (distance(a, b) > 4 * NEAR) parts.push(element("circle", { class: "half", cx: (a[0] + b[0]) / 2, cy: (a[1] + b[1]) / 2, r: 4 }));
      });
      points.forEach(([x, y]) => parts.push(element("rect", { class: "corner", x: x - 4.5, y: y - 4.5, width: 9, height: 9 })));
    }
    const open = tool === "rectangle" && drag ? rectangle(drag.from, drag.to) : draft;
    if (open.length) {
      const ahead = tool === "polygon" && pointer ? [...open, pointer] : open;
      const text = ahead.map((corner) => toScreen(corner, made).join(",")).join(" ");
      const color = current ? current.color : "#000";
      const kind = tool === "polygon" ? "polyline" : "polygon";
      parts.push(element(kind, { class: "under", points: text }), element(kind, { class: "line", points: text, stroke: color, fill: color }));
      if (tool === "polygon") {
        const [x, y] = toScreen(open[0], made);
        parts.push(element("circle", { class: "corner", cx: x, cy: y, r: open.length > 2 ? 7 : 4 }));
      }
    }
    svg.replaceChildren(...parts);
  }

  function isDirty() {
    return plain() !== saved;
  }

  function plain() {
    return JSON.stringify(regions.map(({ id, label, color, corners }) => ({ id, label, color, corners })));
  }

  function panel() {
    const off = Boolean(fault);
    byId("draw-polygon").disabled = byId("draw-rectangle").disabled = off;
    byId("draw-polygon").setAttribute("aria-pressed", tool === "polygon");
    byId("draw-rectangle").setAttribute("aria-pressed", tool === "rectangle");
    byId("live").classList.toggle("drawing", Boolean(tool));
    byId("draw-undo").disabled = off || !(past.length || draft.length);
    byId("draw-save").disabled = off || busy || !isDirty();
    byId("draw-other").hidden = off;
    byId("region-count").textContent = regions.length ? `(${regions.length})${isDirty() ? " •" : ""}` : isDirty() ? "•" : "";
    byId("draw-status").textContent = fault || shownStatus || standing();
    byId("draw-status").classList.toggle("mark", off || /^(Not saved|The outline)/.test(shownStatus));
    byId("draw-classes").replaceChildren(...(off ? [] : classes.map(classButton)));
    byId("draw-list").replaceChildren(...regions.map(listed));
  }

  function standing() {
    if (tool === "polygon") return draft.length ? "Enter or a click on the first corner closes; Backspace takes one away." : "Click the first corner. Dragging still moves the slide.";
    if (tool === "rectangle") return "Drag from corner to corner.";
    if (selected) return "Drag corners, or dots for new ones; Shift+click removes a corner. A class below changes it.";
    if (isDirty()) return `Not yet saved in ${file}. Click an outline to change it.`;
    return regions.length ? `Saved in ${file}, next to the store.` : "Choose a class, then draw. Regions are saved next to the store and read by run --roi and training.";
  }

  function classButton(item) {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const chip = Object.assign(document.createElement("span"), { className: "chip" });
    chip.style.background = item.color;
    button.append(chip, item.name);
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", current === item);
    button.addEventListener("click", () => useClass(item));
    return button;
  }

  function listed(region) {
    const row = document.createElement("li");
    row.classList.toggle("selected", region === selected);
    const pick = Object.assign(document.createElement("button"), { type: "button", className: "pick" });
    const chip = Object.assign(document.createElement("span"), { className: "chip" });
    chip.style.background = region.color;
    pick.append(chip, region.label);
    pick.addEventListener("click", () => {
      select(region);
      show(region);
    });
    const found = Object.assign(document.createElement("span"), { className: "area", textContent: `${(area(region.corners) * mm2).toPrecision(3)} mm²` });
    const remove = Object.assign(document.createElement("button"), { type: "button", textContent: "✕" });
    remove.setAttribute("aria-label", `Delete the region ${region.label}`);
    remove.addEventListener("click", () => erase(region));
    row.append(pick, found, remove);
    return row;
  }

  function show(region) {
    const xs = region.corners.map((corner) => corner[0]);
    const ys = region.corners.map((corner) => corner[1]);
    const [x, y, width, height] = [Math.min(...xs), Math.min(...ys), Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys)];
    viewer.viewport.fitBounds(page.toView(x - width / 2, y - height / 2, 2 * width, 2 * height));
  }

  function update(words = "") {
    shownStatus = words;
    panel();
    drawAll();
  }

  // ---- changes

  function change(action) {
    past.push(plain());
    if (past.length > MAX_UNDO) past.shift();
    action();
    regions.forEach((region) => (region.crossed = crosses(region.corners)));
    update();
  }

  function undo() {
    if (draft.length) draft.pop();
    else if (past.length) {
      regions = JSON.parse(past.pop());
      selected = null;
    }
    update();
  }

  function useClass(item) {
    current = item;
    if (selected && selected.label !== item.name) change(() => Object.assign(selected, { label: item.name, color: item.color }));
    else update();
  }

  function classOf(name, color) {
    const known = classes.find((item) => item.name === name);
    if (known) return known;
    const free = SPARE.filter((value) => classes.every((item) => item.color !== value));
    const made = { name, color: color || free[0] || SPARE[classes.length % SPARE.length] };
    classes.push(made);
    return made;
  }

  function choose(wanted) {
    if (fault) return tab("regions");
    tool = tool === wanted ? null : wanted;
    draft = [];
    selected = null;
    tab("regions");
    update();
    viewer.canvas.focus({ preventScroll: true });
  }

  function add(corners) {
    if (!current) return update("Give it a class first: choose one, or write another.");
    const region = { id: newId(), label: current.name, color: current.color, corners };
    change(() => {
      regions.push(region);
      // not selected: a class chosen now is that of the next region
      [tool, draft] = [null, []];
    });
  }

  // crypto.randomUUID is missing where a page counts as insecure
  function newId() {
    const hex = [...crypto.getRandomValues(new Uint8Array(16))].map((byte, i) => (i === 6 ? (byte & 15) | 64 : i === 8 ? (byte & 63) | 128 : byte).toString(16).padStart(2, "0")).join("");
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  }

  function close() {
    if (draft.length < 3) return update("An area has three corners or more.");
    if (crosses(draft)) return update("The outline crosses itself. Take corners away with Backspace.");
    add(draft);
  }

  function erase(region) {
    change(() => {
      regions = regions.filter((other) => other !== region);
      if (selected === region) selected = null;
    });
  }

  function select(region) {
    selected = region;
    if (region) {
      current = classOf(region.label, region.color);
      tab("regions");
    }
    update();
  }

  function rectangle([x0, y0], [x1, y1]) {
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
  }

  // ---- pointer

  function place(event, made) {
    return clamp(page.slidePoint(event.position, made));
  }

  function listen(made) {
    made.addHandler("canvas-press", (event) => press(event, made));
    made.addHandler("canvas-drag", (event) => move(event, made));
    made.addHandler("canvas-drag-end", (event) => (event.preventDefaultAction = event.preventDefaultAction || wasDragged));
    made.addHandler("canvas-release", () => release());
    made.addHandler("canvas-double-click", (event) => {
      if (tool !== "polygon") return;
      event.preventDefaultAction = true; // no zoom
      if (draft.length > 2) close();
    });
    made.canvas.addEventListener("pointermove", (event) => {
      if (tool !== "polygon" || !draft.length) return;
      const edge = made.canvas.getBoundingClientRect();
      pointer = clamp(page.slidePoint(new OpenSeadragon.Point(event.clientX - edge.left, event.clientY - edge.top), made));
      drawAll();
    });
  }

  function press(event, made) {
    [drag, wasDragged] = [null, false];
    const at = [event.position.x, event.position.y];
    if (tool === "rectangle") drag = { from: place(event, made), to: place(event, made) };
    else if (!tool && selected) drag = grasp(at, made);
  }

  // the corner of the selected region under the pointer; or the dot between two, as a new corner
  function grasp(at, made) {
    const points = selected.corners.map((corner) => toScreen(corner, made));
    const corner = points.findIndex((point) => distance(point, at) <= NEAR);
    if (corner >= 0) return { corner, before: plain() };
    const half = edges(points).findIndex(([a, b]) => distance(a, b) > 4 * NEAR && distance([(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], at) <= NEAR);
    return half >= 0 ? { corner: half + 1, isNew: true, before: plain() } : null;
  }

  function move(event, made) {
    if (!drag) return;
    event.preventDefaultAction = true; // the slide stays
    const to = place(event, made);
    if (tool === "rectangle") drag.to = to;
    else {
      if (drag.isNew && !wasDragged) selected.corners.splice(drag.corner, 0, to);
      selected.corners[drag.corner] = to;
      selected.crossed = crosses(selected.corners);
    }
    wasDragged = true;
    drawAll();
  }

  function release() {
    const done = drag;
    drag = null;
    if (!done || !wasDragged) return;
    if (tool === "rectangle") {
      const corners = rectangle(done.from, done.to);
      if (area(corners) > 0) add(corners);
      else update();
      return;
    }
    past.push(done.before);
    update(selected.crossed ? "The outline crosses itself. Move or remove a corner." : "");
  }

  // whether a click is of drawing, and not on a patch
  page.state.takesClick = (event, made) => {
    const at = [event.position.x, event.position.y];
    if (tool === "rectangle") return true;
    if (tool === "polygon") {
      const points = draft.map((corner) => toScreen(corner, made));
      if (points.length > 2 && distance(points[0], at) <= NEAR) close();
      else if (!points.length || distance(points[points.length - 1], at) > 3) {
        pointer = place(event, made);
        draft.push(pointer);
        update();
      }
      return true;
    }
    if (selected) {
      const corner = selected.corners.findIndex((known) => distance(toScreen(known, made), at) <= NEAR);
      if (corner >= 0) {
        if (event.originalEvent.shiftKey && selected.corners.length > 3) change(() => selected.corners.splice(corner, 1));
        return true;
      }
    }
    const near = (region) => edges(region.corners.map((known) => toScreen(known, made))).some(([a, b]) => toLine(at, a, b) <= NEAR);
    const found = [...regions].reverse().find(near) || null;
    if (found || selected) select(found);
    return Boolean(found);
  };

  // ---- the server

  async function load() {
    try {
      const answer = await fetch(SERVER, { credentials: "same-origin" });
      if (!answer.ok) throw new Error(await answer.text());
      const record = await answer.json();
      ({ regions, classes, revision, file, fault } = record);
    } catch (error) {
      fault = `The regions could not be loaded: ${error.message}`;
    }
    regions.forEach((region) => classOf(region.label, region.color));
    current = classes[0] || null;
    saved = plain();
    update();
    byId("live").dataset.draws = "true";
  }

  async function save() {
    if (fault || busy || !isDirty()) return;
    busy = true;
    const sent = plain();
    update("Saving …");
    let words = "";
    try {
      const answer = await fetch(SERVER, {
        method: "POST",
        credentials: "same-origin",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ revision, regions: JSON.parse(sent) }),
      });
      const record = await answer.json().catch(() => ({ error: `the viewer answered ${answer.status}` }));
      if (!answer.ok) throw new Error(record.error);
      revision = record.revision;
      saved = sent;
      words = [`Saved in ${file}, next to the store.`, ...record.notes].join(" ");
    } catch (error) {
      words = `Not saved: ${error instanceof TypeError ? "the viewer does not answer. Is wsikit view still running?" : error.message}`;
    }
    busy = false;
    update(words);
  }

  window.addEventListener("beforeunload", (event) => {
    if (isDirty() || draft.length) event.preventDefault();
  });

  // ---- keys and buttons

  function tab(name) {
    for (const known of ["patch", "regions"]) {
      byId(known).hidden = known !== name;
      byId(`tab-${known}`).setAttribute("aria-selected", known === name);
    }
    byId("live").classList.toggle("regions-open", name === "regions");
  }

  const KEYS = {
    d: () => choose("polygon"),
    r: () => choose("rectangle"),
    Enter: () => tool === "polygon" && (close(), true),
    Backspace: () => tool === "polygon" && draft.length && (undo(), true),
    Delete: () => selected && (erase(selected), true),
    Escape: () => (tool ? (choose(tool), true) : selected ? (select(null), true) : false),
  };

  document.addEventListener(
    "keydown",
    (event) => {
      const inField = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
      let action = null;
      if ((event.ctrlKey || event.metaKey) && !event.altKey) action = event.key === "s" ? save : event.key === "z" && !inField ? undo : null;
      else if (!page.isTyping(event) && !byId("keys").open) {
        // Enter on a button presses it
        const onButton = event.key === "Enter" && event.target.closest("button, a, summary");
        action = onButton || !Object.hasOwn(KEYS, event.key) ? null : KEYS[event.key];
      }
      if (!action || action() === false) return;
      event.preventDefault();
      event.stopImmediatePropagation();
    },
    { capture: true },
  );
  byId("draw-polygon").addEventListener("click", () => choose("polygon"));
  byId("draw-rectangle").addEventListener("click", () => choose("rectangle"));
  byId("draw-undo").addEventListener("click", undo);
  byId("draw-save").addEventListener("click", save);
  byId("tab-patch").addEventListener("click", () => tab("patch"));
  byId("tab-regions").addEventListener("click", () => tab("regions"));
  byId("draw-other").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("draw-class").value.trim().replace(/\s+/g, " ");
    if (name) useClass(classOf(name));
    byId("draw-class").value = "";
    viewer.canvas.focus({ preventScroll: true });
  });
  document.addEventListener("wsikit-pane", drawAll);
  drawAll();
  panel();
  await load();
})();
