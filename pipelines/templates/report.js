"use strict";
// Sorting and filtering of the score tables. Without this script the page is complete, only not sortable.
(() => {
  const compare = new Intl.Collator("en", { numeric: true }).compare;

  const value = (row, column) => {
    const cell = row.cells[column];
    const stated = cell.dataset.v;
    return stated === undefined ? cell.textContent.trim() : stated === "" ? null : Number(stated);
  };

  // missing values stay at the end in either direction
  const order = (a, b, direction) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return direction * (typeof a === "number" ? a - b : compare(a, b));
  };

  const sortable = (table) => {
    const headers = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const numeric = header.classList.contains("n");
        const now = header.getAttribute("aria-sort");
        const next = now === null ? (numeric ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", next);
        const direction = next === "ascending" ? 1 : -1;
        const rows = [...body.rows].map((row) => [value(row, column), row]);
        rows.sort(([a], [b]) => order(a, b, direction));
        body.append(...rows.map(([, row]) => row));
      });
    });
  };

  const filterable = (form, table) => {
    const [search, task, primary] = [form.querySelector("input[type=search]"), form.querySelector("select"), form.querySelector("input[type=checkbox]")];
    const rows = [...table.tBodies[0].rows];
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const apply = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const keep =
          (!task.value || row.dataset.task === task.value) &&
          (!primary.checked || "primary" in row.dataset) &&
          words.every((word) => texts.get(row).includes(word));
        row.hidden = !keep;
        shown += keep;
      }
      form.querySelector("output").textContent = `${shown} of ${rows.length} scores`;
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", apply);
    form.hidden = false;
    apply();
  };

  for (const section of document.querySelectorAll("section.scores")) {
    const table = section.querySelector("table.sortable");
    sortable(table);
    filterable(section.querySelector("form"), table);
  }
})();
