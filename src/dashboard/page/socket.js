// ---- The transport: a WebSocket, or HTTP polling where a proxy does not pass one ----
// Both have the part of WebSocket's interface that the client uses.
const POLL_TIMEOUT_MS = 60000; // the server answers a poll at the latest with its ping, every 25 s

const transportUrl = name => new URL(`../socket.io/?EIO=4&transport=${name}`, location.href);
let webSocketFailures = 0;     // in a row

function openTransport() {
  // After a failure both are tried in turn: the server may be down rather than the WebSocket.
  return webSocketFailures % 2 === 1 ? new PollingSocket() : openWebSocket();
}

function openWebSocket() {
  const url = transportUrl("websocket");
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url);
  let heard = false;
  socket.addEventListener("message", () => { heard = true; webSocketFailures = 0; });
  socket.addEventListener("close", () => { if (!heard) webSocketFailures++; });
  return socket;
}

class PollingSocket {
  readyState = WebSocket.CONNECTING;
  onmessage = null;
  onclose = null;
  #url = transportUrl("polling");
  #ended = new AbortController();
  #unsent = [];
  #isSending = false;

  constructor() {
    this.#receive();
  }

  send(packet) {
    this.#unsent.push(packet);
    this.#flush();
  }

  close() {
    this.readyState = WebSocket.CLOSED;
    this.#ended.abort();
  }

  async #request(options) {
    const signal = AbortSignal.any([this.#ended.signal, AbortSignal.timeout(POLL_TIMEOUT_MS)]);
    const answer = await fetch(this.#url, { ...options, signal, cache: "no-store" });
    if (!answer.ok) throw new Error(`socket.io/ answers ${answer.status}`);
    return answer.text();
  }

  async #receive() {
    try {
      while (this.readyState !== WebSocket.CLOSED) {
        for (const data of (await this.#request({})).split("\x1e")) {
          if (data.startsWith("0") && this.readyState === WebSocket.CONNECTING) {
            this.#url.searchParams.set("sid", JSON.parse(data.slice(1)).sid);
            this.readyState = WebSocket.OPEN;
          }
          this.onmessage?.({ data });
        }
      }
    } catch {
      this.#fail();
    }
  }

  // One request at a time keeps the order.
  async #flush() {
    if (this.#isSending) return;
    this.#isSending = true;
    try {
      while (this.#unsent.length && this.readyState === WebSocket.OPEN)
        await this.#request({ method: "POST", body: this.#unsent.splice(0).join("\x1e") });
    } catch {
      this.#fail();
    }
    this.#isSending = false;
  }

  #fail() {
    if (this.readyState === WebSocket.CLOSED) return;
    // The next attempt tries the WebSocket again.
    webSocketFailures++;
    this.close();
    this.onclose?.();
  }
}
