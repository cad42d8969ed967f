// The page: two people side by side, each a HalleyClient and a pane.

import { HalleyClient } from "./client.js";
import { Thread, capital } from "./thread.js";

const ECHO = "echo";
const TYPING_EVERY_MS = 3000; // While the user types, the others are told this often,
const TYPING_ENDS_MS = 5000; // and stop believing it after as long without news.

const direct = (a, b) => "d:" + [a, b].sort().join(":");
const fresh = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

// device names this tab: it keeps its name over a reload, and with it what waits in its outbox.
function device(user) {
  const key = `halley.${user}.device`;
  if (!sessionStorage.getItem(key)) sessionStorage.setItem(key, "web-" + Math.random().toString(36).slice(2, 12));
  return sessionStorage.getItem(key);
}

async function session(user) {
  const query = new URLSearchParams({ user, device: device(user) });
  const answer = await fetch("session?" + query, { signal: AbortSignal.timeout(10_000) });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  return body;
}

class Pane {
  #user; #client; #root; #active = ""; #threads = new Map(); #entries = new Map(); #typists = new Map(); #drafts = new Map();
  #typedAt = 0; #typingTimer = 0; #clock = 0; #state = { state: "connecting" };

  constructor(user, peers) {
    this.#user = user;
    this.#root = fresh("pane");
    this.#root.dataset.user = user;
    const named = (selector) => this.#root.querySelector(selector);
    named("h2").textContent = capital(user);
    named("h2").id = user + "-name";
    this.#root.setAttribute("aria-labelledby", user + "-name");
    paint(named(".avatar"), user);
    named("nav").setAttribute("aria-label", `${capital(user)}'s conversations`);
    named("label").htmlFor = named("textarea").id = user + "-text";

    const conversations = peers.map((peer) => direct(user, peer));
    const client = this.#client = new HalleyClient({
      session: () => session(user), conversations, storage: sessionStorage, key: `halley.${user}.outbox`,
    });
    const on = (type, fn) => client.addEventListener(type, (e) => fn(e.detail));
    on("state", (state) => this.#showState(state));
    on("record", ({ conversation, record }) => this.#record(conversation, record));
    on("outbox", ({ conversation }) => this.#refresh(conversation));
    on("conversation", ({ conversation }) => this.#refresh(conversation));
    on("cursor", ({ conversation }) => this.#refresh(conversation));
    on("typing", ({ conversation, user, stopped }) => this.#typing(conversation, user, stopped));
    on("refused", ({ conversation, write, error }) => this.#thread(conversation).refuse(write, error.message));
    this.#listen();
    for (const c of client.conversations.values()) this.#refresh(c);
    this.#select(conversations[0]);
  }

  get element() { return this.#root; }

  start() { this.#client.start(); }

  // ---- what the user does ----

  #listen() {
    const form = this.#root.querySelector("form"), text = form.querySelector("textarea");
    form.addEventListener("submit", (e) => {
      e.preventDefault();
      this.#send(text);
    });
    text.addEventListener("keydown", (e) => {
      if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
      e.preventDefault();
      this.#send(text);
    });
    text.addEventListener("input", () => {
      form.querySelector("button").disabled = text.value.trim() === "";
      this.#tellTyping(text.value !== "");
    });
    text.addEventListener("blur", () => this.#tellTyping(false));
    this.#root.querySelector(".earlier").addEventListener("click", () => this.#earlier());
    document.addEventListener("visibilitychange", () => this.#markRead());
  }

  #send(text) {
    const words = text.value.trim();
    if (words === "") return;
    this.#tellTyping(false);
    text.value = "";
    text.dispatchEvent(new Event("input"));
    this.#client.send(this.#active, words);
    this.#threads.get(this.#active).toEnd();
  }

  #tellTyping(typing) {
    clearTimeout(this.#typingTimer);
    if (!typing) {
      if (this.#typedAt) this.#client.typing(this.#active, true);
      this.#typedAt = 0;
      return;
    }
    if (Date.now() - this.#typedAt > TYPING_EVERY_MS) {
      this.#typedAt = Date.now();
      this.#client.typing(this.#active, false);
    }
    this.#typingTimer = setTimeout(() => this.#tellTyping(false), TYPING_ENDS_MS);
  }

  #select(id) {
    const text = this.#root.querySelector("textarea");
    if (this.#active) this.#tellTyping(false);
    this.#drafts.set(this.#active, text.value);
    this.#active = id;
    text.value = this.#drafts.get(id) ?? "";
    this.#root.querySelector("form button").disabled = text.value.trim() === "";
    for (const [other, thread] of this.#threads) thread.element.hidden = other !== id;
    for (const [other, entry] of this.#entries) entry.setAttribute("aria-current", String(other === id));
    const name = this.#title(this.#client.conversations.get(id));
    this.#root.querySelector(".title").textContent = name;
    this.#root.querySelector("label").textContent = `${capital(this.#user)}'s message to ${name}`;
    text.placeholder = `Message to ${name}`;
    this.#showTyping();
    this.#showEarlier();
    this.#threads.get(id).toEnd();
    this.#markRead();
  }

  #markRead() {
    if (document.visibilityState !== "visible") return;
    const c = this.#client.conversations.get(this.#active);
    if (c.cursor > 0) this.#client.markRead(c.id, c.cursor);
  }

  async #earlier() {
    const button = this.#root.querySelector(".earlier"), id = this.#active;
    button.disabled = true; // Asked twice, they would be shown twice.
    try {
      this.#threads.get(id).prepend(await this.#client.earlier(id));
    } catch { // Not connected; the button stays.
    }
    button.disabled = false;
    this.#showEarlier();
  }

  // ---- what the client tells ----

  #record(c, record) {
    this.#thread(c).add(record);
    if (record.sender !== this.#user) this.#typing(c, record.sender, true);
    if (c.id === this.#active) this.#markRead();
    this.#refresh(c);
  }

  #refresh(c) {
    this.#thread(c).update(c);
    const entry = this.#entry(c), badge = entry.querySelector(".unread"), last = this.#thread(c).last;
    entry.querySelector(".name").textContent = this.#title(c);
    entry.querySelector(".last").textContent = last ? last.text ?? "" : "No messages yet";
    badge.textContent = c.unread > 99 ? "99+" : c.unread;
    badge.hidden = c.unread === 0;
    badge.setAttribute("aria-label", `${c.unread} unread`);
    if (c.id === this.#active) this.#showEarlier();
  }

  #thread(c) {
    let thread = this.#threads.get(c.id);
    if (!thread) {
      thread = new Thread({ user: this.#user, title: this.#title(c), bubble: () => fresh("bubble") });
      thread.element.hidden = c.id !== this.#active;
      thread.element.dataset.conversation = c.id;
      this.#threads.set(c.id, thread);
      this.#root.querySelector(".threads").append(thread.element);
    }
    return thread;
  }

  #entry(c) {
    let entry = this.#entries.get(c.id);
    if (!entry) {
      const item = fresh("entry");
      entry = item.querySelector("button");
      entry.dataset.conversation = c.id;
      entry.setAttribute("aria-current", "false");
      entry.addEventListener("click", () => this.#select(c.id));
      paint(entry.querySelector(".avatar"), this.#title(c).toLowerCase());
      this.#entries.set(c.id, entry);
      this.#root.querySelector("ul").append(item);
    }
    return entry;
  }

  #title(c) {
    if (c.name) return c.name;
    const others = c.id.split(":").slice(1).filter((name) => name !== this.#user);
    return others.map(capital).join(", ");
  }

  #typing(c, user, stopped) {
    const key = c.id + " " + user;
    clearTimeout(this.#typists.get(key)?.timer);
    this.#typists.delete(key);
    if (!stopped) {
      const timer = setTimeout(() => this.#typing(c, user, true), TYPING_ENDS_MS);
      this.#typists.set(key, { conversation: c.id, user, timer });
    }
    this.#showTyping();
  }

  #showTyping() {
    const names = [...this.#typists.values()].filter((t) => t.conversation === this.#active).map((t) => capital(t.user));
    this.#root.querySelector(".typing").textContent = names.length ? `${names.join(", ")} is typing…` : "";
  }

  #showEarlier() {
    this.#root.querySelector(".earlier").hidden = this.#client.conversations.get(this.#active).first <= 1;
  }

  #showState(state) {
    this.#state = state;
    clearInterval(this.#clock);
    if (state.state === "waiting") this.#clock = setInterval(() => this.#writeState(), 250);
    this.#writeState();
  }

  #writeState() {
    const { state, retryAt, reason } = this.#state, line = this.#root.querySelector(".state");
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    const [words, rest] = {
      connecting: ["Connecting…"], online: ["Online"], waiting: ["Reconnecting", ` in ${seconds} s`],
      closed: [reason === "replaced" ? "Open in another tab" : `Disconnected: ${reason}`],
    }[state];
    line.dataset.state = state;
    line.title = reason ?? "";
    // Only what changes is written: a screen reader would say it again every second.
    const [said, counted] = line.children;
    if (said.textContent !== words) said.textContent = words;
    counted.textContent = rest ?? "";
  }
}

// paint gives a name its letter and its colour.
function paint(avatar, name) {
  avatar.textContent = name.charAt(0).toUpperCase();
  let hue = 7;
  for (const letter of name) hue = (hue * 31 + letter.charCodeAt(0)) % 360;
  avatar.style.setProperty("--hue", hue);
}

for (const [user, peer] of [["alice", "bob"], ["bob", "alice"]]) {
  const pane = new Pane(user, [peer, ECHO]);
  document.getElementById("panes").append(pane.element);
  pane.start();
}
