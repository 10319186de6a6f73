"use strict";
// Requests the page again every few seconds, and replaces what has changed: the rest keeps its focus and selection.
(() => {
  const INTERVAL = 5_000;
  const MAX_INTERVAL = 60_000;
  const TIMEOUT = 10_000;
  const element = (id) => document.getElementById(id);
  const [live, pause, access, input] = ["live", "pause", "access", "token"].map(element);
  let token = "";
  let paused = false;
  let failures = 0;
  let timer = 0;

  function say(text) {
    if (live.textContent !== text) live.textContent = text;
  }

  function morph(old, next) {
    if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) {
      old.replaceWith(document.importNode(next, true));
      return;
    }
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== next.data) old.data = next.data;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!next.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    while (old.childNodes.length > next.childNodes.length) old.lastChild.remove();
    next.childNodes.forEach((child, index) => {
      const present = old.childNodes[index];
      if (present) morph(present, child);
      else old.append(document.importNode(child, true));
    });
  }

  function showAccess() {
    if (element("status").hasAttribute("data-locked")) access.hidden = false;
  }

  async function refresh() {
    clearTimeout(timer);
    try {
      const answer = await fetch(location.href, {
        headers: token ? { authorization: `Bearer ${token}` } : {},
        cache: "no-store",
        redirect: "error",
        signal: AbortSignal.timeout(TIMEOUT),
      });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = page.getElementById("status");
      if (!next) throw new Error("not the status page");
      morph(element("status"), next);
      document.title = page.title;
      failures = 0;
      say(paused ? "Paused." : `Updated every ${INTERVAL / 1000} s.`);
    } catch {
      failures += 1;
      say("No answer from the server, trying again.");
    }
    showAccess();
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    if (paused || document.hidden) return;
    timer = setTimeout(refresh, Math.min(INTERVAL * 2 ** failures, MAX_INTERVAL));
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume updates" : "Pause updates";
    if (paused) {
      clearTimeout(timer);
      say("Paused.");
    } else {
      refresh();
    }
  });
  access.addEventListener("submit", (event) => {
    event.preventDefault();
    token = input.value.trim();
    input.value = "";
    refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !paused) refresh();
    else schedule();
  });
  say(`Updated every ${INTERVAL / 1000} s.`);
  showAccess();
  schedule();
})();
