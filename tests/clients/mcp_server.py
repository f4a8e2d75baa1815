"""An MCP server over streamable HTTP, as a protected host has it behind it: `mcp_server.py PUBLIC_HOST`.

Says on which port it listens by a line `{"port": N}`.
"""

import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from native import tell

server = MCPServer("Test tools", version="1.0.0")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def whoami(context: Context) -> dict[str, str]:
    """Tells who calls, by what the server sees of a request."""
    seen = context.headers or {}
    names = sorted(name for name in seen if name.startswith("x-auth-") or name in ("authorization", "cookie"))
    return {name: seen[name] for name in names}


listener = socket.create_server(("127.0.0.1", 0))
tell(port=listener.getsockname()[1])
security = TransportSecuritySettings(allowed_hosts=[f"{sys.argv[1]}:*"])
app = server.streamable_http_app(transport_security=security)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
