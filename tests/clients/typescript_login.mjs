// How the MCP SDKs for TypeScript sign in. Generation 1 is @modelcontextprotocol/sdk, 2 is
// @modelcontextprotocol/client.

import { randomUUID } from 'node:crypto';
import { listen, tell } from './native.mjs';

// What a client keeps, and how it reaches its person.
class Provider {
    #stored = {};
    #state = randomUUID();

    constructor(generation, redirectUrl) {
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

// The provider of one client, and what connects it: `prepare` is told each client before it does.
export async function login(generation, url, options = {}, prepare = () => {}) {
    const { Client, StreamableHTTPClientTransport, UnauthorizedError } =
        generation === '1'
            ? {
                  ...(await import('@modelcontextprotocol/sdk/client/index.js')),
                  ...(await import('@modelcontextprotocol/sdk/client/streamableHttp.js')),
                  ...(await import('@modelcontextprotocol/sdk/client/auth.js')),
              }
            : await import('@modelcontextprotocol/client');
    const listener = await listen();
    const provider = new Provider(generation, listener.url);
    const connect = async () => {
        const client = new Client({ name: 'typescript', version: '1.0.0' }, options);
        prepare(client);
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
    return { provider, client: await connect() };
}
