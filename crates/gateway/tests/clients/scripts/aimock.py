"""The official clients for Python, through the gateway, to the providers that aimock imitates."""

import json
import os

import anthropic
import openai
from google import genai
from google.genai import types

BASE, KEY = os.environ["GATEWAY"], os.environ["KEY"]
PROVIDERS = os.environ["PROVIDERS"].split(",")
chat = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0)
azure = openai.AzureOpenAI(azure_endpoint=BASE, api_key=KEY, api_version="2024-10-21", max_retries=0)
claude = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
gemini = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=BASE))

ANSWER = "The answer of a simulated model, word by word."
CALLS = [("get_weather", {"city": "Bern"}), ("get_time", {"city": "Thun"})]
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ask = [{"role": "user", "content": "good day"}]
wanted = [{"role": "user", "content": "how is the weather?"}]


def openai_chat(client, model):
    plain = client.chat.completions.create(model=model, messages=ask)
    assert plain.choices[0].message.content == ANSWER and plain.choices[0].finish_reason == "stop", plain
    events = list(client.chat.completions.create(model=model, messages=ask, stream=True))
    assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == ANSWER, events
    assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "stop", events

    tools = [
        {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
        for name, _ in CALLS
    ]
    with client.chat.completions.stream(model=model, messages=wanted, tools=tools) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == CALLS, (model, calls)
    assert final.choices[0].finish_reason == "tool_calls" and len({call.id for call in calls}) == 2, (model, final)
    said = [
        {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}
        for call in calls
    ]
    answered = wanted + [{"role": "assistant", "content": None, "tool_calls": said}]
    answered += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    done = client.chat.completions.create(model=model, messages=answered, tools=tools)
    assert done.choices[0].message.content == "It is sunny in Bern.", (model, done)


def openai_responses(model):
    made = chat.responses.create(model=model, input="good day")
    assert made.output_text == ANSWER and made.status == "completed", (model, made)
    with chat.responses.stream(model=model, input="good day") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == ANSWER, model
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", (model, kinds)
    tools = [{"type": "function", "name": name, "parameters": schema} for name, _ in CALLS]
    made = chat.responses.create(model=model, input="how is the weather?", tools=tools)
    calls = [item for item in made.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLS, (model, made)


def anthropic_messages(model):
    plain = claude.messages.create(model=model, max_tokens=50, messages=ask)
    assert plain.content[0].text == ANSWER and plain.stop_reason == "end_turn", (model, plain)
    tools = [{"name": name, "description": name, "input_schema": schema} for name, _ in CALLS]
    with claude.messages.stream(model=model, max_tokens=50, messages=wanted, tools=tools) as stream:
        final = stream.get_final_message()
    calls = [block for block in final.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == CALLS and final.stop_reason == "tool_use", (model, final)
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"} for call in calls]
    uses = [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input} for call in calls]
    answered = wanted + [{"role": "assistant", "content": uses}, {"role": "user", "content": results}]
    with claude.messages.stream(model=model, max_tokens=50, messages=answered, tools=tools) as stream:
        assert stream.get_final_text() == "It is sunny in Bern.", model


def google_generate(model):
    plain = gemini.models.generate_content(model=model, contents="good day")
    assert plain.text == ANSWER and plain.candidates[0].finish_reason == types.FinishReason.STOP, (model, plain)
    pieces = list(gemini.models.generate_content_stream(model=model, contents="good day"))
    assert "".join(piece.text or "" for piece in pieces) == ANSWER, (model, pieces)
    declared = [{"name": name, "description": name, "parameters": schema} for name, _ in CALLS]
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=declared)],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    made = gemini.models.generate_content(model=model, contents="how is the weather?", config=config)
    assert [(call.name, call.args) for call in made.function_calls] == CALLS, (model, made)


for provider in PROVIDERS:
    route = f"plain-{provider}"
    openai_chat(chat, route)
    openai_responses(route)
    anthropic_messages(route)
    google_generate(route)

openai_chat(azure, "plain-azure")
for model in ("plain-openai", "plain-azure"):
    made = chat.embeddings.create(model=model, input=["one", "two"], encoding_format="float")
    assert [one.embedding for one in made.data] == [[0.25, -0.5, 0.125, 1.0]] * 2, (model, made)

# Thoughts and their signature come back as they were.
with claude.messages.stream(model="thinker-anthropic", max_tokens=2000, messages=ask) as stream:
    final = stream.get_final_message()
thought, text = final.content
assert (thought.type, thought.thinking, thought.signature) == ("thinking", "Six times seven.", "c2lnbmF0dXJl"), final
assert text.text == "Forty-two.", final

print("ok")
