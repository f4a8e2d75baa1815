// The MCP SDKs for TypeScript run a gateway by its tools: `typescript_gateway.mjs 1|2 MCP_URL legacy|REVISION UPSTREAM
// GATEWAY`. Does the same as python_gateway.py, and makes mistakes, whose errors it has to be told.

import { request } from 'node:http';
import { tell } from './native.mjs';
import { login } from './typescript_login.mjs';

const [generation, url, mode, upstream, gateway] = process.argv.slice(2);
const HOST = 'made.example.test';

// What the host answers to anybody.
const look = () =>
    new Promise((resolve, reject) => {
        const [hostname, port] = gateway.split(':');
        const asked = request({ hostname, port, path: '/looked', headers: { host: HOST } }, answer => {
            answer.resume();
            resolve(answer.statusCode);
        });
        asked.on('error', reject);
        asked.end();
    });

async function main() {
    const asked = [];
    const agree = ({ params }) => {
        asked.push(params.message);
        return { action: 'accept', content: { confirm: true } };
    };
    const types = generation === '1' ? await import('@modelcontextprotocol/sdk/types.js') : undefined;
    const prepare = client => client.setRequestHandler(types?.ElicitRequestSchema ?? 'elicitation/create', agree);
    const negotiated = mode === 'legacy' ? 'legacy' : { pin: mode };
    const options = {
        capabilities: { elicitation: {} },
        ...(generation === '1' ? {} : { versionNegotiation: { mode: negotiated } }),
    };
    const { provider, client } = await login(generation, url, options, prepare);
    // Only tools that were listed have results that the SDK checks.
    const names = [];
    let cursor;
    do {
        const page = await client.listTools(cursor ? { cursor } : {});
        names.push(...page.tools.map(tool => tool.name));
        cursor = page.nextCursor;
    } while (cursor);
    const call = async (name, args = {}) => {
        const answer = await client.callTool({ name, arguments: args });
        if (answer.isError) throw new Error(JSON.stringify(answer));
        return answer.structuredContent;
    };
    const fails = async (name, args) => {
        const answer = await client.callTool({ name, arguments: args });
        return [answer.isError, answer.content[0].text];
    };
    const seen = [];
    await call('create_proxy', { proxy_hostname: HOST, target_url: upstream, https_redirect: 'off' });
    seen.push(await look());
    await call('enable_proxy_auth', { proxy_hostname: HOST, mode: 'forward' });
    seen.push(await look());
    let logs = [];
    for (let tries = 0; tries < 300 && logs.length !== 2; tries += 1) {
        if (tries > 0) await new Promise(resolve => setTimeout(resolve, 50));
        logs = (await call('get_logs', { hostname: HOST, path: '/looked' })).logs;
    }
    const health = await call('health_check');
    await call('delete_proxy', { proxy_hostname: HOST });
    seen.push(await look());
    const failed = [
        await fails('create_proxy', { proxy_hostname: HOST, target_url: 'ftp://nowhere' }),
        await fails('delete_proxy', { proxy_hostname: HOST }),
        await fails('list_routes', { no_such_argument: 1 }),
    ];
    const left = (await call('list_proxies')).result;
    const founding = ['echo', 'health_check', 'list_proxies', 'run_command'];
    const result = {
        protocol: mode === 'legacy' ? '2025-11-25' : mode,
        founding: founding.filter(name => names.includes(name)),
        tools: names.length,
        seen,
        logged: logs.map(record => record.status_code),
        left: left.map(proxy => proxy.proxy_hostname).filter(name => name === HOST),
        asked,
        failed,
        healthy: typeof health.status,
        scope: provider.tokens().scope,
    };
    await client.close();
    return result;
}

try {
    tell({ result: await main() });
    process.exit(0);
} catch (error) {
    tell({ failure: `${error.name}: ${error.message}` });
    console.error(error);
    process.exit(1);
}
