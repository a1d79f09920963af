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

  // Key of a row: of numbers their value, else the text.
  const inOrder = (up) => ([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // unknown last, both ways
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return up ? order : -order;
  };
  function mark(header) {
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    return up;
  }
  function sort(header, column) {
    const up = mark(header);
    const body = header.closest("table").tBodies[0];
    const key = (row) => row.children[column].dataset.v ?? row.children[column].textContent;
    const rows = [...body.rows].map((row) => [key(row), row]).sort(inOrder(up));
    body.append(...rows.map(([, row]) => row));
  }

  // A long table: all its rows as data, one page of them as HTML.
  function paged(table, place, data) {
    const size = Number(place.dataset.size);
    let rows = data;
    let first = 0;
    function cellOf(tag, text, set) {
      const node = document.createElement(tag);
      if (text !== undefined) node.textContent = text;
      return Object.assign(node, set);
    }
    function rowOf([cell, colour, failed, status, reason, ...numbers]) {
      const row = cellOf("tr", undefined, failed ? { className: "failed" } : {});
      row.dataset.cell = cell;
      const name = cellOf("td");
      const swatch = cellOf("i", undefined, { className: "swatch" });
      swatch.style.background = `var(--${colour})`;
      name.append(swatch, cellOf("code", cell));
      row.append(name, cellOf("td", status, { className: "text", title: reason }));
      for (let i = 0; i < numbers.length; i += 2) {
        const node = cellOf("td", numbers[i + 1]);
        node.dataset.v = numbers[i];
        row.append(node);
      }
      return row;
    }
    function turn(to) {
      first = Math.max(0, Math.min(to, Math.floor((rows.length - 1) / size) * size));
      table.tBodies[0].replaceChildren(...rows.slice(first, first + size).map(rowOf));
      const last = Math.min(first + size, rows.length);
      place.firstElementChild.textContent = `rows ${first + 1}–${last} of ${rows.length}`;
    }
    const buttons = [["← previous", -size], ["next →", size]].map(([text, step]) => {
      const button = cellOf("button", text, { type: "button", className: "screen" });
      button.addEventListener("click", () => turn(first + step));
      return button;
    });
    place.firstElementChild.after(...buttons);
    return (header, column) => {
      const up = mark(header);
      const at = column < 2 ? 3 * column : 5 + 2 * (column - 2);
      rows = data.map((row) => [row[at], row]).sort(inOrder(up)).map(([, row]) => row);
      turn(0);
    };
  }

  const stored = document.getElementById("all-runs");
  const place = document.getElementById("pages");
  for (const table of document.querySelectorAll("table")) {
    const mine = stored && table.parentNode === stored.parentNode;
    const by = mine ? paged(table, place, JSON.parse(stored.textContent)) : sort;
    for (const button of table.querySelectorAll("th button")) {
      const header = button.parentNode;
      const column = [...header.parentNode.children].indexOf(header);
      button.addEventListener("click", () => by(header, column));
    }
  }
})();
