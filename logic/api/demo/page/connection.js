// One device's session on the JSON subprotocol: it connects, says hello, keeps alive, renews its token, and comes back as the
// server wishes. It knows frames and their answers, and never what they are about.

const SUBPROTOCOL = "halley.v1.json";
const ANSWER_MS = 10_000; // An answer that takes longer is taken for lost.
const BACK_OFF_FIRST_MS = 500;
const BACK_OFF_MOST_MS = 30_000;
const PING_MS = 30_000; // At most; a person should not wait long to learn that the line is dead.

// What to do after a close that no close frame explained. Other codes: come back.
const STAY_AWAY = new Set([1002, 1003, 1007, 1009, 4001, 4004, 4010]);
const NEW_TOKEN = new Set([4002, 4003]);

// HalleyError is a refusal by the server, or one of this side's own: disconnected, timeout, too_large.
export class HalleyError extends Error {
  constructor(code, message, retryable = false, retryAfterMs = 0) {
    super(message);
    Object.assign(this, { code, retryable, retryAfterMs });
  }
}

export class Connection {
  user = "";
  #session; #name; #onState; #onOnline; #onPush;
  #socket = null; #hello = null; #token = null; #closing = null;
  #onlineSince = 0; #tries = 0;
  #calls = new Map(); #lastId = 0; #timers = new Set();

  // session() resolves to {token, url}. onState gets {state, reason, retryAt}, onOnline is called after each hello, onPush gets
  // the frames that answer nothing.
  constructor({ session, name, onState, onOnline, onPush }) {
    [this.#session, this.#name, this.#onState, this.#onOnline, this.#onPush] = [session, name, onState, onOnline, onPush];
  }

  get online() { return this.#hello !== null; }

  async connect() {
    this.#onState({ state: "connecting", reason: "", retryAt: 0 });
    try {
      if (!this.#token || Date.now() > this.#token.until - 30_000) this.#token = { until: Infinity, ...await this.#session() };
      const socket = new WebSocket(this.#token.url, SUBPROTOCOL);
      this.#socket = socket;
      this.#closing = null;
      socket.onopen = () => this.#greet(socket);
      socket.onmessage = (e) => { if (socket === this.#socket) this.#frame(JSON.parse(e.data)); };
      socket.onclose = (e) => this.#lost(socket, e.code, e.reason);
      this.later(ANSWER_MS, () => { if (!this.#hello) this.#lost(socket, 0, "no answer"); });
    } catch (err) {
      this.#comeBack(err.message, 0);
    }
  }

  async #greet(socket) {
    try {
      const token = this.#token;
      this.#accept(socket, await this.request("connect", { body: { token: token.token, client: this.#name } }), token);
    } catch {
      return; // A close follows and says what to do.
    }
    this.#onlineSince = Date.now();
    this.#beat(socket);
    this.#onState({ state: "online", reason: "", retryAt: 0 });
    this.#onOnline();
  }

  // accept takes a hello. How long the token lasts is told by the server's clock: this one may be wrong.
  #accept(socket, hello, token) {
    this.#hello = hello;
    this.user = hello.user;
    const lifeMs = (Number(hello.token_expires_us) - Number(hello.time_us)) / 1000;
    this.#token = { ...token, until: Date.now() + lifeMs };
    this.#refreshIn(socket, lifeMs * 0.9);
  }

  #refreshIn(socket, ms) {
    this.later(Math.max(ms, 1000), async () => {
      try {
        const token = await this.#session();
        this.#accept(socket, await this.request("refresh", { body: { token: token.token } }), token);
      } catch { // Again until the token ends; then the server closes, and a new session gets a new one.
        if (socket === this.#socket) this.#refreshIn(socket, (this.#token.until - Date.now()) / 2);
      }
    });
  }

  #beat(socket) {
    this.later(Math.min(this.#hello.heartbeat_ms / 2, PING_MS), async () => {
      try {
        await this.request("ping");
        this.#beat(socket);
      } catch (err) {
        if (err.code === "timeout") this.#lost(socket, 0, "the server is silent");
      }
    });
  }

  // lost ends a connection on this side without waiting for the other: a half-open one would never close.
  #lost(socket, code, reason) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    socket.close();
    if (this.#hello && Date.now() - this.#onlineSince > BACK_OFF_MOST_MS) this.#tries = 0;
    this.#hello = null;
    this.#timers.forEach(clearTimeout);
    this.#timers.clear();
    for (const call of this.#calls.values()) call.reject(new HalleyError("disconnected", "the connection was lost", true));
    this.#calls.clear();
    const said = this.#closing ?? {};
    const reconnect = said.reconnect ??
      (STAY_AWAY.has(code) ? "RECONNECT_NO" : NEW_TOKEN.has(code) ? "RECONNECT_NEW_TOKEN" : "RECONNECT_YES");
    if (reconnect === "RECONNECT_NEW_TOKEN") this.#token = null;
    if (reconnect === "RECONNECT_NO") this.#onState({ state: "closed", reason: said.reason ?? reason, retryAt: 0 });
    else this.#comeBack(said.reason ?? reason, said.retry_after_ms ?? 0);
  }

  // comeBack waits at least as long as the server wants, and then a random part of a span that doubles (full jitter), so
  // that all devices of a node that died do not return together.
  #comeBack(reason, atLeastMs) {
    const ms = atLeastMs + Math.random() * Math.min(BACK_OFF_MOST_MS, BACK_OFF_FIRST_MS * 2 ** this.#tries++);
    this.#onState({ state: "waiting", reason, retryAt: Date.now() + ms });
    setTimeout(() => this.connect(), ms);
  }

  // request resolves to the body of the answer. Once the connection is lost all that wait are told so: whether the server
  // took them is unknown.
  request(command, fields = {}) {
    return new Promise((resolve, reject) => {
      if (!this.#socket) return reject(new HalleyError("disconnected", "not connected", true));
      const id = ++this.#lastId;
      const text = JSON.stringify({ command, request_id: id, ...fields });
      if (new TextEncoder().encode(text).length > (this.#hello?.limits.frame_bytes ?? Infinity)) {
        return reject(new HalleyError("too_large", "the message is too long"));
      }
      const timer = this.later(ANSWER_MS, () => {
        this.#calls.delete(id);
        reject(new HalleyError("timeout", "no answer in time", true));
      });
      this.#calls.set(id, { resolve, reject, timer });
      this.#socket.send(text);
    });
  }

  #frame(f) {
    const call = this.#calls.get(f.request_id);
    if (call && f.command !== "ping") { // The server's own pings have numbers of their own.
      this.#calls.delete(f.request_id);
      this.#forget(call.timer);
      const e = f.error;
      return e ? call.reject(new HalleyError(e.code, e.message, e.retryable, e.retry_after_ms)) : call.resolve(f.body ?? {});
    }
    if (f.command === "close") this.#closing = f.body ?? {};
    else if (f.command === "ping") this.#socket.send(JSON.stringify({ command: "pong", request_id: f.request_id }));
    else this.#onPush(f.command, f.conversation, f.body ?? {});
  }

  // later is a timer that ends with the connection.
  later(ms, fn) {
    const timer = setTimeout(() => { this.#timers.delete(timer); fn(); }, Math.min(ms, 2 ** 31 - 1));
    this.#timers.add(timer);
    return timer;
  }

  #forget(timer) {
    clearTimeout(timer);
    this.#timers.delete(timer);
  }
}
