"""The official Anthropic client for Python, through the gateway, to providers of three kinds."""

import os

import anthropic

BASE, KEY = os.environ["GATEWAY"], os.environ["KEY"]
client = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
ask = [{"role": "user", "content": "good day"}]
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
tools = [{"name": name, "description": name, "input_schema": schema} for name in ("get_weather", "get_time")]


def raises(kind, call):
    try:
        call()
    except anthropic.AnthropicError as error:
        assert type(error) is kind, (type(error), error)
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


for route in ("to-anthropic", "to-openai", "to-gemini"):
    plain = client.messages.create(model=route, max_tokens=50, system="be short", messages=ask)
    assert plain.content[0].text == "You said: good day" and plain.stop_reason == "end_turn", (route, plain)
    assert plain.usage.input_tokens > 0 and plain.usage.output_tokens == 4, (route, plain.usage)

    with client.messages.stream(model=route, max_tokens=50, messages=ask) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "You said: good day" and final.stop_reason == "end_turn", (route, final)
    assert final.usage.output_tokens == 4, (route, final.usage)

    wanted = [{"role": "user", "content": "use get_weather and get_time"}]
    with client.messages.stream(model=route, max_tokens=50, messages=wanted, tools=tools) as stream:
        final = stream.get_final_message()
    calls = [block for block in final.content if block.type == "tool_use"]
    assert [call.name for call in calls] == ["get_weather", "get_time"], (route, final)
    assert all(call.input == {"city": "city"} for call in calls), (route, final)
    assert final.stop_reason == "tool_use", (route, final)

    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"} for call in calls]
    answered = wanted + [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in final.content]},
        {"role": "user", "content": results},
    ]
    plain = client.messages.create(model=route, max_tokens=50, messages=answered, tools=tools)
    assert "sunny" in plain.content[0].text, (route, plain)

    source = {"type": "base64", "media_type": "image/png", "data": os.environ["PICTURE"]}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": "what is this"}]
    seen = client.messages.create(model=route, max_tokens=50, messages=[{"role": "user", "content": parts}])
    assert seen.content[0].text == "You said: what is this", (route, seen)

    assert client.messages.count_tokens(model=route, messages=ask).input_tokens > 0, route
    limit = client.messages.create(model=route, max_tokens=2, messages=ask)
    assert limit.stop_reason == "max_tokens", (route, limit)

# Thoughts come back with their signature as they were, and go out again unchanged.
thought = client.messages.create(
    model="thinking", max_tokens=2048, messages=ask, thinking={"type": "enabled", "budget_tokens": 1024}
)
assert thought.content[0].type == "thinking" and thought.content[0].signature == "c2lnbmF0dXJl+/==", thought
with client.messages.stream(
    model="thinking", max_tokens=2048, messages=ask, thinking={"type": "enabled", "budget_tokens": 1024}
) as stream:
    final = stream.get_final_message()
assert final.content[0].signature == "c2lnbmF0dXJl+/==" and final.content[1].text == "done", final

names = {model.id for model in client.models.list()}
assert "to-anthropic" in names and "hidden" not in names, names

error = raises(
    anthropic.RateLimitError, lambda: client.messages.create(model="limited", max_tokens=5, messages=ask)
)
assert error.response.headers["retry-after"] == "7", error.response.headers
raises(anthropic.InternalServerError, lambda: client.messages.create(model="broken", max_tokens=5, messages=ask))
raises(anthropic.BadRequestError, lambda: client.messages.create(model="wrong", max_tokens=5, messages=ask))
raises(anthropic.NotFoundError, lambda: client.messages.create(model="no-such", max_tokens=5, messages=ask))
stranger = anthropic.Anthropic(base_url=BASE, api_key="sk-steward-nobody", max_retries=0)
raises(anthropic.AuthenticationError, lambda: stranger.messages.create(model="to-openai", max_tokens=5, messages=ask))

for route in ("cut-openai", "cut-anthropic"):
    text = ""
    try:
        with client.messages.stream(model=route, max_tokens=50, messages=ask) as stream:
            for piece in stream.text_stream:
                text += piece
            raise AssertionError(f"{route}: a truncated stream was accepted as {stream.get_final_message()}")
    except anthropic.APIError:
        assert text.startswith("one"), (route, text)

print("ok")
