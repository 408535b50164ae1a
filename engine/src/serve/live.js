"use strict";
// What the server adds to a report: how the run stands, told by events, and what is new in the report itself.
(() => {
  const STYLE = `
  #live{box-sizing:border-box;width:calc(100% - 48px);max-width:1132px;margin:16px auto 0;padding:14px 24px;border:1px solid light-dark(#dfe3e8,#2c323b);border-radius:14px;
    background:light-dark(#fff,#171a20);color:light-dark(#1a1d21,#e7eaee);font:15px/1.5 system-ui,sans-serif;font-variant-numeric:tabular-nums}
  #live .line{display:flex;flex-wrap:wrap;gap:4px 14px;align-items:baseline}
  #live .state{margin:0;padding:1px 10px;border-radius:99px;font-weight:600;background:light-dark(#e3f4ec,#12352a);color:light-dark(#0b7a55,#5ccfa1)}
  #live .state.failed,#live .state.stopped{background:light-dark(#fcebe2,#3f2114);color:light-dark(#b3471a,#f59a6d)}
  #live .state.running,#live .state.interrupted{background:light-dark(#fbf1d9,#3a2e0e);color:light-dark(#8a6100,#e0b54a)}
  #live a{color:light-dark(#0b5cad,#6cb0f5)}
  #live .soft{color:light-dark(#5b646e,#a0aab5)}
  #live .right{margin-left:auto}
  #live .all{display:flex;height:6px;margin:10px 0 4px;border-radius:3px;overflow:hidden;background:light-dark(#e8ebef,#2c323b)}
  #live .all i{background:light-dark(#0b5cad,#6cb0f5)}
  #live .all i.reused{background:light-dark(#b9d3ee,#2a4a6c)}
  #live .all i.failed{background:light-dark(#d55e00,#f59a6d)}
  #live ul{list-style:none;margin:8px 0 0;padding:0}
  #live li{display:grid;grid-template-columns:minmax(9em,2fr) minmax(60px,1fr) minmax(7em,auto) minmax(7em,auto) minmax(5em,auto);gap:0 14px;align-items:center}
  #live li>*{white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
  #live progress{width:100%;height:6px;accent-color:light-dark(#0b5cad,#6cb0f5)}
  #live .curves{display:flex;flex-wrap:wrap;gap:10px 18px;margin-top:10px}
  #live figure{margin:0}
  #live figcaption{font-size:12px;max-width:200px;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
  #live svg{display:block;width:200px;height:64px}
  #live path{fill:none;stroke:light-dark(#0b5cad,#6cb0f5);stroke-width:1.5;vector-effect:non-scaling-stroke}
  #live .failure{margin:6px 0 0;color:light-dark(#b3471a,#f59a6d);overflow-wrap:anywhere;display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;overflow:hidden}
  @media(max-width:640px){#live{width:calc(100% - 20px);margin-top:10px;padding:12px 14px}#live li{grid-template-columns:1fr auto;margin-bottom:6px}#live li>:first-child{grid-column:1/-1}#live li progress,#live li .metric{display:none}}
  @media print{#live{display:none}}`;

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  const time = (milliseconds) => {
    const seconds = Math.floor(milliseconds / 1000), two = (number) => String(number).padStart(2, "0");
    if (seconds < 60) return `${seconds}s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)}h ${two(Math.floor(seconds / 60) % 60)}m`;
    return `${Math.floor(seconds / 86400)}d ${two(Math.floor(seconds / 3600) % 24)}h`;
  };
  // No finer than it can be known.
  const rounded = (milliseconds) => time(milliseconds < 90000 ? Math.ceil(milliseconds / 5000) * 5000 : Math.ceil(milliseconds / 60000) * 60000)
    .replace(" 00s", "");
  const number = (value) => Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : value.toPrecision(4);

  const WORDS = {
    running: "running", done: "done", failed: "failed", interrupted: "interrupted: the same command goes on",
    stopped: "stopped: it was killed, or its machine is gone; the same command goes on",
  };

  function head(now) {
    const running = (now.doing || []).filter((one) => !one.waits_for).length;
    const waiting = (now.doing || []).length - running;
    const counts = [[now.reused, "cached"], [running, "running"], [waiting, "waiting"], [now.failed, "failed"], [now.skipped, "skipped"]];
    const told = counts.filter(([count]) => count > 0).map(([count, what]) => `, ${count} ${what}`).join("");
    const left = now.left ? `, ${now.left.at_least ? "more than" : "about"} ${rounded(now.left.milliseconds)} left` : "";
    return make("div", { class: "line" },
      make("strong", { class: `state ${now.status}` }, WORDS[now.status] || now.status),
      make("span", {}, `${now.ran + now.reused} of ${now.actions} done${told}`),
      make("span", { class: "soft right" }, now.elapsed === null ? "" : `${time(now.elapsed)}${left}`),
      make("a", { href: "../../../" }, "all runs"));
  }

  function bar(now) {
    const part = (kind, count) => make("i", { class: kind, style: `width:${100 * count / Math.max(1, now.actions)}%` });
    return make("div", { class: "all", role: "img", "aria-label": `${now.ended} of ${now.actions} actions have ended` },
      part("reused", now.reused), part("ran", now.ran), part("failed", now.failed + now.skipped));
  }

  function row(one) {
    const steps = one.steps && one.steps.total > 0 ? one.steps : null;
    const progress = steps ? make("progress", { max: steps.total, value: steps.done, "aria-label": one.name }) : make("span");
    const told = one.waits_for ? `waits for ${one.waits_for}` : steps ? `${steps.done}/${steps.total} ${steps.unit}` : "";
    return make("li", {}, make("span", { title: one.name }, one.name), progress, make("span", { class: "soft" }, told),
      make("span", { class: "soft metric" }, one.metric ? `${one.metric[0]} ${number(one.metric[1])}` : ""),
      make("span", { class: "soft" }, one.left ? `${rounded(one.left)} left` : time(one.elapsed)));
  }

  function curve({ name, curve, points }) {
    const known = points.filter(([, value]) => value !== null);
    const [xs, ys] = [known.map(([x]) => x), known.map(([, y]) => y)];
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const at = ([x, y]) => `${(196 * (x - left) / (right - left || 1) + 2).toFixed(1)} ${(60 - 56 * (y - low) / (high - low || 1)).toFixed(1)}`;
    const drawing = svg("svg", { viewBox: "0 0 200 64", role: "img", "aria-label": `${curve} of ${name}, from ${number(ys[0])} to ${number(ys.at(-1))}` });
    drawing.append(svg("path", { d: `M${known.map(at).join("L")}` }));
    return make("figure", {}, make("figcaption", { class: "soft", title: name }, `${name}: ${curve} ${number(ys.at(-1))}`), drawing);
  }

  const strip = make("aside", { id: "live", "aria-label": "How the run stands" });
  const said = make("p", { "aria-live": "polite", style: "position:absolute;left:-9999px" });
  document.head.append(make("style", {}, STYLE));
  document.body.prepend(strip, said);

  let status = null;
  function show(now) {
    if (now.status !== status) said.textContent = WORDS[now.status] || now.status;
    status = now.status;
    const parts = [head(now)];
    if (now.status === "running" || now.status === "stopped") parts.push(bar(now));
    if (now.doing && now.doing.length > 0) {
      const rest = now.doing.length - 12;
      parts.push(make("ul", {}, ...now.doing.slice(0, 12).map(row)));
      if (rest > 0) parts.push(make("p", { class: "soft" }, `and ${rest} more`));
    }
    const curves = now.curves.filter(({ points }) => points.filter(([, value]) => value !== null).length > 1);
    if (curves.length > 0) parts.push(make("div", { class: "curves" }, ...curves.map(curve)));
    // All of them, and the whole of each, stand in the report.
    parts.push(...now.failures.slice(0, 4).map(({ name, message }) => make("p", { class: "failure" }, `${name}: ${message}`)));
    if (now.failures.length > 4) parts.push(make("p", { class: "soft" }, `and ${now.failures.length - 4} more that failed`));
    strip.replaceChildren(...parts);
  }

  // Parts that need nothing but their text are replaced where they are; the others when the run has ended.
  const STILL = ["tissue", "confusion"];
  let fetching = false, again = false;
  async function refresh() {
    if (fetching) { again = true; return; }
    fetching = true;
    try {
      const answer = await fetch(location.pathname);
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        const [head, ownHead] = [fresh, document].map((page) => page.querySelector("body > header"));
        if (head && ownHead) ownHead.replaceChildren(...document.importNode(head, true).childNodes);
        let before = null;
        for (const part of fresh.querySelectorAll("main > section")) {
          const own = document.getElementById(part.id), last = before;
          before = part.id;
          if (!own && last) document.getElementById(last).after(document.importNode(part, true));
          else if (!own) document.querySelector("main").prepend(document.importNode(part, true));
          else if (!STILL.includes(part.id) && own.innerHTML !== part.innerHTML && !own.contains(document.activeElement)) own.replaceWith(document.importNode(part, true));
          else continue;
          const placed = document.getElementById(part.id);
          if (typeof sortable === "function") placed.querySelectorAll("table.sortable").forEach(sortable);
          if (typeof keyed === "function") placed.querySelectorAll("svg.fig").forEach(keyed);
          if (part.id === "workflow" && typeof graphs === "function") graphs();
        }
      }
    } catch { /* The events tell that the server is gone. */ }
    // What comes at once is shown at once, and what comes all the time every few seconds.
    setTimeout(() => { fetching = false; if (again) { again = false; refresh(); } }, 3000);
  }

  const events = new EventSource("events");
  let ended = null;
  events.addEventListener("now", ({ data }) => show(JSON.parse(data)));
  events.addEventListener("results", refresh);
  events.addEventListener("end", () => {
    events.close();
    // A page that saw it run shows everything that it gave.
    if (ended === false) location.reload();
  });
  events.addEventListener("now", ({ data }) => { ended = ended ?? JSON.parse(data).status !== "running"; });
  events.addEventListener("error", () => {
    if (events.readyState !== EventSource.CLOSED && status !== null) said.textContent = "The server does not answer; this page tries again.";
    strip.style.opacity = events.readyState === EventSource.OPEN ? "" : ".6";
  });
  events.addEventListener("open", () => { strip.style.opacity = ""; });
})();
