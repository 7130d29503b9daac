"use strict";
const boxes = [...document.querySelectorAll(".filters input")];
const rows = [...document.querySelectorAll(".answers tbody tr")];
const shown = document.querySelector(".filters output");
function filter() {
  const wanted = boxes.filter((box) => box.checked).map((box) => box.value);
  let count = 0;
  for (const row of rows) {
    const kept = wanted.every((kind) => row.classList.contains(kind));
    row.classList.toggle("hidden", !kept);
    count += kept;
  }
  if (shown) shown.textContent = `${count} of ${rows.length} rows`;
}
for (const box of boxes) box.addEventListener("change", filter);
filter();
document.body.classList.add("tuned");
for (const side of document.querySelectorAll(".sides input")) {
  side.addEventListener("change", () => {
    document.body.classList.remove("tuned", "base", "mask");
    document.body.classList.add(side.value);
  });
}
