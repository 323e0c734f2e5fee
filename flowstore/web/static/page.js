// Live pages: ask for the page again, and replace what changed. Everything else on the pages works without this script.
"use strict";

const VERSION = "x-flowstore-version";
const INTERVAL_MS = 1000;
let version = "-";
let timer = 0;

function parts(root) {
  return [...root.querySelectorAll("[data-live]")];
}

// What somebody types into, has selected, or has opened in a part stays as it is.
function isInUse(part) {
  const focused = document.activeElement;
  if (focused && part.contains(focused) && focused.matches("input, textarea, select")) return true;
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
}

function keepOpened(before, after) {
  for (const opened of before.querySelectorAll("details[id]")) {
    const same = after.querySelector(`#${CSS.escape(opened.id)}`);
    if (same) same.open = opened.open;
  }
  for (const box of before.querySelectorAll("input[type=checkbox][id]")) {
    const same = after.querySelector(`#${CSS.escape(box.id)}`);
    if (same) same.checked = box.checked;
  }
}

// A card has no origin and can't reach this page; it says how high it is, which is all that is believed of it.
const heights = new Map();
const LOWEST = 60, HIGHEST = 3000; // pixels

function fit(frame) {
  const height = heights.get(new URL(frame.src).pathname);
  if (height) frame.style.height = `${height}px`;
}

addEventListener("message", (event) => {
  const height = event.data?.flowstoreCardHeight;
  if (!Number.isFinite(height)) return;
  for (const frame of document.querySelectorAll("iframe.card")) {
    if (frame.contentWindow !== event.source) continue;
    heights.set(new URL(frame.src).pathname, Math.min(Math.max(height, LOWEST), HIGHEST));
    fit(frame);
  }
});

// A part's HTML but for how long ago something was, which goes on by itself: cards would be loaded again for it.
function html(part) {
  return part.outerHTML.replace(/(<time\b[^>]*>)[^<]*/g, "$1");
}

// Where the focus was, as what finds it again: an id, or the address of a link.
function focusIn(part) {
  const focused = document.activeElement;
  if (!focused || !part.contains(focused)) return null;
  if (focused.id) return `#${CSS.escape(focused.id)}`;
  const href = focused.getAttribute("href");
  return href === null ? null : `${focused.localName}[href="${CSS.escape(href)}"]`;
}

function replace(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const part of parts(document)) {
    const after = fresh.getElementById(part.id);
    if (!after || isInUse(part)) continue;
    const raw = html(after);
    if (part.shownAs === raw) continue;
    const focused = focusIn(part);
    const scrolled = part.scrollTop, aside = part.scrollLeft, height = part.scrollHeight;
    keepOpened(part, after);
    part.replaceWith(after);
    after.shownAs = raw;
    // A log counts from its end, where it stays; who reads further up keeps their lines.
    after.scrollTop = scrolled < 0 ? scrolled - (after.scrollHeight - height) : scrolled;
    after.scrollLeft = aside;
    ready(after);
    if (focused) after.querySelector(focused)?.focus({ preventScroll: true });
  }
  if (fresh.title && parts(fresh).length) document.title = fresh.title;
}

async function poll() {
  const began = performance.now();
  try {
    const answer = await fetch(location.href, { headers: { [VERSION]: version }, cache: "no-store" });
    if (answer.headers.has(VERSION)) version = answer.headers.get(VERSION);
    if (answer.status === 200) replace(await answer.text());
    document.documentElement.classList.toggle("stale", answer.status >= 400);
  } catch {
    document.documentElement.classList.add("stale"); // flowstore ui was stopped; it may come back
  }
  const took = performance.now() - began; // a page that takes long is asked for less often
  const every = Number(document.querySelector("[data-every]")?.dataset.every || 1); // seconds
  schedule(Math.max(every * INTERVAL_MS, Math.min(10 * took, 10 * INTERVAL_MS)));
}

function schedule(wait) {
  clearTimeout(timer);
  if (!document.hidden && parts(document).length) timer = setTimeout(poll, wait);
}

function ready(root) {
  for (const button of root.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
  for (const frame of root.querySelectorAll("iframe.card")) fit(frame);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});

// How long ago something was goes on by itself, as `ago` in templating.py has it; the exact time stays in the title.
function ago(seconds) {
  for (const [size, unit] of [[31536000, "year"], [2592000, "month"], [86400, "day"], [3600, "hour"]]) {
    const many = Math.floor(seconds / size);
    if (many >= 1) return `${many} ${unit}${many === 1 ? "" : "s"} ago`;
  }
  return seconds >= 60 ? `${Math.floor(seconds / 60)} min ago` : `${Math.floor(seconds)} s ago`;
}

// A filter that is chosen from a list applies at once.
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

setInterval(() => {
  for (const time of document.hidden ? [] : document.querySelectorAll("time[datetime]")) {
    const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
    if (seconds >= 0 && time.textContent !== ago(seconds)) time.textContent = ago(seconds);
  }
}, 5000);

document.addEventListener("visibilitychange", () => schedule(0));
for (const part of parts(document)) part.shownAs = html(part);
ready(document);
schedule(INTERVAL_MS);
