"""Applications that retry what the gateway tells them to be a failure, and believe everything else, while llmock breaks things."""

import json
import os
import time
import urllib.request

import anthropic
import httpx
import openai
from google import genai
from google.genai import errors, types

BASE, KEY, LLMOCK = os.environ["GATEWAY"], os.environ["KEY"], os.environ["LLMOCK"]
EVERYWHERE = os.environ["EVERYWHERE"] == "1"
chat = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0)
claude = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
gemini = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=BASE))

# What a call meets. Those that can pass are tried again, the others are not.
PASSING = [{"type": "fail", "status": status} for status in (408, 500, 502, 503, 504, 529)]
PASSING += [{"type": "fail", "status": 429, "retry_after": 1}, {"type": "fail", "status": 503, "retry_after": 1}]
BREAKING = [
    {"type": "stream_fault", "kind": "truncate", "after_chunks": 3},
    {"type": "stream_fault", "kind": "disconnect", "after_chunks": 3},
    {"type": "stream_fault", "kind": "stall", "after_chunks": 3, "stall_seconds": 30},
    {"type": "stream_fault", "kind": "truncate", "after_chunks": 0},
    {"type": "slow_first_token", "seconds": 0.5},
]
GARBLED = {"type": "stream_fault", "kind": "malformed", "after_chunks": 3}
LASTING = [{"type": "fail", "status": status} for status in (400, 404, 422)]


def openai_chat(route, text, stream):
    asked = [{"role": "user", "content": text}]
    made = chat.chat.completions.create(model=route, messages=asked, stream=stream)
    if not stream:
        return made.choices[0].message.content
    # No look at the reason to stop: a cut that nobody tells is taken for a whole answer.
    return "".join(event.choices[0].delta.content or "" for event in made if event.choices)


def openai_responses(route, text, stream):
    made = chat.responses.create(model=route, input=text, stream=stream)
    if not stream:
        return made.output_text
    return "".join(event.delta for event in made if event.type == "response.output_text.delta")


def anthropic_messages(route, text, stream):
    asked = [{"role": "user", "content": text}]
    if not stream:
        return claude.messages.create(model=route, max_tokens=200, messages=asked).content[0].text
    with claude.messages.stream(model=route, max_tokens=200, messages=asked) as events:
        return "".join(events.text_stream)


def google_generate(route, text, stream):
    if not stream:
        return gemini.models.generate_content(model=route, contents=text).text
    return "".join(piece.text or "" for piece in gemini.models.generate_content_stream(model=route, contents=text))


def status_of(error):
    return getattr(error, "status_code", None) or getattr(error, "code", None)


def ask(call, route, text, stream):
    met = []
    for attempt in range(5):
        try:
            return call(route, text, stream)
        # Nothing else may come out of an official client: each of these is its own way to say what the gateway told it.
        except (openai.APIError, anthropic.APIError, errors.APIError, httpx.RemoteProtocolError) as error:
            status = status_of(error)
            met.append(f"{status}: {error}")
            if status in (400, 404, 422):
                return status
            response = getattr(error, "response", None)
            wait = float(response.headers.get("retry-after", "0")) if response is not None else 0
            time.sleep(max(wait, 0.1 * 3**attempt))
    raise AssertionError(f"no answer to {text}: {met}")


def tell(path, body):
    told = json.dumps(body).encode()
    request = urllib.request.Request(LLMOCK + "/_llmock/" + path, told, {"content-type": "application/json"})
    return urllib.request.urlopen(request).read()


def queue(behavior):
    assert json.loads(tell("scenario", {"behaviors": [behavior]}))["queued"] == 1


calls = [openai_chat, openai_responses, anthropic_messages, google_generate]
pairs = [(call, route) for route in ("openai", "anthropic", "gemini") for call in calls]
# Not judged: llmock only sees who stops reading if it has not sent everything by then.
tell("reset", {})
for at, (call, route) in enumerate(pairs):
    queue(GARBLED)
    assert ask(call, route, f"garbled {at}", True), (call.__name__, route)

tell("reset", {})
number = 0
for stream, behaviors in ((False, PASSING), (True, PASSING), (True, BREAKING), (False, LASTING), (True, LASTING)):
    for behavior in behaviors:
        for call, route in pairs if EVERYWHERE else [pairs[number * 5 % len(pairs)]]:
            number += 1
            queue(behavior)
            answer = ask(call, route, f"question {number}", stream)
            name = (call.__name__, route, stream, behavior, answer)
            if behaviors is LASTING:
                assert answer == behavior["status"], name
            else:
                assert isinstance(answer, str) and answer, name
print("faults", number)
print("ok")
