// Sorts and filters the table of slides. The sort key is in each cell; rows without a value come last.
(function () {
  "use strict";
  const table = document.getElementById("slides");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const words = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  function key(row, column) {
    const cell = row.cells[column].dataset;
    if (cell.number !== undefined) return cell.number === "" ? null : Number(cell.number);
    return cell.key === "" ? null : cell.key;
  }

  function compare(a, b, rising) {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" ? a - b : words.compare(a, b);
    return rising ? order : -order;
  }

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      rows.sort((a, b) => compare(a[0], b[0], rising));
      body.append(...rows.map((pair) => pair[1]));
    });
  });

  const find = document.getElementById("find");
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    document.getElementById("found").textContent = wanted ? `${shown} of ${body.rows.length} shown` : "";
  });
})();
