"""Google's official client for Python, through the gateway, to providers of three kinds."""

import base64
import os

from google import genai
from google.genai import errors, types

BASE, KEY = os.environ["GATEWAY"], os.environ["KEY"]
client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=BASE))
schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}
tools = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(name=name, description=name, parameters=schema)
        for name in ("get_weather", "get_time")
    ]
)
by_hand = types.AutomaticFunctionCallingConfig(disable=True)

for route in ("to-gemini", "to-openai", "to-anthropic"):
    plain = client.models.generate_content(model=route, contents="good day")
    assert plain.text == "You said: good day", (route, plain)
    assert plain.usage_metadata.candidates_token_count == 4, (route, plain.usage_metadata)
    assert plain.candidates[0].finish_reason == types.FinishReason.STOP, (route, plain)

    events = list(client.models.generate_content_stream(model=route, contents="good day"))
    assert "".join(event.text or "" for event in events) == "You said: good day", (route, events)
    assert events[-1].candidates[0].finish_reason == types.FinishReason.STOP, (route, events[-1])
    assert events[-1].usage_metadata.candidates_token_count == 4, (route, events[-1])

    config = types.GenerateContentConfig(tools=[tools], automatic_function_calling=by_hand)
    for answer in (
        client.models.generate_content(model=route, contents="use get_weather and get_time", config=config),
        list(
            client.models.generate_content_stream(
                model=route, contents="use get_weather", config=config
            )
        )[-1],
    ):
        assert answer is not None
    calls = client.models.generate_content(
        model=route, contents="use get_weather and get_time", config=config
    ).function_calls
    assert [call.name for call in calls] == ["get_weather", "get_time"], (route, calls)
    assert calls[0].args == {"city": "city"}, (route, calls)

    results = [
        types.Part.from_function_response(name=call.name, response={"result": "sunny"}) for call in calls
    ]
    history = [
        types.Content(role="user", parts=[types.Part(text="use get_weather and get_time")]),
        types.Content(role="model", parts=[types.Part(function_call=call) for call in calls]),
        types.Content(role="user", parts=results),
    ]
    plain = client.models.generate_content(model=route, contents=history, config=config)
    assert "sunny" in plain.text, (route, plain)

    picture = types.Part.from_bytes(data=base64.b64decode(os.environ["PICTURE"]), mime_type="image/png")
    seen = client.models.generate_content(model=route, contents=[picture, "what is this"])
    assert seen.text == "You said: what is this", (route, seen)

for route in ("embed-google", "embed-openai"):
    made = client.models.embed_content(model=route, contents=["one", "two"])
    assert len(made.embeddings) == 2 and len(made.embeddings[0].values) == 8, (route, made)

assert client.models.count_tokens(model="to-gemini", contents="good day").total_tokens > 0
names = {model.name for model in client.models.list()}
assert "models/to-gemini" in names, names

for route, code in (("limited", 429), ("broken", 500), ("wrong", 400), ("no-such", 404)):
    try:
        client.models.generate_content(model=route, contents="x")
        raise AssertionError(f"{route}: no error")
    except errors.APIError as error:
        kind = errors.ServerError if code >= 500 else errors.ClientError
        assert type(error) is kind and error.code == code, (route, error)
print("ok")
