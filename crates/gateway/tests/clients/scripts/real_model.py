"""The official clients for Python, through the gateway, to a real model. Prints the tokens of each call as its client was told."""

import json
import os

import anthropic
import openai
from google import genai
from google.genai import types

BASE, KEY, SERVER = os.environ["GATEWAY"], os.environ["KEY"], os.environ["SERVER"]
ROUNDS, TOKENS = int(os.environ["ROUNDS"]), int(os.environ["TOKENS"])
chat = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0)
direct = openai.OpenAI(base_url=SERVER + "/v1", api_key="none", max_retries=0)
claude = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
gemini = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=BASE))


def told(surface, text, prompt, output):
    assert text.strip() and 0 < output <= TOKENS, (surface, text, output)
    print(json.dumps({"surface": surface, "input": prompt, "output": output}))


for number in range(ROUNDS):
    question = f"Write {number + 3} sentences about the sea."
    ask = [{"role": "user", "content": question}]
    # What the server itself says about this prompt, and about an answer that cannot end early.
    exact = {"messages": ask, "max_tokens": TOKENS, "temperature": 0, "extra_body": {"ignore_eos": True}}
    usage = direct.chat.completions.create(model="any", **exact).usage
    assert usage.completion_tokens == TOKENS, usage

    plain = chat.chat.completions.create(model="local", **exact)
    # The field is no official one; it reached the server, or the answer would end before.
    assert plain.usage.completion_tokens == TOKENS and plain.choices[0].finish_reason == "length", plain
    assert plain.usage.prompt_tokens == usage.prompt_tokens, (plain.usage, usage)
    told("chat", plain.choices[0].message.content, plain.usage.prompt_tokens, plain.usage.completion_tokens)

    events = list(
        chat.chat.completions.create(model="local", stream=True, stream_options={"include_usage": True}, **exact)
    )
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert events[-1].usage.prompt_tokens == usage.prompt_tokens, (events[-1], usage)
    told("chat stream", text, events[-1].usage.prompt_tokens, events[-1].usage.completion_tokens)

    with chat.responses.stream(model="local", input=question, max_output_tokens=TOKENS) as stream:
        last = list(stream)[-1]
    assert last.type in ("response.completed", "response.incomplete"), last
    done = last.response
    assert done.usage.input_tokens == usage.prompt_tokens, (done.usage, usage)
    told("responses stream", done.output_text, done.usage.input_tokens, done.usage.output_tokens)

    with claude.messages.stream(model="local", max_tokens=TOKENS, messages=ask) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.stop_reason in ("max_tokens", "end_turn") and final.content[0].text == text, final
    prompt = final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0)
    assert prompt == usage.prompt_tokens, (final.usage, usage)
    told("messages stream", text, prompt, final.usage.output_tokens)

    config = types.GenerateContentConfig(max_output_tokens=TOKENS)
    plain = gemini.models.generate_content(model="local", contents=question, config=config)
    assert plain.usage_metadata.prompt_token_count == usage.prompt_tokens, (plain.usage_metadata, usage)
    told("gemini", plain.text, usage.prompt_tokens, plain.usage_metadata.candidates_token_count)
    pieces = list(gemini.models.generate_content_stream(model="local", contents=question, config=config))
    last = pieces[-1].usage_metadata
    assert last.prompt_token_count == usage.prompt_tokens, (last, usage)
    told("gemini stream", "".join(piece.text or "" for piece in pieces), usage.prompt_tokens, last.candidates_token_count)

print("ok")
