"""Joining and leaving a running network from the command line, on a real chain."""

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.local_network import MODEL, ROOT, LocalNetwork, NodeView, wait_for

DAY_S = 16


def _cli(*arguments: str | Path, fails: bool = False) -> str:
    """What ``yellowstone …`` says."""
    command = [sys.executable, "-m", "node.cli", *map(str, arguments)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def _paid(network: LocalNetwork) -> None:
    """Ask something and wait until the provider that answered has claimed for it."""
    raw = network.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
    )
    user, provider = network.node("user"), network.provider_at(raw.headers["x-yellowstone-provider"])
    rfc_id = raw.headers["x-yellowstone-rfc"]
    ticket_id = wait_for("the ticket", lambda: (user.get(f"/sessions/{rfc_id}") or {}).get("ticket_id"), 30)
    height = network.settled(ticket_id)["height"]

    def claimed() -> bool | None:
        return any(claim["height"] >= height and claim["status"] == "paid" for claim in provider.get("/claims")) or None

    wait_for("the claim", claimed, 60)


def _members(node: NodeView) -> set[str]:
    return set(node.get("/status")["members"])


def test_members_join_and_leave_a_running_network(tmp_path: Path) -> None:
    network = LocalNetwork(tmp_path / "net", "--block", "1", "--day", str(DAY_S), "--providers", "1")
    guest, leaver = tmp_path / "net" / "guest" / "node.toml", network.node("member-4")
    process = None
    try:
        assert "is not a number of MOR" in _cli("committee", "join", "--stake", "all", "-c", guest, fails=True)
        assert "holds" in _cli("committee", "join", "--stake", "1e30", "-c", guest, fails=True)
        assert "has 0 bonded" in _cli("committee", "leave", "-c", guest, fails=True)
        assert "bonded        0.5 MOR" in _cli("committee", "join", "--stake", "0.5", "-c", guest)
        assert "bonded        0 MOR" in _cli("committee", "leave", "-c", leaver.config)
        assert "still bonded" in _cli("committee", "withdraw", "-c", leaver.config, fails=True)

        with (tmp_path / "guest.out").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "node.cli", "run", "-c", guest, "--set", 'roles=["full", "member"]'],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        full = network.node("full")
        ready = guest.parent / "data" / "ready.json"
        wait_for("the newcomer's start", lambda: ready.exists() or None, 60)
        joined = NodeView(guest.parent)

        def changed() -> bool | None:
            """Both are drawn on one day, or on two where a day began between them."""
            members = _members(full)
            return (joined.ready["address"] in members and leaver.ready["address"] not in members) or None

        wait_for("the draw", changed, 4 * DAY_S)
        epoch = full.get("/status")["epoch"]
        assert epoch >= 2
        _paid(network)
        assert f"epoch         {epoch}" in _cli("committee", "hand-over", "-c", network.node("provider-1").config)
        status = json.loads(_cli("committee", "status", "-c", guest))
        assert (status["is_member"], status["stake_wei"]) == (True, 5 * 10**17)
        wait_for("the newcomer's first signature", lambda: joined.get("/committee/log") or None, 60)

        # Moving the member: its history goes along, and it doesn't start without one.
        process.terminate()
        assert process.wait(30) == 0
        process = None
        said = _cli("committee", "log", "-c", guest, "--export", tmp_path / "history.jsonl")
        assert "this member doesn't start here" in said
        moved: list[str | Path] = ["-c", guest, "--set", f"data_dir={tmp_path / 'moved'}"]
        assert "taken over" in _cli("committee", "log", *moved, "--import", tmp_path / "history.jsonl")
        broken = (tmp_path / "history.jsonl").read_text().replace('"round":0', '"round":1', 1)
        (tmp_path / "broken.jsonl").write_text(broken)
        assert "checksum" in _cli("committee", "log", *moved, "--import", tmp_path / "broken.jsonl", fails=True)
    finally:
        if process is not None:
            process.kill()
            process.wait()
        assert network.stop() == 0
