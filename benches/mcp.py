"""What it costs a protected host that it knows of MCP. See mcp.sh."""
import http.client
import json
import os
import re
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
ROUNDS = int(os.environ.get("ROUNDS", 21))
SECONDS = int(os.environ.get("SECONDS_EACH", 1))
KINDS = os.environ.get("KINDS", "json-2025 sse-2025 json-2026 sse-2026").split()
TLS = os.environ.get("TLS") != "0"
CONNECTIONS = 16
PAUSE = int(os.environ.get("PAUSE", 2))

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
    # A server names a session once.
    map $http_mcp_session_id $session { '' 1868a90c-4a3f-4f1b-8f0b-6a7d2c9e5b11; default ''; }
    server { listen 127.0.0.1:%(json)d; default_type application/json; %(session)s return 200 '%(answer)s'; }
    server { listen 127.0.0.1:%(sse)d; default_type text/event-stream; %(session)s
             return 200 'data: %(progress)s\n\nid: 1\ndata: %(answer)s\n\n'; }
}
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


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
        self.daemon = self.start("portcullis", [BINARY, "serve"], self.env)
        wait("portcullis", lambda: self.cli("system", "ready"))
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

    @staticmethod
    def host(answer, policy):
        return f"{'mcp' if policy else 'plain'}-{answer}.bench.test"

    def start(self, name, command, env):
        log = open(self.folder / f"{name}.log", "ab")
        process = subprocess.Popen(command, env=env, cwd=self.folder, stdout=log, stderr=log)
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

    def script(self, host, revision):
        """The load of a host, for wrk."""
        headers = self.headers(host, revision)
        if revision == "2025":
            headers["Mcp-Session-Id"] = self.ask(host, headers, self.call(revision)).getheader("Mcp-Session-Id")
        self.ask(host, headers, self.call(revision))
        lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
        path = self.folder / f"{host}-{revision}.lua"
        # The same rate for both hosts: how often a busy peer has to be woken depends on how busy it is.
        pause = [f"function delay() return {PAUSE} end"] if PAUSE else []
        path.write_text("\n".join(['wrk.method = "POST"', f"wrk.body = [==[{self.call(revision)}]==]", *lines, *pause]))
        return path

    def cpu(self):
        # Nanoseconds of each thread: what the process as a whole is said to have used is rounded to ticks.
        tasks = Path(f"/proc/{self.daemon.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def measure(self, script):
        """CPU seconds for each request."""
        before = self.cpu()
        url = f"http{'s' if TLS else ''}://127.0.0.1:{self.port}/mcp"
        said = subprocess.run(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(script), url], check=True,
                              stdout=subprocess.PIPE, timeout=SECONDS + 60).stdout.decode()
        # The writers of records work on for a moment.
        time.sleep(0.5)
        used = self.cpu() - before
        if "Non-2xx" in said or "Socket errors" in said:
            sys.exit(f"requests failed:\n{said}")
        return used / int(re.search(r"(\d+) requests in", said)[1])


def main():
    folder = Path(tempfile.mkdtemp(prefix="portcullis-mcp-"))
    bench = None
    try:
        bench = Bench(folder)
        print(f"CPU for each call, medians of {ROUNDS} rounds\n"
              f"{'':12}{'plain':>12}{'with a policy':>16}{'more':>8}{'best fifth':>12}")
        for kind in KINDS:
            answer, revision = kind.split("-")
            hosts = [bench.host(answer, None), bench.host(answer, POLICY)]
            scripts = [bench.script(host, revision) for host in hosts]
            found = [[], []]
            for number in range(ROUNDS + 1):
                for each, script in zip(found, scripts):
                    used = bench.measure(script)
                    # The first ones only warm up.
                    if number:
                        each.append(used * 1e6)
            # Of each round: a machine that others use is as slow for the one as for the other, for a moment.
            ratios = sorted(b / a for a, b in zip(*found))
            # Others only add to what it takes: the best rounds are those that they left alone.
            best = [statistics.median(sorted(each)[:max(1, ROUNDS // 5)]) for each in found]
            plain, guarded = map(statistics.median, found)
            print(f"{kind:12}{plain:9.1f} us{guarded:13.1f} us{statistics.median(ratios) - 1:+8.1%}"
                  f"{best[1] / best[0] - 1:+12.1%}   (rounds: {ratios[0] - 1:+.1%} to {ratios[-1] - 1:+.1%})", flush=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{error}\n{error.stderr}")
    finally:
        if bench:
            bench.stop()
        shutil.rmtree(folder, ignore_errors=True)


main()
