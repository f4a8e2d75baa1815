"""What the MCP SDK for Python does with a server: `python_tools.py MCP_URL legacy|auto|REVISION`.

Signs in, and does what clients do besides: tools that tell how far they are, that log, and that ask; resources;
prompts. The person and the model that are asked answer always the same.
"""

import asyncio
import sys

import mcp_types as types
from mcp.shared.exceptions import MCPError

from native import Listener, tell
from python_login import Stored, failure, provider, use

ANSWERS = {"username": "mona", "email": "mona@example.test", "name": "Mona", "color": "teal"}


async def elicit(context, params):
    wanted = params.requested_schema["properties"]
    return types.ElicitResult(action="accept", content={name: ANSWERS[name] for name in wanted})


async def sample(context, params):
    asked = params.messages[0].content
    text = f"You said {(asked[0] if isinstance(asked, list) else asked).text}"
    return types.CreateMessageResult(role="assistant", content=types.TextContent(text=text), model="test")


async def refused(asked):
    """The code with which something is refused."""
    try:
        await asked
    except MCPError as error:
        return error.error.code
    return None


async def main(url, mode):
    logged, progress = [], []

    async def log(params):
        logged.append([params.level, params.data])

    async def advance(done, total, message):
        progress.append([done, total])

    async def work(client):
        if mode == "legacy":
            await client.set_logging_level("info")

        async def call(name, arguments=None, **options):
            return await client.call_tool(name, arguments or {}, **options)

        async def text(name, arguments=None):
            answer = await call(name, arguments)
            assert not answer.is_error, answer
            return answer.content[0].text

        await call("test_tool_with_progress", progress_callback=advance)
        await call("test_tool_with_logging")
        resource = await client.read_resource("test://template/42/data")
        prompt = await client.get_prompt("test_prompt_with_arguments", {"arg1": "one", "arg2": "two"})
        completed = await client.complete(
            types.PromptReference(name="test_prompt_with_arguments"), {"name": "arg1", "value": "par"}
        )
        return {
            "protocol": client.protocol_version,
            "tools": len((await client.list_tools()).tools),
            "resources": [str(resource.uri) for resource in (await client.list_resources()).resources],
            "prompts": len((await client.list_prompts()).prompts),
            "sum": (await call("add", {"a": 2, "b": 3})).structured_content,
            "seen": (await call("whoami")).structured_content,
            "failed": (await call("test_error_handling")).is_error,
            "image": (await call("test_image_content")).content[0].mime_type,
            "elicited": await text("test_elicitation", {"message": "Who is there?"}),
            "rounds": await text("test_input_required_result_multi_round"),
            "sampled": await text("test_sampling", {"prompt": "hello"}),
            "resource": resource.contents[0].text,
            "prompt": prompt.messages[0].content.text,
            "completed": completed.completion.values,
            "progress": progress,
            "logged": logged,
            "no_tool": await refused(call("no_such_tool")),
            "no_resource": await refused(client.read_resource("test://nothing")),
        }

    auth = provider(url, Stored(), Listener(), None)
    return await use(
        url,
        auth,
        work,
        mode=mode,
        elicitation_callback=elicit,
        sampling_callback=sample,
        logging_callback=log,
        log_level="info",
    )


try:
    tell(result=asyncio.run(main(*sys.argv[1:])))
except BaseException as error:
    tell(failure=failure(error))
    raise
