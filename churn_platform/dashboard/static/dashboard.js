// What pages do beyond showing what the server sent: charts, times in the viewer's time zone, and renewal while open.
// Every page works without it, except for charts, whose tables remain.
"use strict";

const TIMEOUT_MS = 20_000; // of a renewal; the server cancels its queries long before
const LONGEST_PAUSE_S = 30;
const roles = ["main", "second", "third", "good", "bad", "muted"];

// Times

const formats = {
  full: new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }),
  time: new Intl.DateTimeFormat(undefined, { timeStyle: "medium" }),
};
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

function ago(date) {
  const seconds = (date - Date.now()) / 1000;
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) return relative.format(Math.round(seconds / size), unit);
  }
  return relative.format(Math.round(seconds), "second");
}

function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const date = new Date(element.dateTime);
    const style = element.dataset.style;
    element.title = `${formats.full.format(date)} (${Intl.DateTimeFormat().resolvedOptions().timeZone})`;
    const text = style === "ago" ? ago(date) : (formats[style] ?? formats.full).format(date);
    if (element.textContent !== text) element.textContent = text;
  }
}

// Charts

function colors() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const found = {};
  for (const role of [...roles, "text", "soft", "line"]) {
    probe.style.color = `var(--${role})`;
    found[role] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
}

function colored(value, palette) {
  if (Array.isArray(value)) return value.map((each) => colored(each, palette));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) =>
    [name, name === "color" && each in palette ? palette[each] : colored(each, palette)]));
}

// Plotly shows a time as it is written, whatever its time zone. So each is written in the viewer's.
function local(value) {
  const date = new Date(value);
  return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, -1);
}

function inLocalTime(figure) {
  if (figure.layout.xaxis?.type !== "date") return figure;
  const data = figure.data.map((trace) => ({ ...trace, x: trace.x.map(local) }));
  const shapes = (figure.layout.shapes ?? []).map((shape) =>
    (shape.xref === "paper" ? shape : { ...shape, x0: local(shape.x0), x1: local(shape.x1) }));
  const annotations = (figure.layout.annotations ?? []).map((each) => ({ ...each, x: local(each.x) }));
  return { data, layout: { ...figure.layout, shapes, annotations } };
}

// Plotly has 4.7 MB, so it is loaded when the first chart comes into view, and not at all on pages without one.
let plotly = null;

function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/static/plotly.min.js";
    script.onload = resolve;
    script.onerror = () => {
      plotly = null; // the next chart tries again
      reject(new Error("The charts cannot be loaded. Their tables have the same figures."));
    };
    document.head.append(script);
  });
  return plotly;
}

async function draw(script) {
  try {
    await loadPlotly();
  } catch (error) {
    return report(error.message);
  }
  const place = document.getElementById(script.dataset.plot);
  if (!place || !script.isConnected) return; // the page was renewed meanwhile
  const palette = colors();
  const { data, layout } = colored(inLocalTime(JSON.parse(script.textContent)), palette);
  const axis = { gridcolor: palette.line, zerolinecolor: palette.line, automargin: true };
  Plotly.react(place, data, {
    ...layout,
    xaxis: { ...axis, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: palette.text, family: "system-ui, sans-serif", size: 13 },
    margin: { t: 24, r: 12, b: 40, l: 48 },
    legend: { orientation: "h", y: 1.15 },
    hoverlabel: { bgcolor: getComputedStyle(document.body).backgroundColor },
    dragmode: false,
  }, { displayModeBar: false, responsive: true, locale: "en" });
  place.dataset.drawn = "";
}

const visible = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    visible.unobserve(entry.target);
    const script = document.querySelector(`script[data-plot="${entry.target.id}"]`);
    if (script) draw(script);
  }
}, { rootMargin: "200px" });

function showCharts(root) {
  for (const script of root.querySelectorAll("script[data-plot]")) {
    const place = document.getElementById(script.dataset.plot);
    if (!place) continue;
    if ("drawn" in place.dataset) draw(script);
    else visible.observe(place);
  }
}

function drawAgain() {
  for (const place of document.querySelectorAll(".plot[data-drawn]")) {
    draw(document.querySelector(`script[data-plot="${place.id}"]`));
  }
}

// Renewal: the page is fetched again, and only what has changed is replaced. The next one begins after the last one has
// ended, so a slow server is not asked more often than it answers.

const fields = "input:not([type=hidden]), select, textarea";

// Whether somebody writes here, or has written something that was not sent yet.
function isBusy(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return false;
  return [node, ...node.querySelectorAll(fields)].some((each) => each.matches(fields) &&
    (each === document.activeElement || ("defaultValue" in each && each.value !== each.defaultValue)));
}

function renew(old, fresh) {
  if (old.isEqualNode(fresh) || old.hasAttribute?.("data-keep")) return;
  // Its hidden fields say what the form was made from. They stay with what was written.
  if (old.nodeName === "FORM" && isBusy(old)) return;
  const plain = old.nodeType !== Node.ELEMENT_NODE || old.nodeName !== fresh.nodeName || old.id !== fresh.id;
  const alike = !plain && old.childElementCount && old.childNodes.length === fresh.childNodes.length &&
    [...old.children].every((each, index) => each.id === fresh.children[index]?.id);
  const named = !plain && [...old.children, ...fresh.children].every((each) => each.id) && old.childElementCount;
  if (!alike && !named) {
    if (!isBusy(old)) old.replaceWith(fresh);
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (alike) {
    const pairs = [...old.childNodes].map((node, index) => [node, fresh.childNodes[index]]);
    for (const [node, other] of pairs) renew(node, other);
  } else renewNamed(old, fresh);
}

// Children that have ids, such as the rows of a list, come and go, and keep what is written in them.
function renewNamed(old, fresh) {
  const known = new Map([...old.children].map((each) => [each.id, each]));
  const wanted = new Set([...fresh.children].map((each) => each.id));
  for (const each of [...old.children]) {
    if (!wanted.has(each.id) && !isBusy(each)) each.remove();
  }
  let place = old.firstElementChild;
  for (const child of [...fresh.children]) {
    while (place && !wanted.has(place.id)) place = place.nextElementSibling;
    const same = known.get(child.id);
    if (same === place && place) place = place.nextElementSibling;
    else old.insertBefore(same ?? child, place);
    if (same) renew(same, child);
  }
}

function report(text) {
  const status = document.getElementById("status");
  if (status.textContent !== text) status.textContent = text;
}

async function fetchPage() {
  const answer = await fetch(location.href, { signal: AbortSignal.timeout(TIMEOUT_MS), redirect: "follow" });
  if (answer.redirected) return location.reload(); // the session has ended
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!answer.ok) {
    throw new Error(page.querySelector("#problem p")?.textContent.trim() || `The server answers ${answer.status}.`);
  }
  const main = document.getElementById("main");
  const fresh = page.getElementById("main");
  showTimes(fresh);
  if (main.querySelector("#problem")) main.replaceWith(fresh); // the page itself is back
  else {
    const focused = document.activeElement;
    renew(main, document.adoptNode(fresh));
    if (focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
  }
  document.title = page.title;
  document.body.dataset.refresh = page.body.dataset.refresh ?? "";
  showTimes(document);
  showCharts(document);
  report("");
}

async function keepFresh() {
  let pause = 0;
  while (document.body.dataset.refresh) {
    const seconds = Math.max(Number(document.body.dataset.refresh), pause);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    if (document.hidden) continue;
    try {
      await fetchPage();
      pause = 0;
    } catch (error) {
      const text = error.name === "TypeError" || error.name === "TimeoutError" ? "The server does not answer." : error.message;
      // A page that says itself that it has failed needs no second message about it.
      report(document.getElementById("problem") ? "" : `${text} The figures below are from before. Trying again.`);
      pause = Math.min(2 * Math.max(pause, 1), LONGEST_PAUSE_S);
    }
  }
}

// Controls

function theme() {
  const button = document.getElementById("theme");
  const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const show = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", document.documentElement.dataset.theme);
    } catch {
      // Storage is switched off: the choice is for this page.
    }
    show();
    drawAgain();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { show(); drawAgain(); });
  show();
}

// A filter applies as soon as something is chosen; its button is for those without a script.
function filters() {
  for (const form of document.querySelectorAll("form.filters")) {
    form.addEventListener("change", (event) => { if (event.target.matches("select")) form.requestSubmit(); });
    // Parameters without a value only make the address longer.
    form.addEventListener("formdata", (event) => {
      for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
    });
  }
}

theme();
filters();
showTimes(document);
showCharts(document);
keepFresh();
