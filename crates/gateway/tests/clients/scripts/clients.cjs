// The official clients for Node, through the gateway: OpenAI, Anthropic, Google, each to a provider that is not its own.
const assert = require("node:assert/strict");
const { OpenAI, RateLimitError, APIError } = require("openai");
const { Anthropic } = require("@anthropic-ai/sdk");
const { GoogleGenAI, ApiError } = require("@google/genai");

const base = process.env.GATEWAY;
const key = process.env.KEY;
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

async function openai() {
  const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
  const tools = ["get_weather", "get_time"].map((name) => ({ type: "function", function: { name, parameters: schema } }));
  for (const model of ["to-openai", "to-anthropic", "to-gemini"]) {
    const messages = [{ role: "user", content: "good day" }];
    const plain = await client.chat.completions.create({ model, messages });
    assert.equal(plain.choices[0].message.content, "You said: good day");
    const stream = client.chat.completions.stream({
      model, tools, messages: [{ role: "user", content: "use get_weather and get_time" }],
    });
    const calls = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
    assert.deepEqual(calls.map((call) => call.function.name), ["get_weather", "get_time"]);
    assert.deepEqual(JSON.parse(calls[1].function.arguments), { city: "city" });
    const response = await client.responses.create({ model, input: "good day" });
    assert.equal(response.output_text, "You said: good day");
  }
  const made = await client.embeddings.create({ model: "embed-openai", input: ["one", "two"] });
  assert.equal(made.data[0].embedding.length, 8);
  await assert.rejects(
    client.chat.completions.create({ model: "limited", messages: [] }),
    (error) => error instanceof RateLimitError && error.headers.get("retry-after") === "7",
  );
  await assert.rejects(async () => {
    for await (const _ of await client.chat.completions.create({
      model: "cut-openai", stream: true, messages: [{ role: "user", content: "x" }],
    }));
  }, APIError);
}

async function anthropic() {
  const client = new Anthropic({ baseURL: base, apiKey: key, maxRetries: 0 });
  const tools = ["get_weather", "get_time"].map((name) => ({ name, input_schema: schema }));
  for (const model of ["to-anthropic", "to-openai", "to-gemini"]) {
    const stream = client.messages.stream({
      model, max_tokens: 50, tools, messages: [{ role: "user", content: "use get_weather and get_time" }],
    });
    const final = await stream.finalMessage();
    const calls = final.content.filter((block) => block.type === "tool_use");
    assert.deepEqual(calls.map((call) => [call.name, call.input]), [
      ["get_weather", { city: "city" }], ["get_time", { city: "city" }],
    ]);
    assert.equal(final.stop_reason, "tool_use");
  }
  await assert.rejects(
    client.messages.create({ model: "limited", max_tokens: 5, messages: [{ role: "user", content: "x" }] }),
    Anthropic.RateLimitError,
  );
  await assert.rejects(async () => {
    await client.messages
      .stream({ model: "cut-openai", max_tokens: 5, messages: [{ role: "user", content: "x" }] })
      .finalMessage();
  }, Anthropic.APIError);
}

async function google() {
  const client = new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: base } });
  for (const model of ["to-gemini", "to-openai", "to-anthropic"]) {
    const plain = await client.models.generateContent({ model, contents: "good day" });
    assert.equal(plain.text, "You said: good day");
    let text = "";
    for await (const chunk of await client.models.generateContentStream({ model, contents: "good day" })) {
      text += chunk.text ?? "";
    }
    assert.equal(text, "You said: good day");
  }
  const made = await client.models.embedContent({ model: "embed-google", contents: ["one", "two"] });
  assert.equal(made.embeddings.length, 2);
  await assert.rejects(
    client.models.generateContent({ model: "limited", contents: "x" }),
    (error) => error instanceof ApiError && error.status === 429,
  );
}

openai().then(anthropic).then(google).then(() => console.log("ok"));
