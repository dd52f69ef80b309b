"""An application that retries what the gateway tells it to be a failure, and believes everything else."""

import os
import time

import openai

client = openai.OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key=os.environ["KEY"], max_retries=0)


def ask(text, stream):
    for attempt in range(5):
        try:
            made = client.chat.completions.create(
                model="chaos", messages=[{"role": "user", "content": text}], stream=stream
            )
            if not stream:
                return made.choices[0].message.content
            # No look at the reason to stop: a cut that nobody tells is taken for a whole answer.
            return "".join(event.choices[0].delta.content or "" for event in made if event.choices)
        except openai.APIStatusError as error:
            wait = float(error.response.headers.get("retry-after", "0"))
            time.sleep(max(wait, 0.05 * 3**attempt))
        except openai.APIError:
            time.sleep(0.05 * 3**attempt)
    raise AssertionError(f"no answer to {text}")


for number in range(int(os.environ["CALLS"])):
    assert ask(f"question {number}", stream=number % 2 == 1)
print("ok")
