"use strict";

// A terminal on one's machine. Binary messages are what is typed and shown; text messages are JSON.
(() => {
  const screen = document.getElementById("screen"), said = document.getElementById("said"), again = document.getElementById("again");
  const term = new Terminal({ cursorBlink: true, scrollback: 10000, fontFamily: "ui-monospace, Menlo, Consolas, monospace", fontSize: 14, screenReaderMode: screen.dataset.reader === "true" });
  const fit = new FitAddon.FitAddon();
  term.loadAddon(fit);
  term.open(screen);
  fit.fit();
  const utf8 = new TextEncoder();
  let socket = null;
  const send = (m) => { if (socket && socket.readyState === WebSocket.OPEN) socket.send(m); };
  const size = () => send(JSON.stringify({ resize: [term.cols, term.rows] }));
  term.onData((d) => send(utf8.encode(d)));
  term.onBinary((d) => send(Uint8Array.from(d, (c) => c.charCodeAt(0))));
  term.onResize(size);
  new ResizeObserver(() => fit.fit()).observe(screen);

  function connect() {
    again.hidden = true;
    said.textContent = "connecting";
    const url = new URL("/terminal", location);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("pool", screen.dataset.pool);
    if (screen.dataset.size) url.searchParams.set("size", screen.dataset.size);
    let why = "The connection has ended.";
    socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { said.textContent = "connected"; size(); term.focus(); };
    socket.onmessage = (e) => {
      if (typeof e.data !== "string") { term.write(new Uint8Array(e.data)); return; }
      const m = JSON.parse(e.data);
      if (m.error) why = m.error;
      else if (m.ended) why = "The shell has ended.";
    };
    socket.onclose = () => { said.textContent = why; again.hidden = false; again.focus(); };
  }
  again.addEventListener("click", connect);
  connect();
})();
