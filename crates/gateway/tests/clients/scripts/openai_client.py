"""The official OpenAI client for Python, through the gateway, to providers of three kinds."""

import base64
import json
import os
import struct

import openai
from pydantic import BaseModel

BASE, KEY = os.environ["GATEWAY"], os.environ["KEY"]
client = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0)
ask = [{"role": "user", "content": "good day"}]
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
tools = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
    for name in ("get_weather", "get_time")
]
flat_tools = [{"type": "function", **tool["function"]} for tool in tools]
picture = "data:image/png;base64," + os.environ["PICTURE"]


class City(BaseModel):
    name: str
    people: int


def raises(kind, call):
    try:
        call()
    except openai.OpenAIError as error:
        assert type(error) is kind, (type(error), error)
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


for route in ("to-openai", "to-anthropic", "to-gemini"):
    plain = client.chat.completions.create(model=route, messages=ask)
    assert plain.choices[0].message.content == "You said: good day", plain
    assert plain.choices[0].finish_reason == "stop", plain
    assert plain.usage.prompt_tokens > 0 and plain.usage.completion_tokens == 4, plain.usage

    events = list(client.chat.completions.create(model=route, messages=ask, stream=True))
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == "You said: good day", (route, text)
    assert all(event.usage is None for event in events), (route, events)
    assert events[-1].choices[0].finish_reason == "stop", (route, events[-1])

    events = list(
        client.chat.completions.create(
            model=route, messages=ask, stream=True, stream_options={"include_usage": True}
        )
    )
    assert events[-1].usage.completion_tokens == 4 and not events[-1].choices, (route, events[-1])

    wanted = [{"role": "user", "content": "use get_weather and get_time"}]
    plain = client.chat.completions.create(model=route, messages=wanted, tools=tools)
    calls = plain.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "get_time"], (route, plain)
    assert json.loads(calls[0].function.arguments) == {"city": "city"}, (route, calls)
    assert len({call.id for call in calls}) == 2 and all(call.id for call in calls), (route, calls)
    assert plain.choices[0].finish_reason == "tool_calls", (route, plain)

    with client.chat.completions.stream(model=route, messages=wanted, tools=tools) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "get_time"], (route, final)
    assert json.loads(calls[1].function.arguments) == {"city": "city"}, (route, calls)

    # The results go back, in order.
    answered = wanted + [final.choices[0].message.model_dump(exclude_none=True, include={"role", "tool_calls"})]
    for call in answered[1]["tool_calls"]:
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    answered += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    plain = client.chat.completions.create(model=route, messages=answered, tools=tools)
    assert "sunny" in plain.choices[0].message.content, (route, plain)

    parsed = client.chat.completions.parse(model=route, messages=ask, response_format=City)
    assert parsed.choices[0].message.parsed == City(name="name", people=1), (route, parsed)

    response = client.responses.create(model=route, input="good day")
    assert response.output_text == "You said: good day" and response.status == "completed", (route, response)
    with client.responses.stream(model=route, input="good day") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "You said: good day", route
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", (route, kinds)

    with client.responses.stream(model=route, input=wanted, tools=flat_tools) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    calls = [item for item in final.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["get_weather", "get_time"], (route, final)
    assert all(json.loads(call.arguments) == {"city": "city"} for call in calls), (route, calls)
    assert len({call.call_id for call in calls}) == 2 and all(call.call_id for call in calls), (route, calls)
    assert kinds.count("response.function_call_arguments.done") == 2, (route, kinds)
    assert "response.function_call_arguments.delta" in kinds and kinds[-1] == "response.completed", (route, kinds)
    answered = wanted + [
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        for call in calls
    ]
    answered += [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    with client.responses.stream(model=route, input=answered, tools=flat_tools) as stream:
        stream.until_done()
        assert "sunny" in stream.get_final_response().output_text, (route, stream.get_final_response())

    # The simulation repeats the text; the test looks at what the provider got of the picture.
    parts = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": picture}}]
    seen = client.chat.completions.create(model=route, messages=[{"role": "user", "content": parts}])
    assert seen.choices[0].message.content == "You said: what is this", (route, seen)
    parts = [{"type": "input_text", "text": "what is this"}, {"type": "input_image", "image_url": picture}]
    seen = client.responses.create(model=route, input=[{"role": "user", "content": parts}])
    assert seen.output_text == "You said: what is this", (route, seen)

for route in ("embed-openai", "embed-google"):
    made = client.embeddings.create(model=route, input=["one", "two"])
    assert len(made.data) == 2 and len(made.data[0].embedding) == 8, (route, made)
    assert made.data[0].embedding != made.data[1].embedding, route
    packed = client.embeddings.create(model=route, input="one", encoding_format="base64").data[0].embedding
    numbers = struct.unpack("<8f", base64.b64decode(packed))
    assert list(numbers) == made.data[0].embedding, (route, numbers)

names = {model.id for model in client.models.list()}
assert "to-openai" in names and "hidden" not in names, names
assert client.models.retrieve("to-openai").id == "to-openai"

error = raises(openai.RateLimitError, lambda: client.chat.completions.create(model="limited", messages=ask))
assert error.response.headers["retry-after"] == "7", error.response.headers
error = raises(openai.InternalServerError, lambda: client.chat.completions.create(model="broken", messages=ask))
raises(openai.BadRequestError, lambda: client.chat.completions.create(model="wrong", messages=ask))
raises(openai.NotFoundError, lambda: client.chat.completions.create(model="no-such-route", messages=ask))
stranger = openai.OpenAI(base_url=BASE + "/v1", api_key="sk-steward-nobody", max_retries=0)
raises(openai.AuthenticationError, lambda: stranger.chat.completions.create(model="to-openai", messages=ask))
raises(openai.NotFoundError, lambda: client.chat.completions.create(model="hidden", messages=ask))

# Half an answer is no answer: the client is told, whatever the provider's way to end it.
for route in ("cut-openai", "cut-anthropic"):
    text = ""
    try:
        for event in client.chat.completions.create(model=route, messages=ask, stream=True):
            text += (event.choices[0].delta.content or "") if event.choices else ""
            assert not event.choices or event.choices[0].finish_reason is None, (route, event)
        raise AssertionError(f"{route}: a truncated stream was accepted")
    except openai.APIError:
        assert text.startswith("one"), (route, text)

print("ok")
