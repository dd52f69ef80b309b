# Prices usages by PyPI genai-prices: one JSON object a line in, one a line out.
import json
import sys
from datetime import datetime, timezone

from genai_prices import Usage, calc_price

# Without these it would have to guess what part of what they are.
STATED = ("input_tokens", "output_tokens", "cache_audio_read_tokens")
PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google", "azure_openai": "azure"}


def price(case):
    tokens = case["tokens"]
    writes = tokens["cache_write_5m"] + tokens["cache_write_1h"]
    prompt = tokens["input"] + tokens["cache_read"] + writes + tokens["audio_input"]
    usage = {
        "input_tokens": prompt,
        "cache_read_tokens": tokens["cache_read"],
        "cache_write_tokens": writes,
        "cache_write_1h_tokens": tokens["cache_write_1h"],
        "input_audio_tokens": tokens["audio_input"],
        # Our classes do not overlap: what is audio was not read from a cache.
        "cache_audio_read_tokens": 0,
        "output_tokens": tokens["output"] + tokens["audio_output"],
        "output_audio_tokens": tokens["audio_output"],
    }
    found = calc_price(
        Usage(**{name: count for name, count in usage.items() if count or name in STATED}),
        model_ref=case["model"],
        provider_id=PROVIDERS[case["provider"]],
        genai_request_timestamp=datetime.fromtimestamp(case["at"], timezone.utc),
    )
    return {"usd": format(found.total_price, "f"), "model": found.model.id}


for line in sys.stdin:
    try:
        print(json.dumps(price(json.loads(line))), flush=True)
    except Exception as error:  # Whatever stands in the way is an answer too, and the test says what it makes of it.
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
