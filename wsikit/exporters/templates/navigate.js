// Ways to move in a report: keys, slide and map next to each other, and the place in the address, so that a copied
// address opens at the same place. Coordinates in the address are level-0 px, the scale is µm per screen pixel.
(async function () {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const page = await window.wsikitPage;
  const { viewer, state } = page;
  const STEP = 0.15; // of the window, per arrow key
  let mapPane = null;
  let leader = viewer; // the pane that the reader moves; the other one follows
  let written = address();

  // ---- slide and map next to each other

  function isSplit() {
    return byId("live").classList.contains("split");
  }

  function split(on) {
    if (on === isSplit()) return;
    const { x, y, mpp } = page.place();
    if (on && !mapPane) {
      mapPane = page.addPane("viewer-map", {});
      [viewer, mapPane].forEach(link);
      mapPane.addOnceHandler("open", () => {
        follow(viewer, mapPane);
        document.dispatchEvent(new CustomEvent("wsikit-pane"));
      });
    }
    byId("live").classList.toggle("split", on);
    byId("split").setAttribute("aria-pressed", on);
    page.panes.forEach((view) => (view.hasMap = !on || view.viewer === mapPane));
    leader = viewer;
    [viewer, mapPane].forEach((made) => made.forceResize());
    if (on && !state.layer) page.showLayer(state.last);
    else page.showLayer(state.layer);
    requestAnimationFrame(() => {
      page.fit(x, y, mpp, true); // as it was: the window is half as wide, the scale is the same
      follow(viewer, mapPane);
      remember();
    });
  }

  function link(made) {
    const other = () => (made === viewer ? mapPane : viewer);
    ["canvas-enter", "canvas-press", "canvas-scroll", "canvas-key"].forEach((name) => made.addHandler(name, () => (leader = made)));
    ["animation", "update-viewport", "resize"].forEach((name) =>
      made.addHandler(name, () => {
        if (leader === made && isSplit()) follow(made, other());
      }),
    );
    made.canvas.addEventListener("pointermove", (event) => pointOut(event, made, other()));
    made.canvas.addEventListener("pointerleave", () => (cursor(other()).hidden = true));
  }

  function follow(from, to) {
    if (!to.viewport || !to.isOpen()) return;
    to.viewport.zoomTo(from.viewport.getZoom(true), null, true);
    to.viewport.panTo(from.viewport.getCenter(true), true);
  }

  // the same place in the other pane
  function pointOut(event, made, other) {
    if (!isSplit()) return;
    const edge = made.canvas.getBoundingClientRect();
    const ring = cursor(other);
    ring.hidden = false;
    ring.style.transform = `translate(${event.clientX - edge.left}px, ${event.clientY - edge.top}px)`;
  }

  function cursor(made) {
    return byId(made === viewer ? "cursor-slide" : "cursor-map");
  }

  // ---- the place in the address

  function address() {
    const { x, y, mpp } = page.place();
    const layer = state.layer ? encodeURIComponent(state.layer) : "none";
    return `#x=${Math.round(x)}&y=${Math.round(y)}&mpp=${Number(mpp.toPrecision(4))}&layer=${layer}${isSplit() ? "&split=1" : ""}`;
  }

  function remember() {
    const now = address();
    if (now === written) return; // the first view needs no address of its own
    written = now;
    history.replaceState(history.state, "", now);
  }

  function goToAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const number = (name) => (asked.has(name) && asked.get(name) !== "" ? Number(asked.get(name)) : NaN);
    const layer = asked.get("layer");
    if (layer === "none") page.showLayer(null);
    else if (page.data.layers.some((known) => known.key === layer)) page.showLayer(layer);
    if (asked.has("split") || isSplit()) split(asked.get("split") === "1");
    const [x, y, mpp] = ["x", "y", "mpp"].map(number);
    if (![x, y, mpp].every(Number.isFinite) || mpp <= 0) return;
    requestAnimationFrame(() => page.fit(x, y, mpp, true)); // after the panes have their size
  }

  // ---- keys

  function move(dx, dy) {
    const bounds = viewer.viewport.getBounds();
    viewer.viewport.panBy(new OpenSeadragon.Point(dx * STEP * bounds.width, dy * STEP * bounds.height));
    viewer.viewport.applyConstraints();
  }

  function zoom(factor) {
    viewer.viewport.zoomBy(factor);
    viewer.viewport.applyConstraints();
  }

  const KEYS = {
    ArrowLeft: () => move(-1, 0),
    ArrowRight: () => move(1, 0),
    ArrowUp: () => move(0, -1),
    ArrowDown: () => move(0, 1),
    "+": () => zoom(1.3),
    "=": () => zoom(1.3),
    "-": () => zoom(1 / 1.3),
    0: page.wholeSlide,
    s: () => split(!isSplit()),
    "?": () => help(),
  };

  function help() {
    const box = byId("keys");
    if (box.open) box.close();
    else box.showModal();
  }

  function keys(event) {
    if (page.isTyping(event) || (byId("keys").open && event.key !== "?")) return;
    // arrows scroll the page and choose among radio buttons, except where the slide has the focus
    if (event.key.startsWith("Arrow") && !event.target.closest(".pane")) return;
    const layer = /^[1-9]$/.test(event.key) && page.data.layers[Number(event.key) - 1];
    const action = layer ? () => page.showLayer(layer.key) : KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation(); // OpenSeadragon has keys of its own
    leader = viewer;
    action();
  }

  document.addEventListener("keydown", keys, { capture: true });
  byId("split").addEventListener("click", () => split(!isSplit()));
  byId("show-keys").addEventListener("click", help);
  byId("keys-close").addEventListener("click", help);
  viewer.addHandler("animation-finish", remember);
  document.addEventListener("wsikit-layer", remember);
  window.addEventListener("hashchange", goToAddress);
  if (location.hash) goToAddress();
  viewer.canvas.focus({ preventScroll: true });
  byId("live").dataset.navigates = "true";
})();
