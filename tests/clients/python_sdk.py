"""The MCP SDK for Python: `python_sdk.py MCP_URL [CLIENT_METADATA_URL]`.

Signs in, uses tools, and refreshes: with the metadata that it knows, and then as another process would that has
found nothing but the stored tokens, which sends the refresh token to `/token` of the MCP server's host.
"""

import asyncio
import sys

from native import Listener, tell
from python_login import Stored, failure, provider, use


async def whoami(client):
    answer = await client.call_tool("whoami", {})
    assert not answer.is_error, answer
    return answer.structured_content


async def main(url, metadata_url=None):
    stored, listener = Stored(), Listener()
    auth = provider(url, stored, listener, metadata_url)

    async def first(client):
        tools = sorted(tool.name for tool in (await client.list_tools()).tools)
        sum = await client.call_tool("add", {"a": 2, "b": 3})
        user = await whoami(client)
        before = stored.tokens
        auth.context.token_expiry_time = 1
        await whoami(client)
        return {
            "protocol": client.protocol_version,
            "tools": tools,
            "sum": sum.structured_content,
            "user": user,
            "scope": before.scope,
            "refreshed": stored.tokens.refresh_token != before.refresh_token,
        }

    result = await use(url, auth, first)
    before = stored.tokens
    later = provider(url, stored, listener, metadata_url)
    later.context.token_expiry_time = 1
    await use(url, later, whoami)
    result["refreshed_later"] = stored.tokens.refresh_token != before.refresh_token
    result["client_id"] = stored.client.client_id
    return result


try:
    tell(result=asyncio.run(main(*sys.argv[1:])))
except BaseException as error:
    tell(failure=failure(error))
    raise
