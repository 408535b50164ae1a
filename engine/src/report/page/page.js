"use strict";
// What the page does beyond showing: sorting, choosing, maps. Without it everything but the maps can be read.
const page = document.documentElement;
page.dataset.errors = "0";
const failed = () => { page.dataset.errors = String(Number(page.dataset.errors) + 1); };
addEventListener("error", failed);
addEventListener("unhandledrejection", failed);
addEventListener("securitypolicyviolation", failed);
const $ = (id) => document.getElementById(id);

// --- tables: a click or a key on a head sorts; once more turns round ---
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const value = (row, column) => {
    const text = row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const number = head.classList.contains("number");
    const was = head.getAttribute("aria-sort");
    const up = was ? was === "descending" : !number;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  }));
}

// --- curves: a key that is pointed at, or focused, dims the others ---
function keyed(svg) {
  const show = (series) => svg.querySelectorAll("[data-series]").forEach((part) => {
    part.classList.toggle("faded", series !== null && part.dataset.series !== series);
  });
  svg.querySelectorAll(".key").forEach((key) => {
    key.setAttribute("tabindex", "0");
    for (const on of ["mouseenter", "focus"]) key.addEventListener(on, () => show(key.dataset.series));
    for (const off of ["mouseleave", "blur"]) key.addEventListener(off, () => show(null));
  });
}

// --- confusion: two variants side by side ---
function confusion() {
  const choose = document.querySelector("[data-choose=confusion]");
  const figures = [...document.querySelectorAll("#confusion-figures > figure")];
  if (!choose || figures.length < 2) return;
  choose.hidden = false;
  const selects = [...choose.querySelectorAll("select")];
  const show = () => {
    const wanted = selects.map((select) => select.value);
    figures.forEach((figure) => { figure.hidden = !wanted.includes(figure.dataset.index); });
    const first = figures.find((figure) => figure.dataset.index === wanted[0]);
    first.parentElement.prepend(first);
  };
  selects.forEach((select) => select.addEventListener("change", show));
  show();
}

// --- a graph that is wider than the page: first what comes first ---
function graphs() {
  for (const part of document.querySelectorAll(".scroll.graph")) {
    const first = part.querySelector(".rg-box");
    if (!first) continue;
    const [box, all] = [first.getBoundingClientRect(), part.getBoundingClientRect()];
    part.scrollLeft += box.left + box.width / 2 - all.left - all.width / 2;
  }
}

// --- where in the page one is ---
function spy() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) entry.isIntersecting ? seen.add(entry.target.id) : seen.delete(entry.target.id);
    const first = [...links.keys()].find((id) => seen.has(id));
    links.forEach((link, id) => id === first ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
  }, { rootMargin: "-20% 0px -60% 0px" });
  document.querySelectorAll("main > section").forEach((section) => watch.observe(section));
}

// --- maps ---
const RIGHT = "#c9d3dc", WRONG = "#d55e00", NONE = 255;
const VIRIDIS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
function shade(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const below = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mix = VIRIDIS[below].map((from, i) => Math.round(from + (VIRIDIS[below + 1][i] - from) * (place - below)));
  return `rgb(${mix.join(" ")})`;
}
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
const picture = (address) => new Promise((done) => {
  if (!address) return done(null);
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = () => { failed(); done(null); };
  image.src = address;
});

async function maps() {
  const data = $("map-data") && JSON.parse($("map-data").textContent);
  if (!data) return;
  $("maps").hidden = false;
  const kept = new Map();
  const once = (key, make) => { if (!kept.has(key)) kept.set(key, make()); return kept.get(key); };
  const sectionOf = (place) => once(`s${place}`, async () => {
    const raw = data.sections[place];
    const [spots, x, y, truth, image] =
      await Promise.all([unpack(raw.spots), unpack(raw.x), unpack(raw.y), unpack(raw.truth), picture(raw.image)]);
    const along = (bytes, size) => Float32Array.from(new Uint16Array(bytes.buffer), (value) => value / 65535 * size);
    return { ...raw, spots: new TextDecoder().decode(spots).split("\n"), x: along(x, raw.size[0]), y: along(y, raw.size[1]), truth, image };
  });
  const judged = () => data.judges[$("map-judge") ? $("map-judge").value : 0];
  // What is said are regions, or clusters: `[name, colour, which region it mostly is]`.
  const saidOf = (judge, variant, section) => once(`v${data.judges.indexOf(judge)}/${variant}/${section}`, async () => {
    const raw = judge.variants[variant].sections[section];
    if (!raw) return null;
    const [predicted, p, agreement] = await Promise.all([unpack(raw.predicted), unpack(raw.p), unpack(raw.agreement)]);
    const clusters = raw.clusters ?? null;
    return { predicted, p, agreement, clusters, classes: clusters ?? data.regions };
  });
  // The region that is said of a spot.
  const meant = (spot) => said.clusters && said.predicted[spot] !== NONE ? said.clusters[said.predicted[spot]][2] : said.predicted[spot];

  const panels = ["annotated", "predicted", "errors", "uncertainty"].map((kind) => {
    const figure = document.createElement("figure");
    figure.className = "panel";
    const caption = document.createElement("figcaption");
    const note = document.createElement("span");
    caption.append(kind[0].toUpperCase() + kind.slice(1), note);
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    figure.append(caption, canvas);
    $("map-panels").append(figure);
    return { kind, canvas, note, figure };
  });
  const bar = document.createElement("div");
  bar.className = "bar";
  const gradient = document.createElement("i");
  gradient.style.background = `linear-gradient(90deg, ${[0, .2, .4, .6, .8, 1].map(shade).join(",")})`;
  bar.append("sure", gradient, "unsure");
  panels[3].figure.append(bar);

  let section, said, view = { zoom: 1, x: 0, y: 0 }, at = -1, only = null, asked = 0;
  const doubt = (spot) => {
    if (!said || said.predicted[spot] === NONE) return null;
    if ($("map-doubt").value === "votes") return 1 - said.agreement[spot] / 100;
    let most = 0, sum = 0, bits = 0;
    const count = said.classes.length;
    for (let i = 0; i < count; i++) sum += said.p[i * section.count + spot];
    for (let i = 0; i < count; i++) {
      const p = said.p[i * section.count + spot] / (sum || 1);
      most = Math.max(most, p);
      if (p > 0) bits -= p * Math.log(p);
    }
    return $("map-doubt").value === "rest" ? 1 - most : count > 1 ? bits / Math.log(count) : 0;
  };
  const region = (place) => place === NONE ? null : data.regions[place][1];
  const colour = {
    annotated: (spot) => region(section.truth[spot]),
    predicted: (spot) => said && said.predicted[spot] !== NONE ? said.classes[said.predicted[spot]][1] : null,
    errors: (spot) => !said || said.predicted[spot] === NONE || section.truth[spot] === NONE ? null
      : meant(spot) === section.truth[spot] ? RIGHT : WRONG,
    uncertainty: (spot) => { const value = doubt(spot); return value === null ? null : shade(value); },
  };
  // Spots that are not of the region that was chosen in the legend, by what is annotated or said; or not of the cluster.
  const dimmed = (kind, spot) => {
    if (only === null) return false;
    if (only.cluster) return !said || said.predicted[spot] !== only.place;
    return (kind === "predicted" && said && !said.clusters ? said.predicted[spot] : section.truth[spot]) !== only.place;
  };

  function draw() {
    if (!section) return;
    const [width, height] = section.size;
    for (const { kind, canvas } of panels) {
      const across = canvas.clientWidth || 300;
      const dense = Math.min(devicePixelRatio || 1, 2) * (matchMedia("print").matches ? 2 : 1);
      canvas.width = Math.round(across * dense);
      canvas.height = Math.round(across * dense * height / width);
      const scale = canvas.width / width * view.zoom;
      const pen = canvas.getContext("2d");
      pen.fillStyle = "#ffffff";
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.setTransform(scale, 0, 0, scale, -view.x * scale, -view.y * scale);
      if (section.image) {
        pen.globalAlpha = $("map-image").value / 100;
        pen.drawImage(section.image, 0, 0, width, height);
      }
      const strength = $("map-spots").value / 100;
      pen.lineWidth = Math.max(section.radius * .12, .6 / scale);
      for (let spot = 0; spot < section.count; spot++) {
        const fill = colour[kind](spot);
        pen.globalAlpha = fill ? strength * (dimmed(kind, spot) ? .12 : 1) : .5;
        pen.beginPath();
        pen.arc(section.x[spot], section.y[spot], section.radius * (fill ? 1 : .55), 0, 7);
        if (fill) { pen.fillStyle = fill; pen.fill(); } else { pen.strokeStyle = "#7b858f"; pen.stroke(); }
      }
      if (at >= 0) {
        pen.globalAlpha = 1;
        for (const [ink, extra] of [["#ffffff", 2.6], ["#000000", 1.2]]) {
          pen.strokeStyle = ink;
          pen.lineWidth = extra * dense / scale;
          pen.beginPath();
          pen.arc(section.x[at], section.y[at], section.radius * 1.25, 0, 7);
          pen.stroke();
        }
      }
      pen.setTransform(1, 0, 0, 1, 0, 0);
    }
  }

  const swatch = (colour) => {
    const box = document.createElement("span");
    box.className = "swatch";
    box.style.background = colour;
    return box;
  };
  const bold = (text) => { const b = document.createElement("b"); b.textContent = text; return b; };
  function tell() {
    const out = $("map-readout");
    if (at < 0) return;
    const name = (place) => place === NONE ? "none" : data.regions[place][0];
    const line = [bold(section.spots[at]), " · annotated "];
    const mark = (place) => place === NONE ? [] : [swatch(region(place))];
    line.push(...mark(section.truth[at]), name(section.truth[at]));
    if (said && said.predicted[at] !== NONE) {
      const own = said.classes[said.predicted[at]];
      line.push(said.clusters ? " · cluster " : " · predicted ", swatch(own[1]), bold(own[0]));
      if (said.clusters && own[2] !== NONE) line.push(`, mostly ${name(own[2])}`);
      line.push(` · uncertainty ${doubt(at).toFixed(2)}`);
      line.push(document.createElement("br"));
      const shares = [...said.classes.keys()].map((i) => [i, said.p[i * section.count + at] / 100]).sort((a, b) => b[1] - a[1]);
      for (const [place, share] of shares.filter(([, share]) => share >= .005)) {
        const part = document.createElement("span");
        part.className = "p";
        part.append(swatch(said.classes[place][1]), `${said.classes[place][0]} ${share.toFixed(2)}`);
        line.push(part, " ");
      }
    } else line.push(" · not judged");
    out.replaceChildren(...line);
  }
  function score() {
    let right = 0, all = 0;
    if (said) for (let spot = 0; spot < section.count; spot++) {
      if (said.predicted[spot] !== NONE && section.truth[spot] !== NONE) { all++; right += meant(spot) === section.truth[spot]; }
    }
    const name = judged().variants[$("map-variant").value].name;
    const spots = judged().clusters ? "annotated spots in a cluster that is mostly of their region" : "annotated held-out spots right";
    $("map-score").replaceChildren(bold(section.name), " by ", bold(name),
      all ? `: ${right} of ${all} ${spots} (${(100 * right / all).toFixed(1)} %)` : ": no judged spot that is annotated");
    for (const panel of panels) {
      panel.canvas.setAttribute("aria-label", `${section.name}, ${panel.kind}${panel.kind === "annotated" ? "" : `, ${name}`}: ${$("map-score").textContent}. Arrow keys go from spot to spot.`);
    }
    panels[2].note.textContent = all ? `${all - right} of ${all}` : "";
    // k-means is never unsure: that is no finding.
    const sure = said && $("map-doubt").value !== "votes" && said.predicted.some((place) => place !== NONE) && said.p.every((p) => p === 0 || p === 100);
    panels[3].note.textContent = sure ? "it gives no probabilities" : $("map-doubt").selectedOptions[0].textContent;
  }
  // Regions, and clusters where there are some; one that is pressed dims the others.
  function legend() {
    if (only?.cluster && !(said && said.clusters)) only = null;
    const item = (name, ink, place, cluster) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      const is = () => only !== null && only.place === place && only.cluster === cluster;
      button.setAttribute("aria-pressed", String(is()));
      button.append(swatch(ink), name);
      button.addEventListener("click", () => {
        only = is() ? null : { place, cluster };
        [...$("map-legend").querySelectorAll("button")].forEach((other) => other.setAttribute("aria-pressed", String(other === button && only !== null)));
        draw();
      });
      item.append(button);
      return item;
    };
    const clusters = (said && said.clusters) || [];
    $("map-legend").replaceChildren(...data.regions.map(([name, ink], place) => item(name, ink, place, false)),
      ...clusters.map(([name, ink], place) => item(`cluster ${name}`, ink, place, true)));
  }
  async function load(fresh) {
    const own = ++asked;
    const [place, variant] = [Number($("map-section").value), Number($("map-variant").value)];
    const [a, b] = await Promise.all([sectionOf(place), saidOf(judged(), variant, place)]);
    if (own !== asked) return;
    [section, said] = [a, b];
    legend();
    if (fresh) { view = { zoom: 1, x: 0, y: 0 }; at = -1; }
    score(); tell(); draw();
  }

  const clamp = () => {
    const [width, height] = section.size;
    view.zoom = Math.min(Math.max(view.zoom, 1), 24);
    view.x = Math.min(Math.max(view.x, 0), width - width / view.zoom);
    view.y = Math.min(Math.max(view.y, 0), height - height / view.zoom);
    for (const { canvas } of panels) canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
  };
  const zoom = (factor, x = view.x + section.size[0] / view.zoom / 2, y = view.y + section.size[1] / view.zoom / 2) => {
    const before = view.zoom;
    view.zoom = Math.min(Math.max(before * factor, 1), 24);
    view.x = x - (x - view.x) * before / view.zoom;
    view.y = y - (y - view.y) * before / view.zoom;
    clamp(); draw();
  };
  const point = (canvas, event) => {
    const box = canvas.getBoundingClientRect();
    const scale = section.size[0] / view.zoom / box.width;
    return [view.x + (event.clientX - box.left) * scale, view.y + (event.clientY - box.top) * scale];
  };
  const nearest = (x, y, fits = () => true) => {
    let best = -1, least = Infinity;
    for (let spot = 0; spot < section.count; spot++) {
      const distance = Math.hypot(section.x[spot] - x, section.y[spot] - y);
      if (distance < least && fits(spot)) { best = spot; least = distance; }
    }
    return [best, least];
  };
  const go = (dx, dy) => {
    if (at < 0) at = nearest(view.x + section.size[0] / view.zoom / 2, view.y + section.size[1] / view.zoom / 2)[0];
    else {
      // The nearest one within 45° of the direction.
      const ahead = (spot) => {
        const [x, y] = [section.x[spot] - section.x[at], section.y[spot] - section.y[at]];
        const along = x * dx + y * dy;
        return along > 0 && along >= Math.abs(x * dy - y * dx) - 1e-6;
      };
      const [next] = nearest(section.x[at], section.y[at], ahead);
      if (next >= 0) at = next;
    }
    if (at < 0) return;
    const [w, h] = section.size.map((size) => size / view.zoom);
    if (section.x[at] < view.x || section.x[at] > view.x + w) view.x = section.x[at] - w / 2;
    if (section.y[at] < view.y || section.y[at] > view.y + h) view.y = section.y[at] - h / 2;
    clamp(); tell(); draw();
  };
  for (const { canvas } of panels) {
    const down = new Map();
    canvas.addEventListener("pointermove", (event) => {
      if (!section) return;
      const before = down.get(event.pointerId);
      if (before && view.zoom > 1) {
        const scale = section.size[0] / view.zoom / canvas.getBoundingClientRect().width;
        if (down.size === 2) {
          const other = [...down].find(([id]) => id !== event.pointerId)[1];
          const reach = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY) || 1;
          zoom(reach(event) / reach(before), ...point(canvas, other));
        } else { view.x -= (event.clientX - before.clientX) * scale; view.y -= (event.clientY - before.clientY) * scale; clamp(); }
        down.set(event.pointerId, event);
        return draw();
      }
      const [spot, distance] = nearest(...point(canvas, event));
      const next = distance <= section.radius * 1.6 ? spot : -1;
      if (next !== at && next >= 0) { at = next; tell(); draw(); }
    });
    canvas.addEventListener("pointerdown", (event) => { down.set(event.pointerId, event); if (view.zoom > 1) canvas.setPointerCapture(event.pointerId); });
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) canvas.addEventListener(end, (event) => down.delete(event.pointerId));
    // Only with a key, or on a map that was chosen: else the page scrolls.
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 300), ...point(canvas, event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (moves[event.key]) go(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") zoom(1.5);
      else if (event.key === "-") zoom(1 / 1.5);
      else if (event.key === "0") { view = { zoom: 1, x: 0, y: 0 }; clamp(); draw(); }
      else return;
      event.preventDefault();
    });
  }
  $("map-in").addEventListener("click", () => zoom(1.6));
  $("map-out").addEventListener("click", () => zoom(1 / 1.6));
  $("map-whole").addEventListener("click", () => { view = { zoom: 1, x: 0, y: 0 }; clamp(); draw(); });
  $("map-judge")?.addEventListener("change", () => {
    // The same variant by the other judge, if that knows it.
    const name = $("map-variant").selectedOptions[0].textContent;
    $("map-variant").replaceChildren(...judged().variants.map((variant, place) => new Option(variant.name, place, false, variant.name === name)));
    // A section that it judges.
    const says = (place) => judged().variants.some((variant) => variant.sections[place]);
    const before = $("map-section").value;
    if (!says(before)) $("map-section").value = String(Math.max(data.sections.findIndex((_, place) => says(place)), 0));
    load($("map-section").value !== before);
  });
  $("map-section").addEventListener("change", () => load(true));
  $("map-variant").addEventListener("change", () => load(false));
  $("map-doubt").addEventListener("change", () => { score(); tell(); draw(); });
  for (const id of ["map-image", "map-spots"]) $(id).addEventListener("input", draw);
  new ResizeObserver(draw).observe($("map-panels"));
  addEventListener("beforeprint", draw);
  addEventListener("afterprint", draw);
  await load(true);
}

// --- whether all of it is there, for tests ---
function check() {
  const empty = [...document.querySelectorAll("main svg")].filter((svg) => {
    if (!svg.checkVisibility()) return false;
    const box = svg.getBBox();
    return !(box.width > 0 && box.height > 0);
  }).length;
  const blank = [...document.querySelectorAll("canvas")].filter((canvas) => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const first = pixels.subarray(0, 4).join();
    for (let i = 4; i < pixels.length; i += 4) if (pixels.subarray(i, i + 4).join() !== first) return false;
    return true;
  }).length;
  Object.assign(page.dataset, {
    figures: document.querySelectorAll("main svg").length,
    canvases: document.querySelectorAll("canvas").length,
    empty: empty + blank,
    requests: performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length,
    wide: Math.max(0, page.scrollWidth - page.clientWidth),
    drawn: "true",
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("main svg.fig").forEach(keyed);
confusion();
graphs();
spy();
maps().then(check);
