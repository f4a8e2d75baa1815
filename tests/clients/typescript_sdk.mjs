// The MCP SDKs for TypeScript: `typescript_sdk.mjs 1|2 MCP_URL`. 1 is @modelcontextprotocol/sdk, 2 is
// @modelcontextprotocol/client. Signs in, uses tools, and refreshes when the server refuses its access token.

import { randomUUID } from 'node:crypto';
import { listen, tell } from './native.mjs';

const [generation, url] = process.argv.slice(2);
const { Client, StreamableHTTPClientTransport, UnauthorizedError } =
    generation === '1'
        ? {
              ...(await import('@modelcontextprotocol/sdk/client/index.js')),
              ...(await import('@modelcontextprotocol/sdk/client/streamableHttp.js')),
              ...(await import('@modelcontextprotocol/sdk/client/auth.js')),
          }
        : await import('@modelcontextprotocol/client');

// What a client keeps, and how it reaches its person.
class Provider {
    #stored = {};
    #state = randomUUID();

    constructor(redirectUrl) {
        this.redirectUrl = redirectUrl;
        this.clientMetadata = {
            client_name: `TypeScript SDK ${generation}`,
            redirect_uris: [redirectUrl],
            grant_types: ['authorization_code', 'refresh_token'],
            response_types: ['code'],
            token_endpoint_auth_method: 'none',
        };
    }

    state() {
        return this.#state;
    }

    clientInformation() {
        return this.#stored.client;
    }

    saveClientInformation(client) {
        this.#stored.client = client;
    }

    tokens() {
        return this.#stored.tokens;
    }

    saveTokens(tokens) {
        this.#stored.tokens = tokens;
    }

    codeVerifier() {
        return this.#stored.verifier;
    }

    saveCodeVerifier(verifier) {
        this.#stored.verifier = verifier;
    }

    discoveryState() {
        return this.#stored.discovery;
    }

    saveDiscoveryState(discovery) {
        this.#stored.discovery = discovery;
    }

    redirectToAuthorization(url) {
        tell({ open: String(url) });
    }
}

async function whoami(client) {
    const answer = await client.callTool({ name: 'whoami', arguments: {} });
    if (answer.isError) throw new Error(JSON.stringify(answer));
    return answer.structuredContent;
}

async function main() {
    const listener = await listen();
    const provider = new Provider(listener.url);
    const connect = async () => {
        const client = new Client({ name: 'typescript', version: '1.0.0' });
        const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
        try {
            await client.connect(transport);
            return client;
        } catch (error) {
            if (!(error instanceof UnauthorizedError)) throw error;
            const back = await listener.arrived;
            if (back.get('state') !== provider.state()) throw new Error('the state of another request');
            if (!back.has('code')) throw new Error(back.get('error'));
            await transport.finishAuth(generation === '1' ? back.get('code') : back);
            return undefined;
        }
    };
    if (await connect()) throw new Error('nobody was asked to sign in');
    const client = await connect();
    const tools = (await client.listTools()).tools.map(tool => tool.name).sort();
    const sum = await client.callTool({ name: 'add', arguments: { a: 2, b: 3 } });
    const user = await whoami(client);
    const before = provider.tokens();
    provider.saveTokens({ ...before, access_token: 'expired' });
    await whoami(client);
    const after = provider.tokens();
    await client.close();
    return {
        tools,
        sum: sum.structuredContent,
        user,
        scope: before.scope,
        refreshed: after.access_token !== before.access_token && after.refresh_token !== before.refresh_token,
        client_id: provider.clientInformation().client_id,
    };
}

try {
    tell({ result: await main() });
    process.exit(0);
} catch (error) {
    tell({ failure: `${error.name}: ${error.message}` });
    console.error(error);
    process.exit(1);
}
