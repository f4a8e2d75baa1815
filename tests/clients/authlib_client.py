"""Authlib, which knows nothing of MCP: `authlib_client.py MCP_URL`.

Finds the server by its metadata, registers (RFC 7591), signs in with a code and PKCE, lets another library check
the tokens' signatures, introspects, refreshes and revokes.
"""

import re
import sys

import httpx2
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.jwk import KeySet

from native import Listener, tell

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "authlib", "version": "1.0.0"},
    },
}


def good(response, status=200):
    assert response.status_code == status, f"{response.url}: {response.status_code} {response.text}"
    return response.json()


def call(http, url, token=None):
    """The status of a first call of the MCP server."""
    headers = {"accept": "application/json, text/event-stream"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    return http.post(url, json=INITIALIZE, headers=headers)


def main(url):
    http, listener = httpx2.Client(timeout=30), Listener()
    refused = call(http, url)
    assert refused.status_code == 401, refused.status_code
    found = re.search('resource_metadata="([^"]+)"', refused.headers["www-authenticate"])
    resource = good(http.get(found[1]))
    issuer = resource["authorization_servers"][0]
    server = good(http.get(f"{issuer}/.well-known/oauth-authorization-server"))
    assert server["issuer"] == issuer, server
    keys = KeySet.import_key_set(good(http.get(server["jwks_uri"])))

    wanted = {
        "client_name": "Authlib",
        "redirect_uris": [listener.url],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": "client_secret_basic",
    }
    registered = good(http.post(server["registration_endpoint"], json=wanted), 201)
    client = OAuth2Client(
        registered["client_id"],
        registered["client_secret"],
        token_endpoint_auth_method=registered["token_endpoint_auth_method"],
        redirect_uri=listener.url,
        scope=" ".join(["openid", *resource["scopes_supported"]]),
        code_challenge_method="S256",
        timeout=30,
    )
    verifier, nonce = generate_token(48), generate_token()
    open_url, state = client.create_authorization_url(
        server["authorization_endpoint"], code_verifier=verifier, resource=resource["resource"], nonce=nonce
    )
    tell(open=open_url)
    back = listener.wait()
    assert (back["state"], back["iss"]) == (state, issuer), back
    token = client.fetch_token(
        server["token_endpoint"],
        grant_type="authorization_code",
        code=back["code"],
        code_verifier=verifier,
        resource=resource["resource"],
    )
    access = jwt.decode(token["access_token"], keys, algorithms=["RS256"])
    identity = jwt.decode(token["id_token"], keys, algorithms=["RS256"]).claims
    assert (identity["iss"], identity["aud"]) == (issuer, client.client_id), identity
    assert identity["nonce"] == nonce, identity
    called = call(http, url, token["access_token"]).status_code

    def introspect(text):
        return good(client.introspect_token(server["introspection_endpoint"], token=text))

    before = introspect(token["access_token"])
    refreshed = client.refresh_token(
        server["token_endpoint"], refresh_token=token["refresh_token"], resource=resource["resource"]
    )
    rotated = refreshed["refresh_token"] != token["refresh_token"]
    revoked = client.revoke_token(
        server["revocation_endpoint"], token=refreshed["refresh_token"], token_type_hint="refresh_token"
    )
    after = introspect(refreshed["access_token"])
    called_after = call(http, url, refreshed["access_token"])
    try:
        client.refresh_token(server["token_endpoint"], refresh_token=refreshed["refresh_token"])
        refused = None
    except OAuthError as error:
        refused = error.error
    return {
        "header": access.header,
        "claims": access.claims,
        "identity": identity,
        "called": called,
        "introspected": before,
        "refreshed": rotated,
        "revoked": revoked.status_code,
        "introspected_after": after,
        "called_after": [called_after.status_code, called_after.headers.get("www-authenticate")],
        "refresh_after": refused,
    }


try:
    tell(result=main(*sys.argv[1:]))
except BaseException as error:
    tell(failure=f"{type(error).__name__}: {error}")
    raise
