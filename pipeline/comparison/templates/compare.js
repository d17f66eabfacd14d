"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const numeric = head.dataset.kind === "number";
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (!numeric) return falling ? y.localeCompare(x) : x.localeCompare(y);
        if (x === "" || y === "") return (x === "") - (y === "");
        return falling ? y - x : x - y;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
    });
  });
}
