// A Halley device in the browser: it sends every message once and in order, and hands on every record of its conversations
// once, in order and without holes. It never touches the page.
//
// Events (CustomEvent, what they tell is in detail):
//   state    {state: "connecting" | "online" | "waiting" | "closed", reason, retryAt}
//   conversation, cursor   {conversation}: where it stands changed: head, unread, read cursors
//   record   {conversation, record}: the next one; own messages as well
//   typing   {conversation, user, stopped}
//   outbox   {conversation}: a message was queued
//   refused  {conversation, write, error}: the server will never take this message

import { Connection } from "./connection.js";

const IN_FLIGHT = 32; // Messages on the way in one conversation.
const WINDOW = 50; // Records of a conversation that are shown to begin with.
const PAGE = 100;
const MAX_EARLY = 500;
const GAP_GRACE_MS = 150; // An ack may overtake the pushes before it; asking history at once would be wasteful.

export class HalleyClient extends EventTarget {
  conversations = new Map();
  #line; #storage; #key;

  // session() resolves to {token, url}: it asks the app's own server. storage (sessionStorage, say) keeps what was not
  // answered for the next page; its messages are the same ones only on the same device, so the token must name that.
  constructor({ session, conversations = [], storage = null, key = "halley.outbox", name = "halley-demo" }) {
    super();
    [this.#storage, this.#key] = [storage, key];
    this.#line = new Connection({
      session, name,
      onState: (state) => this.#emit("state", state),
      onOnline: () => this.#sync(),
      onPush: (...push) => this.#push(...push),
    });
    for (const id of conversations) this.#open(id);
    for (const w of JSON.parse(storage?.getItem(key) ?? "[]")) this.#open(w.conversation).queue.push(w);
  }

  get user() { return this.#line.user; }

  start() { this.#line.connect(); }

  // send queues a text; it goes out as soon as there is a connection.
  send(id, text) {
    const c = this.#open(id);
    c.queue.push({ conversation: id, clientId: uuidv7(), body: { text: { text } }, time: Date.now() });
    this.#save();
    this.#emit("outbox", { conversation: c });
    this.#pump(c);
  }

  markRead(id, seq) {
    const c = this.#open(id);
    c.wantRead = Math.max(c.wantRead, Math.min(seq, c.cursor));
    this.#read(c);
  }

  // typing does not wait: late, it would be untrue.
  typing(id, stopped) {
    if (this.#line.online) this.#line.request("signal.typing", { conversation: id, body: { stopped } }).catch(() => {});
  }

  // earlier resolves to the records before the first one shown, oldest first.
  async earlier(id) {
    const c = this.#open(id);
    const reply = await this.#line.request("conversation.history", { conversation: id, body: { before_seq: c.first, limit: WINDOW } });
    const records = (reply.records ?? []).map(toRecord).filter((r) => r.seq < c.first);
    c.first = reply.more && records.length > 0 ? records[0].seq : 1;
    return records;
  }

  #push(command, id, body) {
    if (command === "resync") return void this.#line.later(body.delay_ms ?? 0, () => this.#sync());
    if (!["record", "head", "cursor", "typing"].includes(command)) return; // Of a later server.
    if (id.startsWith("u:")) { // The user's own log tells of new conversations; the list, asked on connect, has the rest.
      if (body.standing?.member) this.#open(body.standing.conversation);
      return;
    }
    const c = this.#open(id);
    switch (command) {
      case "record": return this.#arrived(c, toRecord(body));
      case "head": return this.#headRose(c, Number(body.seq));
      case "cursor": return this.#cursor(c, body);
      case "typing": return this.#emit("typing", { conversation: c, user: body.user, stopped: !!body.stopped });
    }
  }

  // ---- reading: resume by seq, fill gaps, drop what came twice ----

  // open: cursor is the seq of the last record handed on, first that of the first; early holds what came before its
  // predecessors. queue is the outbox, next the first of it that is not on the way.
  #open(id, ask = true) {
    let c = this.conversations.get(id);
    if (!c) {
      c = {
        id, name: "", head: 0, count: 0, first: 1, cursor: 0, tracked: false, early: new Map(), fetching: false,
        readSeq: 0, readCount: 0, wantRead: 0, reading: false, readBy: new Map(),
        queue: [], next: 0, inFlight: 0, startOver: false, notBefore: 0, refusals: 0,
        get unread() { return Math.max(0, this.count - this.readCount); },
      };
      this.conversations.set(id, c);
      if (ask && this.#line.online) this.#line.later(0, () => this.#sync());
    }
    return c;
  }

  // sync asks where everything stands. Whatever is committed from then on is pushed, so nothing falls between.
  async #sync() {
    try {
      const list = await this.#line.request("conversation.list", { body: { limit: WINDOW } });
      for (const h of list.conversations ?? []) this.#open(h.conversation, false);
      const asked = [...this.conversations.values()].slice(0, 200);
      const reply = await this.#line.request("conversation.heads", { body: { conversations: asked.map((c) => c.id) } });
      const heads = new Map((reply.heads ?? []).map((h) => [h.conversation, h]));
      for (const c of asked) this.#standing(c, heads.get(c.id) ?? {});
    } catch (err) {
      if (this.#line.online && err.retryable) this.#line.later((err.retryAfterMs ?? 0) + Math.random() * 1000, () => this.#sync());
    }
  }

  #standing(c, h) {
    const seq = Number(h.seq ?? 0);
    if (!c.tracked) {
      c.tracked = true;
      c.cursor = Math.max(seq - WINDOW, Number(h.joined_seq ?? 1) - 1, 0);
      c.first = c.cursor + 1;
    }
    c.name = h.name ?? "";
    c.count = Math.max(c.count, Number(h.count ?? 0));
    if (h.conversation && c.id.startsWith("d:")) this.#peers(c);
    c.readSeq = Number(h.read_seq ?? 0); // The server may have lost a cursor that it had not stored; then it is told again.
    c.readCount = Math.max(c.readCount, Number(h.read_count ?? 0));
    this.#read(c);
    this.#drain(c);
    this.#headRose(c, seq);
    this.#emit("conversation", { conversation: c });
    this.#pump(c);
  }

  #headRose(c, seq) {
    c.head = Math.max(c.head, seq);
    if (c.tracked && c.cursor < c.head) this.#fetch(c);
  }

  #arrived(c, r) {
    c.head = Math.max(c.head, r.seq);
    if (c.tracked && r.seq <= c.cursor) return;
    if (c.tracked && r.seq === c.cursor + 1) {
      this.#deliver(c, r);
      return this.#drain(c);
    }
    if (c.early.size < MAX_EARLY) c.early.set(r.seq, r); // Beyond it history has them.
    if (c.tracked) this.#line.later(GAP_GRACE_MS, () => this.#headRose(c, r.seq));
  }

  #deliver(c, r) {
    c.cursor = r.seq;
    c.count = Math.max(c.count, r.count);
    this.#emit("record", { conversation: c, record: r });
  }

  #drain(c) {
    for (const seq of c.early.keys()) if (seq <= c.cursor) c.early.delete(seq);
    for (let r; (r = c.early.get(c.cursor + 1)); c.early.delete(r.seq)) this.#deliver(c, r);
  }

  async #fetch(c) {
    if (c.fetching || !this.#line.online) return;
    c.fetching = true;
    try {
      const reply = await this.#line.request("conversation.history", { conversation: c.id, body: { after_seq: c.cursor, limit: PAGE } });
      // A seq that history leaves out is one that this user may not read.
      for (const r of (reply.records ?? []).map(toRecord)) if (r.seq > c.cursor) this.#deliver(c, r);
      if (!reply.more) c.head = Math.max(c.cursor, Number(reply.head_seq ?? 0), ...c.early.keys());
      this.#drain(c);
      c.fetching = false;
      if (reply.records?.length) this.#headRose(c, c.head);
    } catch (err) {
      c.fetching = false;
      if (this.#line.online && err.retryable) this.#line.later(err.retryAfterMs + Math.random() * 1000, () => this.#fetch(c));
    }
  }

  // ---- read cursors ----

  async #peers(c) {
    const reply = await this.#line.request("conversation.members", { conversation: c.id }).catch(() => ({}));
    for (const m of reply.members ?? []) if (m.user !== this.user) this.#cursor(c, { user: m.user, seq: m.read_seq });
  }

  #cursor(c, { user, seq = 0, count = 0 }) {
    if (user === this.user) {
      c.readSeq = Math.max(c.readSeq, Number(seq));
      c.readCount = Math.max(c.readCount, Number(count));
    } else c.readBy.set(user, Math.max(c.readBy.get(user) ?? 0, Number(seq)));
    this.#emit("cursor", { conversation: c });
  }

  // read tells the server how far the user has read; the newest wish wins, and a connect repeats it.
  async #read(c) {
    if (c.reading || c.wantRead <= c.readSeq || !this.#line.online) return;
    c.reading = true;
    try {
      this.#cursor(c, { seq: c.wantRead, ...await this.#line.request("receipt.read", { conversation: c.id, body: { seq: c.wantRead } }), user: this.user });
      c.reading = false;
      this.#read(c);
    } catch (err) {
      c.reading = false;
      if (this.#line.online && err.retryable) this.#line.later(err.retryAfterMs + Math.random() * 1000, () => this.#read(c));
    }
  }

  // ---- writing: each message names the one before it that has no answer yet, so order survives whatever happens ----

  #pump(c) {
    if (!this.#line.online || !c.tracked) return; // Untracked, `since` would be a guess.
    if (c.startOver) {
      if (c.inFlight > 0) return;
      const wait = c.notBefore - Date.now();
      if (wait > 0) return void this.#line.later(wait, () => this.#pump(c));
      c.startOver = false;
      c.next = 0;
    }
    while (c.next < c.queue.length && c.inFlight < IN_FLIGHT) {
      const w = c.queue[c.next], after = c.queue[c.next - 1]?.clientId;
      c.next++;
      if (w.since === undefined) { // Where this device stood when it first sent it; never again changed.
        w.since = Math.max(c.head, c.cursor);
        this.#save();
      }
      this.#transmit(c, w, after);
    }
  }

  async #transmit(c, w, after) {
    c.inFlight++;
    try {
      const ack = await this.#line.request("message.send", { conversation: c.id, client_id: w.clientId, after, since: w.since, body: w.body });
      c.refusals = 0;
      this.#answered(c, w);
      // Others are pushed the record; the device that wrote it has the ack.
      this.#arrived(c, toRecord({ ...ack, sender: this.user, client_id: w.clientId, message: w.body }));
    } catch (err) {
      if (!err.retryable) {
        this.#answered(c, w);
        this.#emit("refused", { conversation: c, write: w, error: err });
      } else if (!c.startOver) { // Those behind it come back as `resend`: all start again from the oldest.
        c.startOver = true;
        const span = err.code === "disconnected" ? 0 : Math.min(5000, 20 * 2 ** ++c.refusals);
        c.notBefore = Date.now() + err.retryAfterMs + Math.random() * span;
      }
    }
    c.inFlight--;
    this.#pump(c);
  }

  #answered(c, w) {
    const i = c.queue.indexOf(w);
    c.queue.splice(i, 1);
    if (c.next > i) c.next--;
    this.#save();
  }

  #save() {
    this.#storage?.setItem(this.#key, JSON.stringify([...this.conversations.values()].flatMap((c) => c.queue)));
  }

  #emit(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
}

// toRecord: 64-bit numbers are strings in JSON, and fields that are zero are left out. A seq fits a number, an id does not.
function toRecord(r) {
  return {
    seq: Number(r.seq), count: Number(r.count ?? 0), id: r.id, sender: r.sender ?? "", clientId: r.client_id ?? "",
    time: Number(r.time_us) / 1000, text: r.message?.text?.text, message: r.message,
  };
}

// uuidv7: client ids are random, and sort by time.
function uuidv7() {
  const b = crypto.getRandomValues(new Uint8Array(16));
  let ms = Date.now();
  for (let i = 5; i >= 0; i--, ms = Math.floor(ms / 256)) b[i] = ms % 256;
  b[6] = 0x70 | (b[6] & 0x0f);
  b[8] = 0x80 | (b[8] & 0x3f);
  return [...b].map((n) => n.toString(16).padStart(2, "0")).join("").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
