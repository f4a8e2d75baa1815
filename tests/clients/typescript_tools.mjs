// What the MCP SDKs for TypeScript do with a server: `typescript_tools.mjs 1|2 MCP_URL legacy|auto|REVISION`. Signs
// in, and does the same as python_tools.py.

import { tell } from './native.mjs';
import { login } from './typescript_login.mjs';

const [generation, url, mode] = process.argv.slice(2);
const ANSWERS = { username: 'mona', email: 'mona@example.test', name: 'Mona', color: 'teal' };

const elicit = ({ params }) => {
    const wanted = Object.keys(params.requestedSchema.properties);
    return { action: 'accept', content: Object.fromEntries(wanted.map(name => [name, ANSWERS[name]])) };
};
const sample = ({ params }) => {
    const asked = [params.messages[0].content].flat()[0].text;
    return { role: 'assistant', content: { type: 'text', text: `You said ${asked}` }, model: 'test' };
};

async function refused(asked) {
    try {
        await asked;
        return null;
    } catch (error) {
        return error.code;
    }
}

async function main() {
    const logged = [];
    const log = ({ params }) => void logged.push([params.level, params.data]);
    const types = generation === '1' ? await import('@modelcontextprotocol/sdk/types.js') : undefined;
    const prepare = client => {
        client.setRequestHandler(types?.ElicitRequestSchema ?? 'elicitation/create', elicit);
        client.setRequestHandler(types?.CreateMessageRequestSchema ?? 'sampling/createMessage', sample);
        client.setNotificationHandler(types?.LoggingMessageNotificationSchema ?? 'notifications/message', log);
    };
    const negotiated = { legacy: 'legacy', auto: 'auto' }[mode] ?? { pin: mode };
    const options = {
        capabilities: { elicitation: {}, sampling: {} },
        ...(generation === '1' ? {} : { versionNegotiation: { mode: negotiated } }),
    };
    const { client } = await login(generation, url, options, prepare);
    const call = (name, args = {}, options = undefined) => {
        const wanted = { name, arguments: args };
        return generation === '1' ? client.callTool(wanted, undefined, options) : client.callTool(wanted, options);
    };
    const text = async (name, args) => {
        const answer = await call(name, args);
        if (answer.isError) throw new Error(JSON.stringify(answer));
        return answer.content[0].text;
    };
    const progress = [];
    await call('test_tool_with_progress', {}, { onprogress: told => progress.push([told.progress, told.total]) });
    if (mode === 'legacy') {
        await client.setLoggingLevel('info');
        await call('test_tool_with_logging');
    }
    const resource = await client.readResource({ uri: 'test://template/42/data' });
    const prompt = await client.getPrompt({
        name: 'test_prompt_with_arguments',
        arguments: { arg1: 'one', arg2: 'two' },
    });
    const completed = await client.complete({
        ref: { type: 'ref/prompt', name: 'test_prompt_with_arguments' },
        argument: { name: 'arg1', value: 'par' },
    });
    const result = {
        tools: (await client.listTools()).tools.length,
        resources: (await client.listResources()).resources.map(resource => resource.uri),
        prompts: (await client.listPrompts()).prompts.length,
        sum: (await call('add', { a: 2, b: 3 })).structuredContent,
        seen: (await call('whoami')).structuredContent,
        failed: (await call('test_error_handling')).isError,
        image: (await call('test_image_content')).content[0].mimeType,
        elicited: await text('test_elicitation', { message: 'Who is there?' }),
        rounds: await text('test_input_required_result_multi_round'),
        sampled: await text('test_sampling', { prompt: 'hello' }),
        resource: resource.contents[0].text,
        prompt: prompt.messages[0].content.text,
        completed: completed.completion.values,
        progress,
        logged,
        no_tool: await refused(call('no_such_tool')),
        no_resource: await refused(client.readResource({ uri: 'test://nothing' })),
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
