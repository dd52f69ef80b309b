"""Answers that the provider keeps, with the official OpenAI client."""

import os

import openai

client = openai.OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key=os.environ["KEY"], max_retries=0)
first = client.responses.create(model="openai/gpt-5-mini", input="hello")
second = client.responses.create(model="openai/gpt-5-mini", input="and now?", previous_response_id=first.id)
assert client.responses.retrieve(second.id).output_text == "kept"
assert [item.id for item in client.responses.input_items.list(first.id)] == ["msg_kept"]
assert client.responses.cancel(first.id).output_text == "kept"
client.responses.delete(first.id)
try:
    client.responses.retrieve(first.id)
    raise AssertionError("it is gone")
except openai.NotFoundError:
    pass
try:
    client.responses.create(model="openai/gpt-5-mini", input="later", background=True)
    raise AssertionError("nobody would count it")
except openai.BadRequestError as error:
    assert error.param == "background", error
print("ok")
