"""Acts as Claude Code does, on a model that is not Anthropic's: streaming with tools, system blocks with cache marks, a
loop of tool calls until the model is done, tokens counted before."""

import json
import os

import anthropic

client = anthropic.Anthropic(
    base_url=os.environ["GATEWAY"],
    auth_token=os.environ["KEY"],
    api_key=None,
    max_retries=0,
    default_headers={
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14"
    },
)
system = [
    {"type": "text", "text": "You are a coding agent.", "cache_control": {"type": "ephemeral"}},
    {"type": "text", "text": "Working directory: /tmp", "cache_control": {"type": "ephemeral"}},
]
tools = [
    {
        "name": name,
        "description": f"The tool {name}.",
        "input_schema": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {"file_path": {"type": "string"}, "limit": {"type": "number"}},
            "required": ["file_path"],
            "additionalProperties": False,
        },
    }
    for name in ("Read", "Grep", "TodoWrite")
]
tools[-1]["cache_control"] = {"type": "ephemeral"}
model = os.environ["MODEL"]
messages = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "<system-reminder>be careful</system-reminder>"},
            {"type": "text", "text": "Read and Grep, then say what you saw", "cache_control": {"type": "ephemeral"}},
        ],
    }
]
assert client.beta.messages.count_tokens(model=model, system=system, tools=tools, messages=messages).input_tokens > 0
turns = 0
while True:
    turns += 1
    assert turns < 5, messages
    kinds, partial = [], {}
    stream = client.beta.messages.create(
        model=model,
        max_tokens=32000,
        system=system,
        tools=tools,
        messages=messages,
        metadata={"user_id": "user_1"},
        extra_body={"temperature": 1},
        stream=True,
    )
    content, stop = [], None
    for event in stream:
        kinds.append(event.type)
        if event.type == "content_block_start":
            assert event.index == len(content), (event, content)
            content.append(event.content_block.model_dump(exclude_none=True))
        elif event.type == "content_block_delta":
            block = content[event.index]
            if event.delta.type == "text_delta":
                block["text"] += event.delta.text
            elif event.delta.type == "input_json_delta":
                partial[event.index] = partial.get(event.index, "") + event.delta.partial_json
        elif event.type == "message_delta":
            stop = event.delta.stop_reason
            assert event.usage.output_tokens > 0, event
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds
    assert kinds.count("message_start") == 1 and kinds.count("message_stop") == 1, kinds
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(content), kinds

    for index, text in partial.items():
        content[index]["input"] = json.loads(text) if text else {}
    messages.append({"role": "assistant", "content": content})
    calls = [block for block in content if block["type"] == "tool_use"]
    if stop != "tool_use":
        assert stop == "end_turn" and not calls, (stop, content)
        break
    assert calls, content
    if turns == 1:
        assert [call["name"] for call in calls] == ["Read", "Grep"], calls
        assert len({call["id"] for call in calls}) == 2, calls
        assert calls[0]["input"]["file_path"] == "file_path", calls
    messages.append(
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": call["id"],
                    "content": [{"type": "text", "text": f"{call['name']} found it"}],
                    "is_error": call["name"] == "Grep",
                }
                for call in calls
            ],
        }
    )
assert turns == 2 and "found it" in content[-1]["text"], content
print("ok")
