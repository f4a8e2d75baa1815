"""An MCP server over standard input and output, without any library, that does what its tests ask of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

out = threading.Lock()


def say(message):
    with out:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def text(value):
    return {"content": [{"type": "text", "text": value}]}


ready = False
asked = {}
cancelled = []
waiting = []
client = None
print("hello, I am no message", flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    params = message.get("params", {})
    if method == "initialize":
        client = params["clientInfo"]["name"]
        if client == "slow":
            time.sleep(600)
        if client == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say({"id": id, "result": {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                                  "serverInfo": {"name": "by-hand", "version": "1"}}})
    elif method == "notifications/initialized":
        ready = True
    elif method == "tools/list":
        say({"id": id, "result": {"tools": [{"name": "who", "inputSchema": {"type": "object"}}]}})
    elif method == "tools/call":
        name = params["name"]
        if name == "who":
            say({"id": id, "result": text(json.dumps({"pid": os.getpid(), "client": client, "ready": ready}))})
        elif name == "steps":
            for step in (1, 2):
                say({"method": "notifications/progress",
                     "params": {"progressToken": params["_meta"]["progressToken"], "progress": step}})
            say({"id": id, "result": text("done")})
        elif name == "ask":
            asked["q1"] = id
            say({"id": "q1", "method": "elicitation/create",
                 "params": {"message": "really?", "requestedSchema": {"type": "object", "properties": {}}}})
        elif name == "wait":
            waiting.append(id)
            say({"method": "notifications/progress",
                 "params": {"progressToken": params["_meta"]["progressToken"], "progress": 1}})
        elif name == "release":
            for one in waiting:
                say({"id": one, "result": text("late")})
            say({"id": id, "result": text(json.dumps(cancelled))})
        elif name == "environment":
            say({"id": id, "result": text(json.dumps(dict(os.environ)))})
        elif name == "orphan":
            # What is left behind has the output, and never writes to it.
            subprocess.Popen(["sleep", "600"])
            os._exit(3)
        elif name == "flood":
            sys.stdout.write("x" * (5 << 20))
            sys.stdout.flush()
        elif name == "die":
            os._exit(3)
    elif method == "notifications/cancelled":
        cancelled.append(params["requestId"])
    elif method is None and id in asked:
        say({"id": asked.pop(id), "result": text(message["result"]["action"])})
if client == "stubborn":
    time.sleep(600)
