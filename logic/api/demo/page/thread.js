// One conversation as a list of bubbles: records by seq, then what still waits for its answer. It never asks the server.

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const TICKS = { sending: "Sending", stored: "Sent", read: "Read", refused: "Not sent" };

export const capital = (name) => name.charAt(0).toUpperCase() + name.slice(1);

export class Thread {
  last = null; // What the list of conversations shows: the newest record or waiting message.
  #user; #bubble; #log; #records; #pending; #mine = new Map();
  #follows = true; // Shows the end; not while the user reads further up.

  constructor({ user, title, bubble }) {
    [this.#user, this.#bubble] = [user, bubble];
    this.#log = document.createElement("div");
    this.#log.className = "thread";
    this.#log.tabIndex = 0; // So that it scrolls by keyboard.
    this.#log.setAttribute("role", "log");
    this.#log.setAttribute("aria-live", "polite");
    this.#log.setAttribute("aria-label", `Messages with ${title}`);
    this.#records = document.createElement("ol");
    this.#pending = document.createElement("ol");
    this.#pending.className = "pending";
    this.#log.append(this.#records, this.#pending);
    this.#log.addEventListener("scroll", () => {
      this.#follows = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 80;
    });
    new ResizeObserver(() => this.#follow()).observe(this.#log);
  }

  get element() { return this.#log; }

  // add takes the next record.
  add(record) {
    this.last = record;
    const previous = this.#records.lastElementChild;
    const waiting = record.sender === this.#user ? this.#mine.get(record.clientId) : undefined;
    this.#mine.delete(record.clientId);
    const node = this.#fill(waiting ?? this.#bubble(), record);
    this.#records.append(node);
    this.#separate(previous, node);
    this.#follow();
  }

  // prepend takes earlier records, and keeps in sight what was.
  prepend(records) {
    const first = this.#records.firstElementChild, height = this.#log.scrollHeight;
    for (const record of records) this.#records.insertBefore(this.#fill(this.#bubble(), record), first);
    let previous = null;
    for (const node of [...this.#records.children]) {
      this.#separate(previous, node);
      previous = node;
    }
    this.#log.scrollTop += this.#log.scrollHeight - height;
  }

  // update shows the outbox and how far the others have read.
  update(c) {
    for (const write of c.queue) {
      if (this.#mine.has(write.clientId) || this.#shown(write.clientId)) continue;
      const node = this.#fill(this.#bubble(), { sender: this.#user, clientId: write.clientId, time: write.time, text: write.body.text.text });
      this.#tick(node, "sending");
      this.#mine.set(write.clientId, node);
      this.#pending.append(node);
      this.last = { text: write.body.text.text };
    }
    const read = Math.max(0, ...c.readBy.values());
    for (const node of this.#records.querySelectorAll(".mine")) this.#tick(node, Number(node.dataset.seq) <= read ? "read" : "stored");
    this.#follow();
  }

  refuse(write, why) {
    const node = this.#mine.get(write.clientId);
    this.#mine.delete(write.clientId);
    if (!node) return;
    this.#tick(node, "refused");
    node.title = why;
  }

  toEnd() {
    this.#follows = true;
    this.#follow();
  }

  #follow() {
    if (this.#follows) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #shown(clientId) { return this.#records.querySelector(`[data-client-id="${CSS.escape(clientId)}"]`) !== null; }

  #fill(node, record) {
    const mine = record.sender === this.#user, at = new Date(record.time), time = node.querySelector("time");
    node.classList.toggle("mine", mine);
    node.dataset.day = DAY.format(at);
    node.dataset.clientId = record.clientId;
    if (record.seq) node.dataset.seq = record.seq;
    node.querySelector(".sender").textContent = mine ? "" : capital(record.sender);
    node.querySelector(".text").textContent = record.text ?? describe(record);
    time.textContent = CLOCK.format(at);
    time.dateTime = at.toISOString();
    if (mine) this.#tick(node, "stored");
    return node;
  }

  #tick(node, state) {
    const tick = node.querySelector(".tick");
    if (tick.dataset.state === state) return;
    tick.dataset.state = state;
    tick.setAttribute("aria-label", TICKS[state]);
    tick.title = TICKS[state];
  }

  // separate marks where a day begins, and where another one speaks.
  #separate(previous, node) {
    node.classList.toggle("day", previous?.dataset.day !== node.dataset.day);
    node.classList.toggle("follows", previous?.querySelector(".sender").textContent === node.querySelector(".sender").textContent);
  }
}

// describe stands for what this demo does not show.
function describe(record) {
  const kind = record.message && Object.keys(record.message).find((key) => key !== "mentions");
  return kind ? `[${kind}]` : "[change of the conversation]";
}
