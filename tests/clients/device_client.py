"""A device without a browser (RFC 8628): `device_client.py ISSUER MCP_URL`."""

import sys
import time

import httpx2

from native import tell

GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def main(issuer, resource):
    http = httpx2.Client(timeout=30)
    server = http.get(f"{issuer}/.well-known/oauth-authorization-server").raise_for_status().json()
    wanted = {"client_name": "Television", "grant_types": [GRANT], "token_endpoint_auth_method": "none"}
    client = http.post(server["registration_endpoint"], json=wanted).raise_for_status().json()
    asked = {"client_id": client["client_id"], "resource": resource}
    flow = http.post(server["device_authorization_endpoint"], data=asked).raise_for_status().json()
    tell(device=flow)
    interval = flow.get("interval", 5)
    while True:
        time.sleep(interval)
        asked = {"grant_type": GRANT, "device_code": flow["device_code"], "client_id": client["client_id"]}
        answer = http.post(server["token_endpoint"], data=asked)
        body = answer.json()
        if answer.status_code == 200:
            return body
        if body["error"] == "slow_down":
            interval += 5
        elif body["error"] != "authorization_pending":
            raise PermissionError(body["error"])


try:
    tell(result=main(*sys.argv[1:]))
except BaseException as error:
    tell(failure=f"{type(error).__name__}: {error}")
    raise
