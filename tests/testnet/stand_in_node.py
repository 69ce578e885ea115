"""A stand-in for a node's process: ready file, control endpoint and gateway with one canned session; no network.

``python stand_in_node.py NODE_TOML``. It leaves with its standard input. A file ``asked`` beside network.toml says
that the prompt has come; a file ``die`` in its own folder makes it exit with 7 instead of becoming ready.
"""

import json
import os
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKENS = 7
TOKEN = "stand-in-token"
RFC, TICKET = "0x" + "0a" * 32, "0x" + "0b" * 32


def address(home: Path) -> str:
    """The address in a node folder's keystore."""
    text = str(json.loads((home / "keys" / "mor.json").read_text())["address"])
    return "0x" + text.removeprefix("0x").lower()


def read_network(folder: Path) -> tuple[list[str], list[str], int]:
    """Addresses of providers and members, and the first provider's price."""
    providers = sorted(folder.glob("provider-*"))
    price = tomllib.loads((providers[0] / "node.toml").read_text())["models"][0]["price_wei"]
    return [address(home) for home in providers], [address(home) for home in sorted(folder.glob("member-*"))], price


def answers(folder: Path) -> dict[str, Any]:
    """What the control endpoint says."""
    providers, members, price = read_network(folder)
    candidates = [{"provider": p, "price_wei": price, "bid_id": f"0x{i:064x}"} for i, p in enumerate(providers)]
    return {
        "/book": {"bids": [{"provider": provider} for provider in providers]},
        f"/sessions/{RFC}": {
            "rfc_id": RFC,
            "ticket_id": TICKET,
            "model": "a-model",
            "provider": providers[0],
            "price_wei": price,
            "tokens": TOKENS,
            "prompt_tokens": 31,
            "first_ms": 20,
            "last_ms": 90,
            "finish": "stop",
            "passed": True,
            "match_ms": 12,
            "stream_open_ms": 15,
            "state": "finished",
            "match": {
                "slot": 3,
                "attempt": 0,
                "beacon": "0x" + "0c" * 32,
                "draw": "0x" + "0d" * 32,
                "candidates": candidates,
                "winner": candidates[0]["bid_id"],
                "unlive": [],
            },
        },
        f"/tickets/{TICKET}": {"height": 1, "credited_wei": str(TOKENS * price), "reason": ""},
        "/batches/1": {
            "height": 1,
            "slot": 4,
            "day": 0,
            "batch_hash": "0x" + "0e" * 32,
            "round": 0,
            "signers": members[: len(members) * 2 // 3 + 1],
            "members": members,
            "settlements": 1,
            "total_credited": TOKENS * price,
        },
        "/claims": [
            {
                "height": 1,
                "cumulative_wei": TOKENS * price,
                "amount_wei": TOKENS * price,
                "tx_hash": "0x" + "0f" * 32,
                "gas": 147_000,
                "status": "paid",
            }
        ],
    }


class Handler(BaseHTTPRequestHandler):
    """Control endpoint and gateway in one."""

    folder: Path

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._json(200, {"data": [{"id": "smollm2-135m-instruct"}]})
        elif self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._json(401, {"error": "no token"})
        else:
            found = answers(self.folder).get(self.path)
            self._json(404 if found is None else 200, found)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        (self.folder / "asked").touch()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-yellowstone-rfc", RFC)
        self.end_headers()
        for delta, finish in (
            ({"role": "assistant"}, None),
            ({"content": "It is "}, None),
            ({"content": "Paris."}, "stop"),
        ):
            event = {"choices": [{"delta": delta, "finish_reason": finish}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def _json(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        print(format % arguments, flush=True)


def main(config: Path) -> None:
    home = config.parent
    if (home / "die").exists():
        print("this one dies", flush=True)
        sys.exit(7)
    Handler.folder = home.parent
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    data = home / "data"
    data.mkdir(exist_ok=True)
    (data / "control.token").write_text(TOKEN)
    ready = {
        "pid": os.getpid(),
        "peer_id": "peer",
        "address": address(home),
        "multiaddrs": [f"/ip4/127.0.0.1/tcp/{server.server_address[1]}/p2p/12D3KooWStandin"],
        "control_url": url,
        "gateway_url": url if home.name == "user" else None,
    }
    (data / "ready.tmp").write_text(json.dumps(ready))
    (data / "ready.tmp").rename(data / "ready.json")
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
