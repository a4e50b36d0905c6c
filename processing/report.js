"use strict";
// Lines: the cursor and the word that is sung follow the player; a word plays from its beginning.
for (const line of document.querySelectorAll(".line")) {
  const players = [...line.querySelectorAll("audio")], words = [...line.querySelectorAll(".word")];
  const cursor = line.querySelector(".cursor");
  let last = players[0];
  const show = () => {
    const time = last.currentTime;
    if (last.duration) { cursor.style.display = "block"; cursor.style.left = 100 * time / last.duration + "%"; }
    for (const word of words) word.classList.toggle("now", time >= +word.dataset.start && time < +word.dataset.end);
    if (!last.paused) requestAnimationFrame(show);
  };
  for (const player of players) {
    player.addEventListener("play", () => {
      for (const other of document.querySelectorAll("audio")) if (other !== player) other.pause();
      last = player;
      show();
    });
    player.addEventListener("seeked", () => { last = player; show(); });
  }
  for (const word of words) word.addEventListener("click", () => {
    last.currentTime = Math.max(0, +word.dataset.start - 0.05);
    last.play();
  });
}
// Tables: a heading sorts, once more turns round; empty cells stay last.
for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.querySelectorAll("thead th")], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", other === head ? (up ? "ascending" : "descending") : "none"));
    const key = row => { const cell = row.cells[column]; return "value" in cell.dataset ? cell.dataset.value : cell.textContent; };
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  }));
}
// Filter: which rows the sliders keep, and the words for construct_dataset.
const data = document.getElementById("rows-data");
if (data) {
  const rows = JSON.parse(data.textContent), stride = +data.dataset.stride;
  const sliders = [...document.querySelectorAll(".sliders input[type=range]")], copies = document.getElementById("f-copies");
  const kept = document.getElementById("kept"), expression = document.getElementById("expression"), copy = document.getElementById("copy");
  const hours = seconds => seconds >= 3600 ? (seconds / 3600).toFixed(1) + " h" : (seconds / 60).toFixed(1) + " min";
  const total = rows.reduce((sum, row) => sum + row[sliders.length], 0);
  const update = () => {
    const conditions = [];
    let left = rows;
    sliders.forEach((slider, column) => {
      const value = +slider.value, off = value === +slider.dataset.off, more = slider.dataset.wish === ">";
      const shown = String(+value.toPrecision(4));
      slider.nextElementSibling.textContent = off ? "any" : shown;
      if (off) return;
      conditions.push(`${slider.dataset.name} ${more ? ">=" : "<="} ${shown}`);
      left = left.filter(row => row[column] !== null && (more ? row[column] >= +shown : row[column] <= +shown));
    });
    if (copies.checked) {
      conditions.push("duplicate_of is None");
      left = left.filter(row => !row[sliders.length + 1]);
    }
    const seconds = left.reduce((sum, row) => sum + row[sliders.length], 0);
    kept.textContent = `keeps ${left.length * stride} of ${rows.length * stride} windows, ${hours(seconds * stride)} of ${hours(total * stride)}`;
    expression.textContent = conditions.length ? `--filter '${conditions.join(" and ")}'` : "no filter";
    copy.hidden = !conditions.length || !navigator.clipboard;
  };
  for (const input of [...sliders, copies]) input.addEventListener("input", update);
  copy.addEventListener("click", () => navigator.clipboard.writeText(expression.textContent));
  update();
}
