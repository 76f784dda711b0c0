// What pages do beyond showing what the server sent: charts, times in the viewer's time zone, and renewal while open.
// Every page works without it, except for charts, whose tables remain.
"use strict";

const TIMEOUT_MS = 20_000; // of a renewal; the server cancels its queries long before
const LONGEST_PAUSE_S = 30;
const NARROW_PX = 480; // of a chart, as on a phone
const LINE_LETTERS = 16; // in a line of a text in it
const roles = ["main", "second", "third", "good", "bad", "muted"];

// Times

// The pages are in English, and the server writes days as 24 Nov 2026. So times have the same form in every browser.
const formats = {
  full: new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" }),
  time: new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" }),
};
const relative = new Intl.RelativeTimeFormat("en-GB", { numeric: "auto" });
const DAY_MS = 86_400_000;
const dateAxis = {
  hoverformat: "%-d %b %Y, %H:%M",
  tickformatstops: [
    { dtickrange: [null, DAY_MS - 1], value: "%H:%M\n%-d %b %Y" },
    { dtickrange: [DAY_MS, "M1"], value: "%-d %b\n%Y" },
    { dtickrange: ["M1", null], value: "%b %Y" },
  ],
};

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
  for (const role of [...roles, "text", "soft", "line", "card"]) {
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
    [name, (name === "color" || name === "bgcolor") && each in palette ? palette[each] : colored(each, palette)]));
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
  const xaxis = { ...figure.layout.xaxis, range: figure.layout.xaxis.range.map(local) };
  return { data, layout: { ...figure.layout, xaxis, shapes, annotations } };
}

function inLines(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines[lines.length - 1];
    if (last && last.length + 1 + word.length > most) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines.join("<br>");
}

// On a narrow screen the names of horizontal bars leave little room for the bars and for the title below them. So they
// are smaller there, and take several lines where bars are as high as these.
function fitted(figure, width) {
  const { xaxis, yaxis, height } = figure.layout;
  if (width >= NARROW_PX || yaxis.autorange !== "reversed") return figure;
  const names = figure.data[0].y;
  const ticks = height ? { tickvals: names, ticktext: names.map((name) => inLines(name, LINE_LETTERS)) } : {};
  return { data: figure.data, layout: {
    ...figure.layout,
    xaxis: { ...xaxis, nticks: 4, title: { text: inLines(xaxis.title.text, LINE_LETTERS) } },
    yaxis: { ...yaxis, ...ticks, tickfont: { size: 11 } },
  } };
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

// What each place shows: the figure as the server sent it, and the width. Drawing takes Plotly about 50 ms, so a chart
// that has not changed is not drawn again.
const shown = new WeakMap();

function isCurrent(place, script) {
  const before = shown.get(place);
  return before !== undefined && before.figure === script.textContent && before.width === place.clientWidth;
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
  const figure = fitted(inLocalTime(JSON.parse(script.textContent)), place.clientWidth);
  const { data, layout } = colored(figure, palette);
  const axis = { gridcolor: palette.line, zerolinecolor: palette.line, automargin: true };
  Plotly.react(place, data, {
    ...layout,
    xaxis: { ...axis, ...(layout.xaxis?.type === "date" ? dateAxis : {}), ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: palette.text, family: "system-ui, sans-serif", size: 13 },
    margin: { t: 24, r: 12, b: 40, l: 48 },
    // At the lower edge, so that it covers neither the lines nor their notes, nor the title of the axis, however many
    // rows it takes. Plotly makes room for it there.
    legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom" },
    hoverlabel: { bgcolor: getComputedStyle(document.body).backgroundColor },
    dragmode: false,
  }, { displayModeBar: false, responsive: true, locale: "en" });
  place.dataset.drawn = "";
  shown.set(place, { figure: script.textContent, width: place.clientWidth });
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
    if (isCurrent(place, script)) place.dataset.drawn = "";
    else {
      delete place.dataset.drawn;
      visible.observe(place);
    }
  }
}

// A place keeps what is drawn in it when the page is renewed. What the server says of the chart is new.
function describe(place, fresh) {
  place.classList.toggle("tall", fresh.classList.contains("tall"));
  place.setAttribute("aria-label", fresh.getAttribute("aria-label"));
}

function keepCharts(old, fresh) {
  for (const place of old.querySelectorAll(".plot.js-plotly-plot")) {
    const other = fresh.querySelector(`#${CSS.escape(place.id)}`);
    if (!other) continue;
    describe(place, other);
    other.replaceWith(place);
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
  if (old.isEqualNode(fresh)) return;
  if (old.hasAttribute?.("data-keep")) return describe(old, fresh);
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
  const address = location.href;
  const answer = await fetch(address, { signal: AbortSignal.timeout(TIMEOUT_MS), redirect: "follow" });
  if (answer.redirected) return location.reload(); // the session has ended
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (address !== location.href) return; // something else was chosen meanwhile
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

// What is chosen on a page replaces its content, without loading Plotly again, which takes longer than all the rest. Charts
// keep their places.

let wanted = null; // the latest address that was asked for

async function show(address, { isNew, toTop }) {
  wanted = address;
  let answer, page;
  try {
    answer = await fetch(address, { signal: AbortSignal.timeout(TIMEOUT_MS), redirect: "follow" });
    page = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    if (wanted === address) location.assign(address); // the browser shows what is wrong
    return;
  }
  if (wanted !== address) return;
  const fresh = page.getElementById("main");
  if (answer.redirected || !answer.ok || !fresh) return location.assign(address);
  const focused = document.activeElement;
  const name = focused?.getAttribute("name");
  const link = focused?.matches("th a") ? focused.textContent : null;
  const main = document.getElementById("main");
  keepCharts(main, document.adoptNode(fresh));
  main.replaceWith(fresh);
  document.title = page.title;
  document.body.dataset.refresh = page.body.dataset.refresh ?? "";
  const again = name ? fresh.querySelector(`[name="${CSS.escape(name)}"]`)
    : [...fresh.querySelectorAll("th a")].find((each) => each.textContent === link);
  (again ?? fresh).focus({ preventScroll: true });
  if (toTop) scrollTo(0, 0);
  if (address.includes("#")) document.getElementById(new URL(address).hash.slice(1))?.scrollIntoView();
  if (isNew) history.pushState(null, "", address);
  showTimes(document);
  showCharts(document);
  report("");
}

// Whether an address leads to this page with other parameters, and not only to another place on it.
function isOfThisPage(address) {
  const isPlace = address.hash && address.search === location.search;
  return address.origin === location.origin && address.pathname === location.pathname && !isPlace;
}

function choices() {
  document.addEventListener("submit", (event) => {
    const form = event.target;
    const address = new URL(form.getAttribute("action") ?? location.pathname, location.href);
    if (!form.matches("form.filters")) return;
    address.search = new URLSearchParams([...new FormData(form)]);
    if (!isOfThisPage(address)) return;
    event.preventDefault();
    show(address.href, { isNew: true, toTop: false });
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("main a[href]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const address = new URL(link.href);
    if (!isOfThisPage(address) || link.hasAttribute("download") || link.target) return;
    event.preventDefault();
    show(address.href, { isNew: true, toTop: link.rel !== "" });
  });
  addEventListener("popstate", () => show(location.href, { isNew: false, toTop: false }));
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
  document.addEventListener("change", (event) => {
    if (event.target.matches("form.filters select")) event.target.form.requestSubmit();
  });
  // Parameters without a value only make the address longer.
  document.addEventListener("formdata", (event) => {
    if (!event.target.matches("form.filters")) return;
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
}

// The current page stays visible in a navigation that is wider than the screen.
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
theme();
filters();
choices();
showTimes(document);
showCharts(document);
keepFresh();
