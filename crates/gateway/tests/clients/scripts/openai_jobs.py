"""Files, batches and fine-tuning jobs with the official OpenAI client."""

import json
import os

import openai

client = openai.OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key=os.environ["KEY"], max_retries=0)
line = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
training = client.files.create(
    file=("training.jsonl", "\n".join([json.dumps(line)] * 10).encode()), purpose="fine-tune"
)
assert training.filename == "training.jsonl" and training.bytes > 0, training
assert training.id in [file.id for file in client.files.list()]
assert client.files.content(training.id).read().count(b"\n") == 9

model = os.environ.get("MODEL", "gpt-4o-mini-2024-07-18")
job = client.fine_tuning.jobs.create(model=model, training_file=training.id, suffix="ours")
for _ in range(10):
    job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status == "succeeded":
        break
assert job.status == "succeeded" and job.fine_tuned_model, job
assert next(iter(client.fine_tuning.jobs.list_events(job.id))).message
assert job.id in [known.id for known in client.fine_tuning.jobs.list()]

one = {
    "custom_id": "first",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": model, "messages": [{"role": "user", "content": "hi"}]},
}
asked = client.files.create(file=("batch.jsonl", json.dumps(one).encode()), purpose="batch")
batch = client.batches.create(input_file_id=asked.id, endpoint="/v1/chat/completions", completion_window="24h")
for _ in range(10):
    batch = client.batches.retrieve(batch.id)
    if batch.status == "completed":
        break
assert batch.status == "completed", batch
result = json.loads(client.files.content(batch.output_file_id).text.splitlines()[0])
assert result["custom_id"] == "first", result

client.files.delete(training.id)
try:
    client.files.retrieve(training.id)
    raise AssertionError("it is gone")
except openai.NotFoundError:
    pass
print("ok")
