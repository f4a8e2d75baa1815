"""How the MCP SDK for Python signs in."""

import asyncio

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

from native import tell


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


async def use(url, auth, work, **options):
    async with httpx2.AsyncClient(auth=auth, timeout=30) as http:
        async with Client(streamable_http_client(url, http_client=http), **options) as client:
            return await work(client)


def failure(error):
    """The first real error of a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
