"use strict";
// The list of runs, looked at again every few seconds.
const $ = (id) => document.getElementById(id);
const cell = (name, ...children) => {
  const element = document.createElement(name);
  element.append(...children);
  return element;
};
const took = (milliseconds) => {
  if (milliseconds === null) return "";
  const seconds = milliseconds / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
};

function row(run) {
  const link = cell("a", run.workflow ?? "?");
  link.href = `run/${run.id}/`;
  link.title = run.path;
  const state = cell("span", run.status);
  state.className = `state ${run.status}`;
  const began = cell("time", new Date(run.time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }));
  began.dateTime = new Date(run.time).toISOString();
  const failed = run.failed > 0 ? `, ${run.failed} failed` : "";
  const head = cell("th", link);
  head.scope = "row";
  const line = cell("tr", head, cell("td", state), cell("td", began), cell("td", run.by ?? ""),
    cell("td", `${run.ran + run.reused} of ${run.actions}${failed}`), cell("td", took(run.milliseconds)));
  return line;
}

let shown = "";
async function look() {
  try {
    const answer = await fetch("runs.json");
    const text = await answer.text();
    $("lost").hidden = answer.ok;
    if (answer.ok && text !== shown) {
      shown = text;
      const runs = JSON.parse(text);
      $("none").hidden = runs.length > 0;
      $("runs").hidden = runs.length === 0;
      $("runs").tBodies[0].replaceChildren(...runs.map(row));
    }
  } catch {
    $("lost").hidden = false;
  }
  setTimeout(look, document.hidden ? 10000 : 2000);
}
look();
