// Streamed and whole completions through the official Node SDK; test_node.py starts what they need.
"use strict";
const assert = require("node:assert/strict");
const { test } = require("node:test");
const OpenAI = require("openai");

const client = new OpenAI({ baseURL: process.env.PROXY_URL, apiKey: "any", maxRetries: 0, timeout: 30_000 });
const ask = (content, more) => ({ model: process.env.MODEL_NAME, messages: [{ role: "user", content }], ...more });
const control = async (path) => (await fetch(`http://127.0.0.1:${process.env.MODEL_PORT}${path}`)).json();

async function eventually(what, check) {
  for (const end = Date.now() + 10_000; Date.now() < end; ) {
    const found = await check();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail(`not in time: ${what}`);
}

test("whole: text, finish, usage, reasoning", async () => {
  const answer = await client.chat.completions.create(ask("hello world [[reason because]] [[usage 31 21 11 7]]"));
  assert.equal(answer.choices[0].message.content, "hello world");
  assert.equal(answer.choices[0].message.reasoning_content, "because");
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.deepEqual(
    [answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens,
      answer.usage.prompt_tokens_details.cached_tokens, answer.usage.completion_tokens_details.reasoning_tokens],
    [31, 11, 42, 21, 7],
  );
});

test("streamed: text, reasoning, usage in the last chunk only", async () => {
  const body = ask("one two three [[reason because]] [[usage 31 21 11 7]]", { stream: true, stream_options: { include_usage: true } });
  const chunks = [];
  for await (const chunk of await client.chat.completions.create(body)) chunks.push(chunk);
  const deltas = chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.delta);
  assert.equal(deltas.map((delta) => delta.content ?? "").join(""), "one two three");
  assert.equal(deltas.map((delta) => delta.reasoning_content ?? "").join(""), "because");
  assert.equal(chunks.at(-1).usage.total_tokens, 42);
  assert.deepEqual(chunks.slice(0, -1).map((chunk) => chunk.usage), chunks.slice(0, -1).map(() => null));
  assert.equal(chunks.at(-2).choices[0].finish_reason, "stop");
});

test("the SDK's own helper follows a stream to its end", async () => {
  const runner = client.chat.completions.stream(ask("one two three"));
  assert.equal(await runner.finalContent(), "one two three");
});

test("32 streams at once, each only its own text", async () => {
  const one = async (number) => {
    let text = "";
    const prompt = `[[say answer ${number} ${`word-${number} `.repeat(20)}]] [[gate node]]`;
    for await (const chunk of await client.chat.completions.create(ask(prompt, { stream: true }))) {
      text += chunk.choices[0].delta.content ?? "";
    }
    return text.trim();
  };
  const all = Promise.all(Array.from({ length: 32 }, (_, number) => one(number)));
  await eventually("32 run at once", async () => (await control("/connections")).open.length === 32);
  await fetch(`http://127.0.0.1:${process.env.MODEL_PORT}/open/node`, { method: "POST" });
  (await all).forEach((text, number) => assert.equal(text, `answer ${number} ${`word-${number} `.repeat(20)}`.trim()));
});

test("failures are the SDK's exceptions", async () => {
  for (const [prompt, kind, code] of [
    ["[[fail 401 invalid_api_key]]", OpenAI.AuthenticationError, "upstream_unauthorized"],
    ["[[fail 429 usage_limit_reached]]", OpenAI.RateLimitError, "insufficient_quota"],
    ["[[fail 400 context_length_exceeded]]", OpenAI.BadRequestError, "context_length_exceeded"],
    ["[[fail 500 boom]]", OpenAI.InternalServerError, "upstream_error"],
  ]) {
    for (const stream of [false, true]) {
      await assert.rejects(client.chat.completions.create(ask(prompt, { stream })), (error) => {
        assert.ok(error instanceof kind, `${prompt}: ${error}`);
        assert.equal(error.code, code);
        return true;
      });
    }
  }
});

test("an aborted stream reaches the model within 500 ms", async () => {
  const mark = "[[words 3000]] [[gap 20]] node abort";
  const stream = await client.chat.completions.create(ask(mark, { stream: true }));
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  const when = Date.now();
  stream.controller.abort();
  const seen = await eventually("the model sees it", async () =>
    (await control("/connections")).finished.find((finished) => finished.prompt === mark));
  assert.equal(seen.early, true);
  assert.ok(seen.closed_ms - when < 500, `${seen.closed_ms - when} ms`);
});

test("models", async () => {
  const names = (await client.models.list()).data.map((model) => model.id);
  assert.ok(names.includes(process.env.LISTED_NAME));
});
