"""What it costs a protected host that it knows of MCP. See mcp.sh."""
import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINARY = os.path.abspath(os.environ["PORTCULLIS_BIN"])
STARTS = int(os.environ.get("STARTS", 3))
ROUNDS = int(os.environ.get("ROUNDS", 40))
SECONDS = float(os.environ.get("SECONDS_EACH", 0.3))
KINDS = os.environ.get("KINDS", "json-2025 sse-2025 json-2026 sse-2026").split()
LOADS = os.environ.get("LOADS", "alone crowd").split()
TLS = os.environ.get("TLS") != "0"
CONNECTIONS = 16
# The daemon has a CPU of its own, where there are several: what else runs does not take it from the cache.
CPUS = sorted(os.sched_getaffinity(0))
OTHERS = CPUS[:-1] or CPUS
# Seconds from one call to the next where each is alone.
PACE = 0.0005

ANSWER = json.dumps({"jsonrpc": "2.0", "id": 7, "result": {
    "content": [{"type": "text", "text": "It is 21 degrees and sunny in Zurich."}],
    "structuredContent": {"celsius": 21, "sky": "sunny"}, "isError": False}})
PROGRESS = json.dumps({"jsonrpc": "2.0", "method": "notifications/progress",
                       "params": {"progressToken": 7, "progress": 1, "total": 2}})
POLICY = {
    "default": "deny",
    "rules": [
        {"id": "never", "effect": "deny", "tools": ["delete_*", "drop_*"]},
        {"id": "writing", "tools": ["write_*", "create_*"], "scopes": ["mcp:write"]},
        {"id": "reading", "tools": ["read_*", "list_*", "weather"]},
    ],
    "limits": [{"tools": ["*"], "calls": 1_000_000_000, "seconds": 60}],
}
NGINX = """
worker_processes 1;
daemon off;
pid %(folder)s/nginx.pid;
error_log %(folder)s/nginx.err;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path %(folder)s; proxy_temp_path %(folder)s; fastcgi_temp_path %(folder)s;
    uwsgi_temp_path %(folder)s; scgi_temp_path %(folder)s;
    # A server names a session once; those of 2026 have none.
    map $http_mcp_protocol_version:$http_mcp_session_id $session {
        2025-11-25: 1868a90c-4a3f-4f1b-8f0b-6a7d2c9e5b11;
        default '';
    }
    server { listen 127.0.0.1:%(json)d; default_type application/json; %(session)s return 200 '%(answer)s'; }
    server { listen 127.0.0.1:%(sse)d; default_type text/event-stream; %(session)s
             return 200 'data: %(progress)s\n\nid: 1\ndata: %(answer)s\n\n'; }
}
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def awake():
    """Keeps the CPUs from sleeping, where one may."""
    latency = None
    try:
        latency = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
        os.write(latency, bytes(4))
    except OSError as error:
        print(f"CPUs may sleep: {error}", file=sys.stderr)
    try:
        yield
    finally:
        if latency is not None:
            os.close(latency)


def wait(what, ready):
    end = time.monotonic() + 60
    while True:
        try:
            return ready()
        except (OSError, subprocess.CalledProcessError):
            if time.monotonic() > end:
                sys.exit(f"{what} did not start")
            time.sleep(0.1)


class Bench:
    """The daemon, the servers behind it, and a token for each host."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        ports = {"json": free_port(), "sse": free_port()}
        conf = folder / "nginx.conf"
        header = "add_header Mcp-Session-Id $session;"
        conf.write_text(NGINX % {"folder": folder, "answer": ANSWER, "progress": PROGRESS, "session": header, **ports})
        self.start("nginx", ["nginx", "-c", str(conf), "-p", str(folder)], {"PATH": os.environ["PATH"]})
        self.port = free_port()
        self.env = {"PATH": os.environ["PATH"], "PORTCULLIS_DATA": str(folder / "data"), "SERVER_HOST": "127.0.0.1",
                    "OAUTH_ISSUER": "https://auth.localhost", "PORTCULLIS_ACME_AUTOMATIC": "false",
                    "HTTP_PORT": "0" if TLS else str(self.port), "HTTPS_PORT": str(self.port) if TLS else "0",
                    "PORTCULLIS_WORKERS": "1", "LOG_LEVEL": "WARN"}
        self.serve()
        self.tokens = {}
        for answer, port in ports.items():
            for policy in (None, POLICY):
                host = self.host(answer, policy)
                document = {"proxy_hostname": host, "target_url": f"http://127.0.0.1:{port}", "https_redirect": "off",
                            "auth_enabled": True, "auth_required_users": ["service:" + host], "resource_endpoint": "/mcp",
                            "resource_scopes": ["mcp:read", "mcp:write"], "mcp": policy}
                bundle = folder / "bundle.json"
                bundle.write_text(json.dumps({"proxies": [document]}))
                self.cli("system", "config", "import", f"@{bundle}")
                shown = self.cli("--format", "json", "token", "create", host, "--audience", host,
                                 "--scopes", "mcp:read")
                self.tokens[host] = json.loads(shown)["token"]

    def serve(self):
        self.daemon = self.start("portcullis", [BINARY, "serve"], self.env)
        wait("portcullis", lambda: self.cli("system", "ready"))

    def restart(self):
        self.daemon.terminate()
        self.daemon.wait(60)
        self.processes.remove(self.daemon)
        self.serve()

    @staticmethod
    def host(answer, policy):
        return f"{'mcp' if policy else 'plain'}-{answer}.bench.test"

    def start(self, name, command, env):
        log = open(self.folder / f"{name}.log", "ab")
        cpus = CPUS[-1:] if name == "portcullis" else OTHERS
        process = subprocess.Popen(command, env=env, cwd=self.folder, stdout=log, stderr=log,
                                   preexec_fn=lambda: os.sched_setaffinity(0, cpus))
        self.processes.append(process)
        return process

    def cli(self, *words):
        return subprocess.run([BINARY, *words], env=self.env, check=True, timeout=60, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE).stdout

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(60)

    def headers(self, host, revision):
        headers = {"Host": host, "Authorization": f"Bearer {self.tokens[host]}", "Content-Type": "application/json",
                   "Accept": "application/json, text/event-stream", "User-Agent": "bench/1"}
        if revision == "2026":
            return headers | {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "weather"}
        return headers | {"MCP-Protocol-Version": "2025-11-25"}

    @staticmethod
    def call(revision):
        params = {"name": "weather", "arguments": {"city": "Zurich", "days": 3, "unit": "celsius"},
                  "_meta": {"progressToken": 7}}
        if revision == "2026":
            params["_meta"] |= {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                                "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
                                "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"}}
        return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})

    def ask(self, host, headers, body):
        if TLS:
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("POST", "/mcp", body, headers)
        response = connection.getresponse()
        body = response.read().decode()
        if response.status != 200 or ANSWER not in body:
            sys.exit(f"unexpected answer of {host}: {response.status} {body}")
        return response

    def cpu(self):
        # The clock of the process's CPU time, which is not rounded to ticks and counts threads that have ended.
        return time.clock_gettime(~self.daemon.pid << 3 | 2)

    def measure(self, load):
        """CPU microseconds for each call."""
        before = self.cpu()
        calls = load.run()
        # The writers of records work on for a moment.
        time.sleep(0.15)
        return (self.cpu() - before) / calls * 1e6


class Load:
    """Calls of a host over connections that stay."""

    def __init__(self, bench, host, revision, alone):
        headers, body = bench.headers(host, revision), bench.call(revision)
        if revision == "2025":
            headers["Mcp-Session-Id"] = bench.ask(host, headers, body).getheader("Mcp-Session-Id")
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.request = f"POST /mcp HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        self.alone = alone
        self.connections = [self.connect(bench) for _ in range(CONNECTIONS)]

    @staticmethod
    def connect(bench):
        connection = socket.create_connection(("127.0.0.1", bench.port), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return ssl._create_unverified_context().wrap_socket(connection) if TLS else connection

    @staticmethod
    def receive(connection):
        """Reads one answer, whose end its length tells, or its last chunk."""
        answer = head = b""
        length = None
        while length is None or len(answer) < length:
            got = connection.recv(65536)
            if not got:
                sys.exit(f"a connection was closed: {answer}")
            answer += got
            if not head and b"\r\n\r\n" in answer:
                head = answer[:answer.index(b"\r\n\r\n") + 4].lower()
                if not head.startswith(b"http/1.1 200"):
                    sys.exit(f"unexpected answer: {answer}")
                if b"content-length: " in head:
                    length = len(head) + int(head.split(b"content-length: ", 1)[1].split(b"\r", 1)[0])
            if head and length is None and answer.endswith(b"\r\n0\r\n\r\n"):
                return

    def run(self):
        calls, now = 0, time.monotonic()
        end = now + SECONDS
        while time.monotonic() < end:
            if self.alone:
                for connection in self.connections:
                    now += PACE
                    time.sleep(max(0, now - time.monotonic()))
                    connection.sendall(self.request)
                    self.receive(connection)
            else:
                for connection in self.connections:
                    connection.sendall(self.request)
                for connection in self.connections:
                    self.receive(connection)
            calls += len(self.connections)
        return calls

    def close(self):
        for connection in self.connections:
            connection.close()


def median(pairs):
    """The median of how much more the second of each takes. A machine that others use is as slow for the one as for the
    other, for a moment."""
    return statistics.median(b / a for a, b in pairs) - 1


def rounds(bench, kind, load):
    answer, revision = kind.split("-")
    plain, guarded = (Load(bench, bench.host(answer, policy), revision, load == "alone") for policy in (None, POLICY))
    pairs = []
    for number in range(ROUNDS + 1):
        # The one that is first has it neither better nor worse.
        order = [plain, guarded] if number % 2 else [guarded, plain]
        used = {each: bench.measure(each) for each in order}
        # The first ones only warm up.
        if number:
            pairs.append((used[plain], used[guarded]))
    plain.close()
    guarded.close()
    return pairs


def main():
    folder = Path(tempfile.mkdtemp(prefix="portcullis-mcp-"))
    bench = None
    os.sched_setaffinity(0, OTHERS)
    try:
        bench = Bench(folder)
        found = {(kind, load): [] for kind in KINDS for load in LOADS}
        for start in range(STARTS):
            # Where its code and data lie is another place each time, which is worth some percent.
            if start:
                bench.restart()
            for (kind, load), pairs in found.items():
                with awake() if load == "crowd" else contextlib.nullcontext():
                    pairs += rounds(bench, kind, load)
        print(f"CPU for each call, medians of {STARTS * ROUNDS} pairs\n"
              f"{'':18}{'plain':>12}{'with a policy':>16}{'more':>8}   95 % of such medians")
        for (kind, load), pairs in found.items():
            plain, guarded = (statistics.median(side) for side in zip(*pairs))
            likely = sorted(median(random.choices(pairs, k=len(pairs))) for _ in range(2000))
            print(f"{kind:12}{load:6}{plain:9.1f} us{guarded:13.1f} us{median(pairs):+8.1%}"
                  f"   {likely[50]:+.1%} to {likely[-51]:+.1%}")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{error}\n{error.stderr}")
    finally:
        if bench:
            bench.stop()
        shutil.rmtree(folder, ignore_errors=True)


main()
