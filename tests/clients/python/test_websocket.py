"""GET /v1/stream by the websockets package: its threaded client, and its asyncio client."""
import asyncio
import json
import unittest
import urllib.request

from support import ADAPTERS, CAPITAL, URL, main, until_idle
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

STREAM = URL.replace("http:", "ws:") + "/v1/stream"
PROTOCOL = ["loramux.v1"]
MODELS = ["", *ADAPTERS]


def completion(model: str, **fields) -> dict:
    return {"model": model, "prompt": CAPITAL, "temperature": 0, "max_tokens": 12, **fields}


def generate(model: str, **fields) -> str:
    """A stream named after its model."""
    body = completion(model, **fields)
    return json.dumps({"type": "generate", "id": f"m:{model}", "api": "completions", "body": body})


def by_http(body: dict) -> str:
    request = urllib.request.Request(f"{URL}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["choices"][0]["text"]


class Threaded(unittest.TestCase):
    def open(self):
        socket = self.enterContext(connect(STREAM, subprotocols=PROTOCOL))
        self.assertEqual(socket.subprotocol, PROTOCOL[0])
        self.assertEqual(json.loads(socket.recv())["type"], "hello")
        return socket

    def read(self, socket, *ids: str) -> dict[str, str]:
        """Texts of streams by id, once all of them are done."""
        texts, open_ids = dict.fromkeys(ids, ""), set(ids)
        while open_ids:
            message = json.loads(socket.recv())
            id = message.get("id")
            if id not in open_ids:
                continue
            if message["type"] == "token":
                texts[id] += message["text"]
            self.assertNotEqual(message["type"], "error", message)
            if message["type"] == "done":
                open_ids.remove(id)
        return texts

    def test_mixed_adapters_equal_http(self):
        alone = {f"m:{model}": by_http(completion(model)) for model in MODELS}
        self.assertEqual(len(set(alone.values())), len(MODELS), alone)
        socket = self.open()
        for model in MODELS:
            socket.send(generate(model))
        self.assertEqual(self.read(socket, *alone), alone)

    def test_cancel_one(self):
        socket = self.open()
        socket.send(generate("pirate", max_tokens=500, ignore_eos=True))
        while json.loads(socket.recv())["type"] != "token":
            pass
        socket.send(generate("sql"))
        socket.send(json.dumps({"type": "cancel", "id": "m:pirate"}))
        codes = []
        while not codes:
            message = json.loads(socket.recv())
            if message["type"] == "error":
                codes.append((message["id"], message["error"]["code"]))
        self.assertEqual(codes, [("m:pirate", "cancelled")])
        # The other one ran on, or has ended meanwhile; its id is free once it has.
        socket.send(generate("sentiment"))
        self.read(socket, "m:sentiment")
        until_idle()

    def test_refusals(self):
        with self.assertRaises(InvalidStatus) as caught, connect(STREAM, subprotocols=["graphql-ws"]):
            pass
        self.assertEqual(caught.exception.response.status_code, 400)
        with self.assertRaises(InvalidStatus) as caught, connect(STREAM, subprotocols=PROTOCOL, origin="https://other.example"):
            pass
        self.assertEqual(caught.exception.response.status_code, 403)
        for message, code in [(b"binary", 1003), ("x" * (2**20 + 1), 1009)]:
            socket = self.open()
            with self.assertRaises(ConnectionClosed):
                socket.send(message)
                socket.recv()
            self.assertEqual(socket.close_code, code)


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def test_sockets_at_once_and_one_that_leaves(self):
        async def ask(model: str) -> str:
            async with connect_async(STREAM, subprotocols=PROTOCOL) as socket:
                await socket.send(generate(model))
                text = ""
                async for frame in socket:
                    message = json.loads(frame)
                    text += message["text"] if message["type"] == "token" else ""
                    if message["type"] == "done":
                        return text

        async def leave(model: str):
            async with connect_async(STREAM, subprotocols=PROTOCOL) as socket:
                await socket.send(generate(model, max_tokens=500, ignore_eos=True))
                async for frame in socket:
                    if json.loads(frame)["type"] == "token":
                        return

        texts = await asyncio.gather(*map(ask, MODELS), *map(leave, MODELS))
        for model, text in zip(MODELS, texts):
            self.assertEqual(text, by_http(completion(model)), model)
        until_idle()


if __name__ == "__main__":
    main()
