// Tools, structured output, images, responses and text completions through the official Node SDK; test_node.py starts what
// they need.
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const { test } = require("node:test");
const OpenAI = require("openai");
const { zodFunction, zodResponseFormat, zodTextFormat, zodResponsesFunction } = require("openai/helpers/zod");
const { z } = require("zod");

const model = process.env.MODEL_NAME;
const connect = (baseURL) => new OpenAI({ baseURL, apiKey: "any", maxRetries: 0, timeout: 30_000 });
const client = connect(process.env.PROXY_URL);
// Has two permits; its app-server may be killed.
const second = connect(process.env.SECOND_URL);
const control = async (path) => (await fetch(`http://127.0.0.1:${process.env.MODEL_PORT}${path}`)).json();

/** The items of the requests that the model got whose user said `text`, in short. */
async function heard(text) {
  const requests = (await control("/requests")).map((request) => request.body).filter((body) => Array.isArray(body.input));
  const short = (item) => {
    if (item.type === "function_call") return ["call", item.call_id, item.name, item.arguments];
    if (item.type === "function_call_output") return ["output", item.call_id, item.output];
    return [item.role, ...item.content.map((part) => part.text ?? [part.image_url, part.detail])];
  };
  const base = "You are a helpful assistant.";
  const conversations = requests.map((body) => body.input.map(short).filter((item) => item[1] !== base));
  return conversations.filter((items) => items.some((item) => item[0] === "user" && item.includes(text)));
}

/** Kills the app-server of the second proxy. */
function kill() {
  const isApp = (pid) => {
    try {
      const parent = fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ")[1];
      return parent === process.env.SECOND_PID && fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("app-server");
    } catch {
      return false;
    }
  };
  const found = fs.readdirSync("/proc").filter((entry) => /^\d+$/.test(entry) && isApp(entry));
  assert.ok(found.length);
  for (const pid of found) process.kill(Number(pid), "SIGKILL");
}

const parameters = { type: "object", properties: { a: { type: "integer" } }, required: ["a"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "add", description: "Adds.", parameters, strict: true } },
  { type: "function", function: { name: "exec_command", parameters } }];

for (const [stream, using] of [[false, client], [true, client], [false, second], [true, second]]) {
  test(`three rounds of tools, ${stream ? "streamed" : "whole"}${using === second ? ", the app-server killed in between" : ""}`, async () => {
    const prompt = `node ${stream} ${using.baseURL} [[tool add {"a": 1}]] [[tool add {"a":2}]] [[next]] [[say Wait.]] [[tool add { "a" : 7 }]] [[next]] [[tool add {}]] [[next]] [[say done]]`;
    const messages = [{ role: "user", content: prompt }];
    const expected = [["user", prompt]];
    for (const calls of [['{"a": 1}', '{"a":2}'], ['{ "a" : 7 }'], ["{}"], []]) {
      const body = { model, messages, tools };
      const answer = stream ? await using.chat.completions.stream(body).finalChatCompletion() : await using.chat.completions.create(body);
      const { message, finish_reason } = answer.choices[0];
      assert.deepEqual((message.tool_calls ?? []).map((call) => [call.function.name, call.function.arguments]), calls.map((text) => ["add", text]));
      assert.equal(finish_reason, calls.length ? "tool_calls" : "stop");
      const all = await heard(prompt);
      assert.ok(all.some((items) => JSON.stringify(items) === JSON.stringify(expected)), JSON.stringify([all, expected]));
      if (message.content) expected.push(["assistant", message.content]);
      messages.push(message);
      for (const call of message.tool_calls ?? []) messages.push({ role: "tool", tool_call_id: call.id, content: `r ${call.id}` });
      for (const call of message.tool_calls ?? []) expected.push(["call", call.id, "add", call.function.arguments]);
      for (const call of message.tool_calls ?? []) expected.push(["output", call.id, `r ${call.id}`]);
      if (using === second && calls.length) kill();
    }
    assert.equal(messages.at(-1).content, "done");
  });
}

test("the SDK runs the tools itself", async () => {
  const seen = [];
  const add = { type: "function", function: { name: "add", parameters, parse: JSON.parse, function: ({ a }) => { seen.push(a); return String(a + 1); } } };
  const prompt = 'run [[tool add {"a":1}]] [[tool add {"a":2}]] [[next]] [[tool add {"a":3}]] [[next]] [[say ran]]';
  for (const stream of [false, true]) {
    const runner = client.chat.completions.runTools({ model, stream, messages: [{ role: "user", content: prompt }], tools: [add] });
    assert.equal(await runner.finalContent(), "ran");
  }
  assert.deepEqual(seen, [1, 2, 3, 1, 2, 3]);
});

const Animal = z.object({ name: z.string(), legs: z.number().nullable(), tags: z.array(z.enum(["a", "b"])), home: z.object({ street: z.string() }) });
const animal = { name: "Zoë \u2602", legs: null, tags: ["a", "b"], home: { street: "x" } };

test("structured output by Zod", async () => {
  const prompt = `[[say ${JSON.stringify(animal)}]]`;
  const messages = [{ role: "user", content: prompt }];
  const answer = await client.chat.completions.parse({ model, messages, response_format: zodResponseFormat(Animal, "animal") });
  assert.deepEqual(answer.choices[0].message.parsed, animal);
  const last = (await control("/requests")).at(-1).body.text.format;
  assert.deepEqual([last.type, last.strict, last.schema.required], ["json_schema", true, ["name", "legs", "tags", "home"]]);
  const stream = client.chat.completions.stream({ model, messages, response_format: zodResponseFormat(Animal, "animal") });
  assert.deepEqual((await stream.finalChatCompletion()).choices[0].message.parsed, animal);
  const response = await client.responses.parse({ model, input: prompt, text: { format: zodTextFormat(Animal, "animal") } });
  assert.deepEqual(response.output_parsed, animal);
  const call = await client.chat.completions.parse({ model, messages: [{ role: "user", content: `[[tool animal ${JSON.stringify(animal)}]]` }], tools: [zodFunction({ name: "animal", parameters: Animal })] });
  assert.deepEqual(call.choices[0].message.tool_calls[0].function.parsed_arguments, animal);
});

test("images and JSON objects", async () => {
  const url = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg==";
  const content = [{ type: "text", text: 'node image [[say {"a":1}]]' }, { type: "image_url", image_url: { url, detail: "high" } }];
  const answer = await client.chat.completions.create({ model, messages: [{ role: "user", content }], response_format: { type: "json_object" } });
  assert.deepEqual(JSON.parse(answer.choices[0].message.content), { a: 1 });
  assert.deepEqual(await heard(content[0].text), [[["user", content[0].text, [url, "high"]], ["developer", "Answer with one JSON object and nothing else."]]]);
  content[1].image_url.url = "https://example.com/a.png";
  await assert.rejects(client.chat.completions.create({ model, messages: [{ role: "user", content }] }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.match(error.message, /data:image\/png;base64/);
    assert.equal(error.param, "messages[0].content[1].image_url.url");
    return true;
  });
});

test("responses: create, stream, previous_response_id, retrieve, delete", async () => {
  const flat = tools.map(({ function: { name, parameters } }) => ({ type: "function", name, parameters, strict: false }));
  const prompt = 'node response [[reason Because.]] [[say I look.]] [[tool add {"a": 1}]] [[tool add {}]] [[next]] [[say done]]';
  const events = [];
  const stream = client.responses.stream({ model, input: prompt, tools: flat });
  for await (const event of stream) events.push(event);
  const first = await stream.finalResponse();
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, at) => at));
  assert.deepEqual(first.output.map((item) => item.type), ["reasoning", "message", "function_call", "function_call"]);
  assert.equal(first.output[1].content[0].text, "I look.");
  const calls = first.output.filter((item) => item.type === "function_call");
  const input = calls.map((call) => ({ type: "function_call_output", call_id: call.call_id, output: `r ${call.call_id}` }));
  const second = await client.responses.create({ model, input, tools: flat, previous_response_id: first.id, instructions: "Be kind." });
  assert.equal(second.output_text, "done");
  assert.deepEqual((await heard(prompt)).at(-1), [["developer", "Be kind."], ["user", prompt], ["assistant", "I look."],
    ...calls.map((call) => ["call", call.call_id, "add", call.arguments]), ...calls.map((call) => ["output", call.call_id, `r ${call.call_id}`])]);
  assert.equal((await client.responses.retrieve(second.id)).output_text, "done");
  await client.responses.delete(second.id);
  await assert.rejects(client.responses.retrieve(second.id), (error) => error instanceof OpenAI.NotFoundError && error.code === "response_not_found");
  const parsed = await client.responses.parse({ model, input: `[[tool animal ${JSON.stringify(animal)}]]`, tools: [zodResponsesFunction({ name: "animal", parameters: Animal })] });
  assert.deepEqual(JSON.parse(parsed.output[0].arguments), animal);
});

test("stop, max_tokens, n and text completions", async () => {
  const ask = (content, more) => client.chat.completions.create({ model, messages: [{ role: "user", content }], ...more });
  const said = ({ choices }) => choices.map((choice) => [choice.message.content, choice.finish_reason]);
  assert.deepEqual(said(await ask("[[say one two three]]", { stop: ["e two t"] })), [["on", "stop"]]);
  assert.deepEqual(said(await ask("[[words 50]]", { max_tokens: 2 })), [["w0 w1 w2", "length"]]);
  const several = { model, messages: [{ role: "user", content: "several" }], n: 3 };
  for (const using of [client, second]) assert.deepEqual(said(await using.chat.completions.create(several)), Array(3).fill(["several", "stop"]));
  assert.deepEqual(await heard("several"), Array(6).fill([["user", "several"]]));
  const text = await client.completions.create({ model, prompt: ["a", "b"], echo: true, n: 2 });
  assert.deepEqual(text.choices.map((choice) => choice.text), ["aa", "aa", "bb", "bb"]);
  let streamed = "";
  for await (const chunk of await client.completions.create({ model, prompt: "[[words 9]]", stream: true, stop: "w2" })) streamed += chunk.choices[0]?.text ?? "";
  assert.equal(streamed, "w0 w1 ");
});

test("failures of responses and text completions are the SDK's exceptions", async () => {
  for (const [prompt, kind, status, code] of [
    ["[[fail 401 invalid_api_key]]", OpenAI.AuthenticationError, 401, "upstream_unauthorized"],
    ["[[fail 429 usage_limit_reached]]", OpenAI.RateLimitError, 429, "insufficient_quota"],
    ["[[fail 400 context_length_exceeded]]", OpenAI.BadRequestError, 400, "context_length_exceeded"],
    ["[[fail-start server_is_overloaded]]", OpenAI.InternalServerError, 503, "upstream_overloaded"],
  ]) {
    for (const stream of [false, true]) {
      for (const call of [() => client.responses.create({ model, input: prompt, stream }), () => client.completions.create({ model, prompt, stream })]) {
        await assert.rejects(call, (error) => {
          assert.ok(error instanceof kind, `${prompt}: ${error}`);
          assert.deepEqual([error.status, error.code], [status, code]);
          return true;
        });
      }
    }
  }
});
