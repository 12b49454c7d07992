"use strict";

// Live parts of pages. The server sends a part anew when it has changed; what has the focus stays as it is.
// A page that nobody sees holds no connection: over HTTP/1.1 a browser has six for all its pages.
for (const part of document.querySelectorAll("[data-live]")) {
  let source = null;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(part.dataset.live);
    source.addEventListener("part", (e) => {
      Idiomorph.morph(part, e.data, { morphStyle: "innerHTML", ignoreActiveValue: true, callbacks: { beforeAttributeUpdated: keepOpen } });
    });
    source.addEventListener("gone", () => location.reload());
    source.addEventListener("end", close);
    // After an answer that is no stream browsers do not ask again.
    source.onerror = () => { if (source && source.readyState === EventSource.CLOSED) { close(); setTimeout(open, 5000); } };
  };
  const close = () => { if (source) source.close(); source = null; };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  open();
}

function keepOpen(name) { return name !== "open"; }

document.addEventListener("submit", (e) => {
  const question = e.target.dataset && e.target.dataset.confirm;
  if (question && !confirm(question)) e.preventDefault();
});

// A task's output as it is written. What has been shown longest goes first.
const mostShown = 2 << 20;
for (const log of document.querySelectorAll("[data-follow]")) follow(log);

async function follow(log) {
  const said = document.getElementById(log.dataset.said);
  let offset = Number(log.dataset.offset), wait = 1000;
  const text = new TextDecoder();
  for (;;) {
    try {
      const res = await fetch(`${log.dataset.follow}?follow=true&offset=${offset}`, { headers: { Accept: "application/octet-stream" } });
      if (!res.ok) { said.textContent = res.status === 401 ? "You are logged out." : "The output cannot be read."; return; }
      said.textContent = "live";
      wait = 1000;
      const reader = res.body.getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) { said.textContent = "ended"; return; }
        offset += value.length;
        show(log, text.decode(value, { stream: true }));
      }
    } catch {
      said.textContent = "connecting again";
      await new Promise((r) => setTimeout(r, wait));
      wait = Math.min(2 * wait, 30000);
    }
  }
}

function show(log, text) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(plainText(text));
  for (let size = log.textContent.length; size > mostShown && log.firstChild !== log.lastChild; ) {
    size -= log.firstChild.textContent.length;
    log.firstChild.remove();
  }
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// Colours and cursor movements of terminals.
function plainText(s) { return s.replace(/\x1b\[[0-9;?]*[ -\/]*[@-~]/g, ""); }
