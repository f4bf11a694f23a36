"use strict";
(() => {
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const one = (what, within = document) => within.querySelector(what);

  // Curves: one cursor for all charts, and what they hold there.
  const training = one("#training");
  const charts = all(".charts .chart").map((figure) => {
    const data = JSON.parse(one("script", figure).textContent);
    return { figure, data, svg: one("svg", figure), cursor: one(".cursor", figure), told: one(".told", figure) };
  });
  let step = null;

  const nearest = (steps, wanted) => {
    let low = 0;
    let high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return low > 0 && wanted - steps[low - 1] < steps[low] - wanted ? low - 1 : low;
  };
  const number = (value, digits) =>
    value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

  const show = (chart) => {
    const { data, cursor, told } = chart;
    const [start, stop, last] = data.x;
    const x = start + (step / last) * (stop - start);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.classList.add("on");
    told.replaceChildren(`step ${number(step, 0)} `);
    const level = training.dataset.smoothing;
    for (const series of data.series) {
      const at = nearest(series.steps, step);
      if (series.steps.length === 0 || (series.dots && Math.abs(series.steps[at] - step) > last / 60)) continue;
      const value = (series[level] || series.values)[at];
      if (value === null) continue;
      const text = document.createElement("b");
      text.textContent = number(value, data.digits);
      told.append(series.name ? ` ${series.name} ` : " ", text);
    }
  };
  const go = (wanted) => {
    if (!charts.length) return;
    const { data } = charts[0];
    step = Math.max(0, Math.min(data.x[2], Math.round(wanted)));
    const steps = data.series[0].steps;
    if (steps.length) step = steps[nearest(steps, step)];
    charts.forEach(show);
  };
  const leave = () => {
    step = null;
    for (const { cursor, told } of charts) {
      cursor.classList.remove("on");
      told.replaceChildren();
    }
  };
  for (const { svg, data, told } of charts) {
    svg.addEventListener("pointermove", (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const [start, stop, last] = data.x;
      go(((place.x - start) / (stop - start)) * last);
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("focus", () => told.setAttribute("aria-live", "polite"));
    svg.addEventListener("blur", () => {
      told.removeAttribute("aria-live");
      leave();
    });
    svg.addEventListener("keydown", (event) => {
      const steps = charts[0].data.series[0].steps;
      const at = step === null ? steps.length - 1 : nearest(steps, step);
      const by = event.shiftKey ? 10 : 1;
      const to = { ArrowLeft: at - by, ArrowRight: at + by, Home: 0, End: steps.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      go(steps[Math.max(0, Math.min(steps.length - 1, to))]);
    });
  }
  for (const choice of all("[name=smoothing]")) {
    choice.addEventListener("change", () => {
      training.dataset.smoothing = choice.value;
    });
  }

  // Tables: a click on a head sorts, another the other way round; unknown values stay last.
  for (const button of all(".sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const table = button.closest("table");
      const column = [...head.parentNode.children].indexOf(head);
      const rising = head.getAttribute("aria-sort") !== "ascending";
      all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const body = one("tbody", table);
      const rows = [...body.rows].map((row) => ({ row, value: row.cells[column].dataset.value }));
      const order = button.dataset.kind === "number"
        ? (a, b) => a - b
        : (a, b) => a.localeCompare(b, "en", { numeric: true });
      rows.sort((a, b) => {
        if (!a.value || !b.value) return !a.value - !b.value;
        return (rising ? 1 : -1) * order(a.value, b.value);
      });
      body.append(...rows.map(({ row }) => row));
    });
  }

  // Pictures: enlarged, with the truth wiped over the rendering.
  const viewer = one("#viewer");
  const stage = one(".stage", viewer);
  const wipe = one("input", viewer);
  let row = null;
  let layer = "compare";

  const picture = (name) => row && one(`[data-layer="${name}"] img`, row);
  const copy = (name) => {
    const image = picture(name).cloneNode();
    image.draggable = false;
    return image;
  };
  const both = () => picture("truth") && picture("rendering");
  const paint = () => {
    if (layer === "compare" ? !both() : !picture(layer)) layer = picture("rendering") ? "rendering" : one("[data-layer]", row).dataset.layer;
    const wiping = layer === "compare";
    const [name, psnr, ssim] = row.cells;
    const scores = document.createElement("small");
    scores.textContent = `${psnr.textContent} dB, SSIM ${ssim.textContent}`;
    one("h3", viewer).replaceChildren(name.dataset.value, scores);
    const frame = document.createElement("div");
    frame.className = "frame";
    if (wiping) frame.append(copy("rendering"), copy("truth"), document.createElement("i"));
    else frame.append(copy(layer));
    const { width, height } = one("img", frame);
    stage.style.setProperty("--shape", height / width);
    stage.replaceChildren(frame);
    stage.classList.toggle("wiping", wiping);
    stage.style.setProperty("--at", `${wipe.value}%`);
    wipe.hidden = !wiping;
    one(".says", viewer).textContent = wiping ? "truth on the left, rendering on the right" : layer;
    for (const button of all(".choices button", viewer)) {
      const of = button.dataset.layer;
      button.hidden = of === "compare" ? !both() : !picture(of);
      button.setAttribute("aria-pressed", of === layer);
    }
  };
  const open = (of, name) => {
    row = of;
    layer = name === "truth" || name === "rendering" ? "compare" : name;
    paint();
    if (!viewer.open) viewer.showModal();
  };
  const move = (by) => {
    const rows = all("tr[data-view]", row.parentNode).filter((other) => one("img", other));
    row = rows[(rows.indexOf(row) + by + rows.length) % rows.length];
    paint();
  };
  for (const button of all(".thumb")) {
    button.addEventListener("click", () => open(button.closest("tr"), button.dataset.layer));
  }
  for (const button of all(".choices button", viewer)) {
    button.addEventListener("click", () => {
      layer = button.dataset.layer;
      paint();
    });
  }
  const slide = (percent) => {
    wipe.value = percent;
    stage.style.setProperty("--at", `${wipe.value}%`);
  };
  wipe.addEventListener("input", () => slide(wipe.value));
  stage.addEventListener("pointermove", (event) => {
    const frame = one(".wiping .frame", viewer);
    if (!frame) return;
    const box = frame.getBoundingClientRect();
    slide((100 * (event.clientX - box.left)) / box.width);
  });
  one(".close", viewer).addEventListener("click", () => viewer.close());
  one(".previous", viewer).addEventListener("click", () => move(-1));
  one(".next", viewer).addEventListener("click", () => move(1));
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.target === wipe) return;
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });

  // A dot leads to its row.
  for (const dot of all(".strip [data-view]")) {
    dot.addEventListener("click", () => {
      const found = all("tr[data-view]").find((other) => other.dataset.view === dot.dataset.view);
      if (!found) return;
      all(".marked").forEach((other) => other.classList.remove("marked"));
      found.classList.add("marked");
      found.scrollIntoView({ block: "center" });
    });
  }

  // On paper all is unfolded.
  addEventListener("beforeprint", () => all("details").forEach((fold) => { fold.open = true; }));
})();
