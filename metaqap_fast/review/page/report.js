"use strict";
const body = document.querySelector("#rows tbody");
const rows = [...body.rows];
const field = name => document.getElementById(name);
const value = cell => {
  const text = (cell.dataset.value ?? cell.textContent).trim();
  if (text === "" || text === "–") return null;
  return cell.classList.contains("n") ? Number(text) : text.toLowerCase();
};

function filter() {
  const text = field("text").value.toLowerCase(), status = field("status").value;
  const low = field("low").value, high = field("high").value;
  let shown = 0;
  for (const row of rows) {
    const score = value(row.cells[1]);
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(text)
      || (status !== "" && row.cells[4].textContent !== status)
      || (low !== "" && (score === null || score < Number(low)))
      || (high !== "" && (score === null || score > Number(high)));
    shown += !row.hidden;
  }
  field("count").textContent = `${shown} of ${rows.length} shown`;
}

function sort(head) {
  const up = head.getAttribute("aria-sort") !== "ascending", column = head.cellIndex;
  for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const keyed = rows.map(row => [value(row.cells[column]), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);  // what has no value is always last
    return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
  });
  body.append(...keyed.map(([, row]) => row));
}

field("filter").addEventListener("input", filter);
field("filter").addEventListener("submit", event => event.preventDefault());
for (const button of document.querySelectorAll("#rows th button"))
  button.addEventListener("click", () => sort(button.parentNode));
filter();
