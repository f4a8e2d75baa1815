// The MCP SDKs for TypeScript: `typescript_sdk.mjs 1|2 MCP_URL`. 1 is @modelcontextprotocol/sdk, 2 is
// @modelcontextprotocol/client. Signs in, uses tools, and refreshes when the server refuses its access token.

import { tell } from './native.mjs';
import { login } from './typescript_login.mjs';

const [generation, url] = process.argv.slice(2);

async function whoami(client) {
    const answer = await client.callTool({ name: 'whoami', arguments: {} });
    if (answer.isError) throw new Error(JSON.stringify(answer));
    return answer.structuredContent;
}

async function main() {
    const { provider, client } = await login(generation, url);
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
