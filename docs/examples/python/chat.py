#!/usr/bin/env python3
"""Talks to a Halley server over WebSocket and JSON, and checks what it is told.

Written from docs/protocol.md alone, with nothing but the `websockets` package. It sends messages as one user, receives them as
another if it is given a token for that one too, reads history, and exits with 0 only if everything was as the page says.
"""

import argparse
import asyncio
import base64
import json
import random
import sys
import time
import uuid

import websockets


class Refused(Exception):
    """The server refused a request; retryable says whether it may succeed later."""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error.get('message', '')}")
        self.code = error["code"]
        self.retryable = error.get("retryable", False)
        self.wait = error.get("retry_after_ms", 0) / 1000


class Closed(Exception):
    """The server closed the connection and said why."""


class Session:
    """One device: requests and their answers, and every conversation in order."""

    def __init__(self, socket):
        self.socket = socket
        self.last_id = 0
        self.answers = {}  # request id -> future
        self.cursors = {}  # conversation -> seq of the last record shown
        self.early = {}  # conversation -> {seq: record}, kept until what is before them is there
        self.shown = asyncio.Queue()  # (conversation, record) in order, once
        self.tasks = []
        self.closed = None

    @classmethod
    async def open(cls, url, token):
        socket = await websockets.connect(url, subprotocols=["halley.v1.json"], max_size=16 << 20)
        assert socket.subprotocol == "halley.v1.json", f"subprotocol {socket.subprotocol}"
        self = cls(socket)
        self.tasks.append(asyncio.create_task(self.read()))
        hello = await self.request("connect", body={"token": token, "client": "chat.py"})
        self.user, self.device = hello["user"], hello["device"]
        self.tasks.append(asyncio.create_task(self.beat(hello["heartbeat_ms"] / 1000)))
        return self

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await self.socket.close()

    async def read(self):
        error = Closed("the connection ended")
        try:
            async for text in self.socket:
                frame = json.loads(text)
                if frame["command"] == "close":
                    error = Closed(f"{frame['body']['reason']} ({frame['body']['code']})")
                elif "request_id" in frame:
                    answer = self.answers.pop(int(frame["request_id"]), None)
                    if answer and not answer.done():
                        answer.set_result(frame)
                else:
                    await self.push(frame)
        except websockets.ConnectionClosed:
            pass
        self.closed = error
        for answer in self.answers.values():
            if not answer.done():
                answer.set_exception(error)

    async def beat(self, interval):
        while True:
            await asyncio.sleep(interval / 2)
            await self.request("ping")

    async def request(self, command, timeout=10, **fields):
        """Sends one frame and returns the body of its answer."""
        if self.closed:
            raise self.closed
        self.last_id += 1
        answer = self.answers[self.last_id] = asyncio.get_running_loop().create_future()
        await self.socket.send(json.dumps({"command": command, "request_id": self.last_id, **fields}))
        frame = await asyncio.wait_for(answer, timeout)
        if "error" in frame:
            raise Refused(frame["error"])
        return frame.get("body", {})

    async def ask(self, command, **fields):
        """A request that is sent again, unchanged, as long as the server says that it may succeed."""
        for attempt in range(8):
            try:
                return await self.request(command, **fields)
            except Refused as refused:
                if not refused.retryable:
                    raise
                await asyncio.sleep(refused.wait + random.uniform(0, 0.1 * 2**attempt))
        raise TimeoutError(f"{command} was put off eight times")

    async def head(self, conversation):
        body = await self.ask("conversation.heads", body={"conversations": [conversation]})
        return max((int(h["seq"]) for h in body.get("heads", [])), default=0)

    async def send(self, conversation, text, client_id=None, since=None):
        """Writes one message, once: the client id and since stay the same over retries."""
        if since is None:
            since = await self.head(conversation)
        ack = await self.ask(
            "message.send",
            conversation=conversation,
            client_id=client_id or str(uuid.uuid4()),
            since=since,
            body={"text": {"text": text}},
        )
        return int(ack["seq"]), ack.get("duplicate", False)

    async def history(self, conversation, after):
        """All records after a seq."""
        records = []
        while True:
            page = await self.ask("conversation.history", conversation=conversation, body={"after_seq": after, "limit": 100})
            records += page.get("records", [])
            if not page.get("more"):
                return records
            after = int(records[-1]["seq"])

    async def push(self, frame):
        if frame["command"] == "record":
            self.arrived(frame["conversation"], frame["body"])
        elif frame["command"] == "head" or frame["command"] == "resync":
            known = [frame["conversation"]] if "conversation" in frame else list(self.cursors)
            for conversation in known:
                self.fill_soon(conversation, frame.get("body", {}).get("delay_ms", 0) / 1000)
        # typing, cursor, presence, and what a later server may push, are nothing to this program.

    def arrived(self, conversation, record):
        cursor, seq = self.cursors.get(conversation), int(record["seq"])
        if cursor is None or seq <= cursor:
            return
        waiting = self.early.setdefault(conversation, {})
        waiting[seq] = record
        while self.cursors[conversation] + 1 in waiting:
            self.show(conversation, waiting.pop(self.cursors[conversation] + 1))
        if waiting:
            self.fill_soon(conversation, 0.15)

    def show(self, conversation, record):
        self.cursors[conversation] = int(record["seq"])
        self.shown.put_nowait((conversation, record))

    def fill_soon(self, conversation, delay):
        async def fill():
            await asyncio.sleep(delay)
            for record in await self.history(conversation, self.cursors[conversation]):
                if int(record["seq"]) > self.cursors[conversation]:
                    self.show(conversation, record)
            waiting = self.early.get(conversation, {})
            for seq in [s for s in waiting if s <= self.cursors[conversation]]:
                del waiting[seq]

        if conversation in self.cursors:
            self.tasks.append(asyncio.create_task(fill()))

    async def follow(self, conversation):
        """Shows everything of a conversation from now on."""
        self.cursors[conversation] = await self.head(conversation)

    async def next_text(self, conversation, timeout=15):
        """The next message of somebody else."""
        while True:
            where, record = await asyncio.wait_for(self.shown.get(), timeout)
            if where == conversation and record.get("sender") != self.user and "message" in record:
                return int(record["seq"]), record["message"]["text"]["text"]


def user_of(token):
    """The user of a token: its payload is plain base64url JSON."""
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]


def direct(a, b):
    return "d:" + ":".join(sorted([a, b]))


async def check_sending(me, conversation, text):
    """Acks, retries and history agree."""
    since = await me.head(conversation)
    client_id = str(uuid.uuid4())
    seq, duplicate = await me.send(conversation, text, client_id, since)
    assert seq > since and not duplicate, (seq, since, duplicate)
    again, duplicate = await me.send(conversation, text, client_id, since)
    assert (again, duplicate) == (seq, True), f"a retry of {seq} became {again}, duplicate {duplicate}"

    later = str(uuid.uuid4())
    try:
        await me.request(
            "message.send", conversation=conversation, client_id=later, after=str(uuid.uuid4()), since=seq,
            body={"text": {"text": "after nothing"}},
        )
        raise AssertionError("a write behind one that is not there was taken")
    except Refused as refused:
        assert refused.code == "resend" and refused.retryable, refused

    records = await me.history(conversation, since)
    seqs = [int(r["seq"]) for r in records]
    assert seqs == list(range(since + 1, since + 1 + len(seqs))), f"history has {seqs} after {since}"
    mine = [r for r in records if r.get("client_id") == client_id]
    assert len(mine) == 1 and int(mine[0]["seq"]) == seq and mine[0]["message"]["text"]["text"] == text, mine
    print(f"sent     {conversation} {seq}: {text}")
    return seq


async def check_refusals(me):
    """Errors name the field."""
    for frame, code, word in [
        ({"command": "message.send", "conversation": "d:z:a", "client_id": "x", "body": {}}, "invalid", "conversation"),
        ({"command": "conversation.history", "conversation": "g:none-of-mine", "body": {}}, "not_found", ""),
        ({"command": "conversation.heads", "body": {"conversation": ["u:" + me.user]}}, "invalid", "conversation"),
    ]:
        try:
            await me.ask(**frame)
            raise AssertionError(f"{frame} was taken")
        except Refused as refused:
            assert refused.code == code and word in str(refused), refused


async def check_reading(me, conversation, seq):
    cursor = await me.ask("receipt.read", conversation=conversation, body={"seq": seq})
    assert cursor["user"] == me.user and int(cursor["seq"]) >= seq, cursor
    heads = (await me.ask("conversation.heads", body={"conversations": [conversation]}))["heads"]
    assert int(heads[0]["read_seq"]) >= seq, heads


async def run(args):
    began = time.monotonic()
    me = await Session.open(args.url, args.token)
    conversation = direct(me.user, args.peer)
    print(f"hello    {me.user}/{me.device}")
    await check_refusals(me)

    peer = None
    if args.peer_token:
        assert user_of(args.peer_token) == args.peer, f"the peer's token is of {user_of(args.peer_token)}"
        peer = await Session.open(args.url, args.peer_token)
        await peer.follow(conversation)
    await me.follow(conversation)

    for i in range(args.count):
        text = f"{args.text} {i + 1}"
        seq = await check_sending(me, conversation, text)
        if peer is None:
            continue
        got = await peer.next_text(conversation)
        assert got == (seq, text), f"{args.peer} got {got}, not {(seq, text)}"
        print(f"received {conversation} {got[0]}: {got[1]}")
        answer_seq, _ = await peer.send(conversation, f"Re: {text}")
        got = await me.next_text(conversation)
        assert got == (answer_seq, f"Re: {text}"), f"{me.user} got {got}"
        print(f"received {conversation} {got[0]}: {got[1]}")
        seq = answer_seq
    await check_reading(me, conversation, seq)

    if peer:
        await peer.close()
    await me.close()
    print(f"all as documented, in {time.monotonic() - began:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:7070/v1/connect", help="WebSocket address of the server")
    parser.add_argument("--token", required=True, help="token of the sender (halley token issue --user alice)")
    parser.add_argument("--peer", required=True, help="user to talk to")
    parser.add_argument("--peer-token", help="token of that user: then both sides are checked")
    parser.add_argument("--text", default="Hello from Python", help="what to send")
    parser.add_argument("--count", type=int, default=3, help="how many messages")
    args = parser.parse_args()
    try:
        asyncio.run(asyncio.wait_for(run(args), 60))
    except (AssertionError, Refused, Closed, OSError, TimeoutError, websockets.WebSocketException) as failure:
        print(f"FAILED   {type(failure).__name__}: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
