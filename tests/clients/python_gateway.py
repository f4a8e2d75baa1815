"""The MCP SDK for Python runs a gateway by its tools: `python_gateway.py MCP_URL legacy|REVISION UPSTREAM GATEWAY`.

Makes a host, protects it, reads its log and deletes it. The person is asked before the host is changed and deleted, and agrees.
"""

import asyncio
import http.client
import sys

import mcp_types as types

from native import Listener, tell
from python_login import Stored, failure, provider, use

HOST = "made.example.test"


def look(gateway):
    """What the host answers to anybody."""
    connection = http.client.HTTPConnection(gateway, timeout=30)
    connection.request("GET", "/looked", headers={"Host": HOST})
    return connection.getresponse().status


async def main(url, mode, upstream, gateway):
    asked, seen = [], []

    async def agree(context, params):
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"confirm": True})

    async def work(client):
        async def call(name, **arguments):
            answer = await client.call_tool(name, arguments)
            assert not answer.is_error, answer
            return answer.structured_content

        names = {tool.name for tool in (await client.list_tools()).tools}
        await call("create_proxy", proxy_hostname=HOST, target_url=upstream, https_redirect="off")
        seen.append(await asyncio.to_thread(look, gateway))
        await call("enable_proxy_auth", proxy_hostname=HOST, mode="forward")
        seen.append(await asyncio.to_thread(look, gateway))
        for _ in range(300):
            logs = (await call("get_logs", hostname=HOST, path="/looked"))["logs"]
            if len(logs) == 2:
                break
            await asyncio.sleep(0.05)
        await call("delete_proxy", proxy_hostname=HOST)
        seen.append(await asyncio.to_thread(look, gateway))
        left = (await call("list_proxies"))["result"]
        return {
            "protocol": client.protocol_version,
            "founding": sorted(names & {"echo", "health_check", "list_proxies", "run_command"}),
            "seen": seen,
            "logged": [record["status_code"] for record in logs],
            "left": [proxy["proxy_hostname"] for proxy in left if proxy["proxy_hostname"] == HOST],
            "asked": asked,
        }

    auth = provider(url, Stored(), Listener(), None)
    return await use(url, auth, work, mode=mode, elicitation_callback=agree)


try:
    tell(result=asyncio.run(main(*sys.argv[1:])))
except BaseException as error:
    tell(failure=failure(error))
    raise
