"""The MCP SDK for Python: `python_sdk.py MCP_URL [CLIENT_METADATA_URL]`.

Signs in, uses tools, and refreshes: with the metadata that it knows, and then as another process would that has
found nothing but the stored tokens, which sends the refresh token to `/token` of the MCP server's host.
"""

import asyncio
import sys

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

from native import Listener, tell


class Stored:
    """What a client keeps in a file."""

    def __init__(self):
        self.tokens = None
        self.client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


async def ask(url):
    tell(open=url)


def provider(url, stored, listener, metadata_url):
    async def come_back():
        back = await asyncio.to_thread(listener.wait)
        if "code" not in back:
            raise PermissionError(back["error"])
        return AuthorizationCodeResult(code=back["code"], state=back["state"], iss=back["iss"])

    metadata = OAuthClientMetadata(client_name="Python SDK", redirect_uris=[listener.url])
    return OAuthClientProvider(url, metadata, stored, ask, come_back, metadata_url)


async def whoami(client):
    answer = await client.call_tool("whoami", {})
    assert not answer.is_error, answer
    return answer.structured_content


async def use(url, auth, work):
    async with httpx2.AsyncClient(auth=auth, timeout=30) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            return await work(client)


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


def failure(error):
    """The first real error of a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


try:
    tell(result=asyncio.run(main(*sys.argv[1:])))
except BaseException as error:
    tell(failure=failure(error))
    raise
