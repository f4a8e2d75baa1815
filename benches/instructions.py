"""What a request costs in instructions and allocations. See instructions.sh."""
import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINARY = os.path.abspath(os.environ["PORTCULLIS_BIN"])
CONNECTIONS, WARM, REQUESTS = 8, 50, 250  # each connection's requests; so 2,000 are counted
REQUEST = b"GET /1k HTTP/1.1\r\nHost: bench.test\r\n\r\n"
ANSWER = (b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/octet-stream\r\n"
          b"Content-Length: 1024\r\n\r\n" + b"x" * 1024)
POLICIES = os.environ.get("POLICIES", "round_robin least_connections hash").split()
LIMITS = {"instructions": int(os.environ.get("MAX_INSTRUCTIONS", 50_000)),
          "allocations": int(os.environ.get("MAX_ALLOCATIONS", 16))}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def origin(reader, writer):
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def ask(connection, count):
    reader, writer = connection
    for _ in range(count):
        writer.write(REQUEST)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        if not head.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"unexpected answer: {head!r}")
        await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))


class Daemon:
    """The daemon, alone or below a tool; ended with `stop`."""

    def __init__(self, folder, http, *below):
        self.env = {"PATH": os.environ["PATH"], "PORTCULLIS_DATA": str(folder / "data"), "SERVER_HOST": "127.0.0.1",
                    # The ports change with each start, and the issuer must not.
                    "OAUTH_ISSUER": "https://auth.localhost",
                    "HTTP_PORT": str(http), "HTTPS_PORT": "0", "PORTCULLIS_WORKERS": "1", "LOG_LEVEL": "WARN"}
        self.log = open(folder / "daemon.log", "ab")
        self.process = subprocess.Popen([*below, BINARY, "serve"], env=self.env, cwd=folder, stderr=self.log)
        end = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", http), 1).close()
                self.cli("system", "ready")
                return
            except (OSError, subprocess.CalledProcessError):
                if time.monotonic() > end or self.process.poll() is not None:
                    sys.exit(f"the daemon did not start:\n{(folder / 'daemon.log').read_text()}")
                time.sleep(0.1)

    def cli(self, *words):
        subprocess.run([BINARY, *words], env=self.env, check=True, timeout=60,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


async def measure(folder, profile, policy=None):
    """Profiles requests to a host with one upstream, or with three under a policy, passive health and slow start."""
    http = free_port()
    servers = [await asyncio.start_server(origin, "127.0.0.1", 0) for _ in range(3 if policy else 1)]
    target, *more = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    balanced = ["--upstreams", ",".join(more), "--passive-health", "{}",
                "--load-balancing", json.dumps({"policy": policy, "slow_start_seconds": 1})] if policy else []

    def configure():
        daemon = Daemon(folder, http)
        try:
            daemon.cli("proxy", "create", "bench.test", target, *balanced)
            daemon.cli("proxy", "headers", "set", "bench.test", "--response", json.dumps({"set": {"X-Gen": "0"}}))
        finally:
            daemon.stop()

    await asyncio.to_thread(configure)
    daemon = await asyncio.to_thread(
        Daemon, folder, http, "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no",
        f"--callgrind-out-file={profile}")
    try:
        control = ["callgrind_control", "-i"]
        connections = [await asyncio.open_connection("127.0.0.1", http) for _ in range(CONNECTIONS)]
        await asyncio.gather(*(ask(one, WARM) for one in connections))
        await asyncio.to_thread(subprocess.run, [*control, "on", str(daemon.process.pid)], check=True,
                                stdout=subprocess.DEVNULL)
        await asyncio.gather(*(ask(one, REQUESTS) for one in connections))
        await asyncio.sleep(1)  # the log's writer is part of the cost
        await asyncio.to_thread(subprocess.run, [*control, "off", str(daemon.process.pid)], check=True,
                                stdout=subprocess.DEVNULL)
        for _, writer in connections:
            writer.close()
    finally:
        await asyncio.to_thread(daemon.stop)
        for server in servers:
            server.close()


def count(profile):
    """Instructions of the process, and calls of the allocator from outside of it."""
    names, caller, callee = {}, "", ""
    instructions = allocations = 0
    for line in profile.read_text(errors="replace").splitlines():
        if match := re.match(r"(c?fn)=\((\d+)\)(?: (.*))?", line):
            kind, number, name = match.groups()
            name = names.setdefault(number, name)
            if kind == "fn":
                caller = name
            else:
                callee = name
        elif line.startswith("calls="):
            if re.match(r"mi_(malloc|zalloc|calloc|realloc)", callee) and not re.match(r"_?mi_", caller):
                allocations += int(line[6:].split()[0])
        elif line.startswith(("totals:", "summary:")):
            instructions = max(instructions, int(line.split()[1]))
    return {"instructions": instructions, "allocations": allocations}


def main():
    above, plain = [], None
    for policy in (None, *POLICIES):
        folder = Path(tempfile.mkdtemp(prefix="portcullis-instructions-"))
        profile = folder / "callgrind.out"
        if not policy and "CALLGRIND_OUT" in os.environ:
            profile = Path(os.environ["CALLGRIND_OUT"])
        try:
            asyncio.run(measure(folder, profile, policy))
            found = {what: total / (CONNECTIONS * REQUESTS) for what, total in count(profile).items()}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if policy:
            more = found["instructions"] / plain["instructions"] - 1
            print(f"{policy:18} {found['instructions']:10,.1f} instructions per request ({more:+.1%}), "
                  f"{found['allocations']:.1f} allocations", flush=True)
            continue
        plain = found
        for what, each in found.items():
            print(f"{what:13} {each:10,.1f} per request (at most {LIMITS[what]:,})", flush=True)
            if not 0 < each <= LIMITS[what]:
                above.append(what)
    sys.exit(f"too many: {', '.join(above)}" if above else 0)


main()
