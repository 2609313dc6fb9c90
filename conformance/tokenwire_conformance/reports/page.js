"use strict";
document.documentElement.classList.add("js");
addEventListener("DOMContentLoaded", () => {
  const boxes = [...document.querySelectorAll(".filter input")];
  const items = [...document.querySelectorAll("[data-status]")];
  const apply = () => {
    const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    for (const item of items) item.hidden = !shown.has(item.dataset.status);
  };
  const reveal = () => {
    const item = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!item) return;
    item.hidden = false;
    const details = item.querySelector("details");
    if (details) details.open = true;
    item.scrollIntoView();
  };
  for (const box of boxes) box.addEventListener("change", apply);
  addEventListener("hashchange", reveal);
  apply();
  reveal();
});
