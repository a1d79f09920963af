"use strict";
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);

  // The tooltip replaces the browser's own; <title> stays for pages without scripts.
  for (const title of document.querySelectorAll(".run > title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  }

  const same = (cell) => document.querySelectorAll(`[data-cell="${CSS.escape(cell)}"]`);
  let hot = "";
  function heat(cell) {
    if (cell === hot) return;
    if (hot) for (const node of same(hot)) node.classList.remove("hot");
    if (cell) for (const node of same(cell)) node.classList.add("hot");
    document.body.classList.toggle("dim", Boolean(cell));
    hot = cell;
  }

  function show(event) {
    const run = event.target.closest ? event.target.closest("[data-cell]") : null;
    heat(run ? run.dataset.cell : "");
    tip.hidden = !(run && run.dataset.tip);
    if (tip.hidden) return;
    tip.textContent = run.dataset.tip;
    const box = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    const above = event.clientY - box.height - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 8 ? above : event.clientY + 16}px`;
  }
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  function sort(header) {
    const table = header.closest("table");
    const column = [...header.parentNode.children].indexOf(header);
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const key = (row) => row.children[column].dataset.v ?? row.children[column].textContent;
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // unknown last, both ways
      const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
      return up ? order : -order;
    });
    body.append(...rows.map(([, row]) => row));
  }
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.parentNode));
  }
})();
