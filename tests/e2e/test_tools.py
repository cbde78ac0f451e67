"""Tools of the client: every call reaches it, every result reaches the model, and nothing of it is changed on the way."""

import json
import os
import signal
import unittest

import openai

import harness
from harness import ask, conversation, offered
from versions import LISTED, NATIVE_EVER, OWN_TOOLS, UNCOUNTED, needs, since, told

ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "Where ☂"}}, "additionalProperties": False}


def function(name, parameters=None, **more):
    return {"type": "function", "function": {"name": name, **({"parameters": parameters} if parameters else {}), **more}}


TOOLS = [function("add", ADD, description="Adds."), function("get_weather", CITY, strict=True)]
# What the model calls in each round, each time with its exact arguments.
CALLS = [
    [("add", '{"a": 1,  "b":2}'), ("get_weather", '{"city":"Zürich \\u2602"}'), ("add", '{"b":4,"a":3}')],
    [("get_weather", '{ "city" : null }'), ("get_weather", "{}")],
    [("add", "{}")],
]
PROMPT = "How warm? " + "[[next]]".join(
    "".join(f"[[tool {name} {arguments}]]" for name, arguments in calls) for calls in CALLS
).replace("[[next]]", "[[next]] [[say One moment.]]", 1) + "[[next]] [[say All is well.]]"

# Codex keeps most of a schema.
SCHEMAS = since(142)


def compact(value):
    """As the SDK writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def setUpModule():
    global model, proxy, client
    model = harness.Model()
    proxy = harness.Proxy(model)
    client = proxy.client()


def tearDownModule():
    client.close()
    proxy.close()
    model.kill()


def whole(using=None, **body):
    answer = (using or client).chat.completions.create(model=LISTED, **body)
    message, usage = answer.choices[0].message, answer.usage
    calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []]
    return message.content, calls, answer.choices[0].finish_reason, usage.completion_tokens


def streamed(using=None, **body):
    """The same from a stream, under the rules for its fragments."""
    content, calls, finish, tokens = None, {}, None, None
    more = {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in (using or client).chat.completions.create(model=LISTED, **more, **body):
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        for choice in chunk.choices:
            content = (content or "") + choice.delta.content if choice.delta.content else content
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                if call.index in calls:
                    assert (call.id, call.function.name, call.type) == (None, None, None), call
                else:
                    assert call.id and call.function.name and call.type == "function", call
                    assert call.index == len(calls), call
                    calls[call.index] = [call.id, call.function.name, ""]
                calls[call.index][2] += call.function.arguments
    return content, [tuple(call) for call in calls.values()], finish, tokens


class Turn(unittest.TestCase):
    def setUp(self):
        model.reset()

    def last(self):
        return model.turns()[-1]

    def seen(self, **body):
        """What the model got of a request that is answered at once."""
        client.chat.completions.create(model=LISTED, **body)
        return self.last()


@needs("tools")
class Rounds(Turn):
    def rounds(self, answer, between=lambda: None):
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": PROMPT}]
        expected = [("system", "Be kind."), ("user", PROMPT)]
        for number, calls in enumerate([*CALLS, []]):
            content, got, finish, tokens = answer(messages=messages, tools=TOOLS)
            self.assertEqual(conversation(self.last()), told(expected))
            self.assertEqual(len(model.turns()), number + 1)
            add, weather = offered(self.last())
            self.assertEqual((weather["parameters"], weather["description"]), (CITY, ""))
            # Before 0.121 codex knows no integers; the description does.
            self.assertEqual(add["parameters"]["required"], ADD["required"])
            self.assertEqual(add["parameters"] == ADD, since(121))
            self.assertEqual(add["description"], "Adds." if SCHEMAS else f"Adds.\n\n{compact(ADD)}")
            self.assertEqual((self.last()["tool_choice"], self.last()["parallel_tool_calls"]), ("auto", True))
            self.assertEqual([(name, arguments) for _, name, arguments in got], calls)
            self.assertEqual(content, {1: "One moment.", 3: "All is well."}.get(number))
            self.assertEqual(finish, "tool_calls" if calls else "stop")
            # The model's own count, but where codex does not tell of a response before its calls were answered.
            self.assertTrue(tokens == 56 or UNCOUNTED and calls, tokens)
            if content:
                expected.append(("assistant", content))
            messages.append({"role": "assistant", "content": content, "tool_calls": [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}} for id, name, arguments in got]})
            # Results may come in any order, as text or as parts of it.
            for id, name, _ in reversed(got):
                result = f"result of {id} \u2028 {name}"
                parts = [{"type": "text", "text": result[:5]}, {"type": "text", "text": result[5:]}]
                messages.append({"role": "tool", "tool_call_id": id, "content": parts if number == 1 else result})
            expected += [("call", *call) for call in got]
            expected += [("output", id, f"result of {id} \u2028 {name}") for id, name, _ in reversed(got)]
            between()

    def test_whole(self):
        self.rounds(whole)

    def test_streamed(self):
        self.rounds(streamed)

    def test_with_the_app_server_killed_in_between(self):
        for answer in (whole, streamed):
            model.reset()
            # Of its own: deaths in a row are waited for longer and longer.
            mortal = harness.Proxy(model)
            self.addCleanup(mortal.close)
            with mortal.client() as using:
                self.rounds(lambda **body: answer(using, **body), lambda: os.kill(mortal.app_server().pid, signal.SIGKILL))

    def test_legacy_functions(self):
        functions = [tool["function"] for tool in TOOLS]
        prompt = 'go [[tool add {"a":1}]] [[tool get_weather {}]] [[next]] [[tool get_weather {"city":"x"}]] [[next]] [[say done]]'
        for stream in (False, True):
            model.reset()
            messages, expected = [{"role": "user", "content": prompt}], [("user", prompt)]
            for at, (name, arguments) in enumerate((("add", '{"a":1}'), ("get_weather", '{"city":"x"}'))):
                answer = client.chat.completions.create(model=LISTED, messages=messages, functions=functions, function_call="auto", stream=stream)
                if stream:
                    deltas = [chunk.choices[0] for chunk in answer]
                    calls = [choice.delta.function_call for choice in deltas if choice.delta.function_call]
                    call = {"name": "".join(call.name or "" for call in calls), "arguments": "".join(call.arguments for call in calls)}
                    finish = deltas[-1].finish_reason
                else:
                    call, finish = answer.choices[0].message.function_call.model_dump(), answer.choices[0].finish_reason
                    self.assertIsNone(answer.choices[0].message.tool_calls)
                self.assertEqual((call, finish), ({"name": name, "arguments": arguments}, "function_call"))
                self.assertIn(told(expected), [conversation(turn) for turn in model.turns()])
                messages += [{"role": "assistant", "content": None, "function_call": call}, {"role": "function", "name": name, "content": "7"}]
                id = f"call_{len(messages) - 2}"
                expected += [("call", id, name, arguments), ("output", id, "7")]
            answer = client.chat.completions.create(model=LISTED, messages=messages, functions=functions)
            self.assertEqual(answer.choices[0].message.content, "done")
            self.assertIn(told(expected), [conversation(turn) for turn in model.turns()])

    def test_legacy_choices(self):
        functions = [tool["function"] for tool in TOOLS]
        for choice, names, line in (
            ("none", [], None), ("auto", ["add", "get_weather"], None),
            ({"name": "add"}, ["add"], "Answer by calling the tool add."),
        ):
            body = self.seen(messages=[{"role": "user", "content": "hi"}], functions=functions, function_call=choice)
            self.assertEqual([tool["name"] for tool in offered(body)], names)
            self.assertEqual(conversation(body), told([("user", "hi")] + ([("developer", line)] if line else [])))


@needs("tools")
class Calls(Turn):
    def test_what_is_not_json_and_what_was_not_offered(self):
        for name, arguments in (("get_weather", "not json {"), ("get_weather", '{"city":'), ("never_offered", '{"x":1}'),
                                ("never_offered", "nor json"), ("get_weather", "[1]"), ("get_weather", '"text"')):
            prompt = f"go [[tool add {{}}]] [[tool {name} {arguments}]]"
            for answer in (whole, streamed):
                with self.subTest(name, arguments=arguments, answer=answer.__name__):
                    content, calls, finish, _ = answer(messages=[{"role": "user", "content": prompt}], tools=TOOLS)
                    self.assertEqual(([call[1:] for call in calls], finish), ([("add", "{}"), (name, arguments)], "tool_calls"))
                    self.assertIsNone(content)

    def test_a_call_of_a_tool_where_none_was_offered_is_text_for_nobody(self):
        # Codex tells the model that there is no such tool, and the model has another try.
        answer = client.chat.completions.create(**ask("[[say first]] [[tool add {}]] [[next]] [[say second]]"))
        self.assertIn("second", answer.choices[0].message.content)

    def test_text_before_calls_and_reasoning(self):
        prompt = '[[reason Let me see.]] [[say I look.]] [[tool add {"a":1}]]'
        for stream in (False, True):
            answer = client.chat.completions.create(**ask(prompt), tools=TOOLS, stream=stream)
            if stream:
                deltas = [chunk.choices[0].delta for chunk in answer]
                text = "".join(delta.content or "" for delta in deltas)
                reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
                calls = [call for delta in deltas for call in delta.tool_calls or []]
            else:
                message = answer.choices[0].message
                text, reasoning, calls = message.content, message.reasoning_content, message.tool_calls
            self.assertEqual((text, reasoning, calls[0].function.name), ("I look.", "Let me see.", "add"))

    def test_parallel_calls_that_take_their_time(self):
        prompt = "[[gap 400]] [[tool add {}]] [[tool get_weather {}]]"
        for answer in (whole, streamed):
            _, calls, *_ = answer(messages=[{"role": "user", "content": prompt}], tools=TOOLS)
            # 0.131 – 0.145 do not tell when the model has made all its calls, which then does not get to make the second.
            self.assertEqual([name for _, name, _ in calls], ["add"] if UNCOUNTED else ["add", "get_weather"])

    def test_only_the_first_of_parallel_calls(self):
        prompt = '[[tool add {"a":1}]] [[tool add {"a":2}]] [[tool add {"a":3}]]'
        for answer in (whole, streamed):
            messages = [{"role": "user", "content": prompt}]
            _, calls, finish, _ = answer(messages=messages, tools=TOOLS, parallel_tool_calls=False)
            self.assertEqual(([call[1:] for call in calls], finish), ([("add", '{"a":1}')], "tool_calls"))

    def test_choices(self):
        add, weather = "add", "get_weather"
        any_line, add_line = "Answer by calling at least one of the tools.", "Answer by calling the tool add."
        allowed = lambda mode: {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [
            {"type": "function", "function": {"name": add}}]}}
        for choice, names, line in (
            ("none", [], None), ("auto", [add, weather], None), ("required", [add, weather], any_line),
            ({"type": "function", "function": {"name": add}}, [add], add_line),
            (allowed("auto"), [add], None), (allowed("required"), [add], any_line),
        ):
            with self.subTest(choice):
                body = self.seen(messages=[{"role": "user", "content": "hi"}], tools=TOOLS, tool_choice=choice)
                self.assertEqual([tool["name"] for tool in offered(body)], names)
                self.assertEqual(conversation(body), told([("user", "hi")] + ([("developer", line)] if line else [])))

    def test_choices_that_make_no_sense(self):
        for body, param in (
            ({"tool_choice": "required"}, "tool_choice"), ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
            ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name"),
            ({"tools": [function("a b")]}, "tools[0].function.name"), ({"tools": [function("x" * 65)]}, "tools[0].function.name"),
            ({"tools": [*TOOLS, function("add")]}, "tools[2].function.name"),
            ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
            ({"tools": TOOLS, "functions": [{"name": "x"}]}, "tools"),
        ):
            with self.subTest(param), self.assertRaises(openai.BadRequestError) as raised:
                client.chat.completions.create(**ask("x"), **body)
            self.assertEqual(raised.exception.param, param)


@needs("tools")
class Names(Turn):
    NAMES = """apply_patch bash browser click clock close_agent code code_interpreter codex computer container_exec create_goal
        current_time custom default_api edit exec exec_command file_search function functions get_context_remaining glob grep
        image_generation interrupt_agent js_repl list_agents list_dir list_mcp_resource_templates list_mcp_resources local_shell
        mcp mcp__ mcp__server__tool mcp_tool memories_read multi_agent_v1 multi_tool_use multi_tool_use-parallel namespace new_context
        notify parallel plan python read read_file read_mcp_resource request_permissions request_user_input resume_agent search
        send_input send_message shell shell_command skills sleep spawn_agent test_sync_tool tool_search unified_exec update_goal
        update_plan view_image wait wait_agent web_search web_search_preview write_stdin x Bash Task -""".split()
    # These travel under another name: codex refuses them, or takes them for its own.
    ALIASED = {"exec_command", "mcp", "mcp__", "mcp__server__tool", "shell_command", *OWN_TOOLS}

    def test_none_collides_with_codex_and_none_vanishes(self):
        names = [*self.NAMES, "client_exec_command"]
        tools = [function(name, CITY, description=f"the tool {name}") for name in names]
        body = self.seen(messages=[{"role": "user", "content": "hi"}], tools=tools)
        self.assertEqual([tool["description"] for tool in offered(body)], [f"the tool {name}" for name in names])
        known = dict(zip(names, (tool["name"] for tool in offered(body))))
        aliased = {name for name in names if known[name] != name}
        # Before, more names are codex's own.
        self.assertEqual(aliased & self.ALIASED if not since(142) else aliased, self.ALIASED)
        self.assertEqual(len(set(known.values())), len(names))

        prompt = "go" + "".join(f'[[tool {known[name]} {{"city":"{name}"}}]]' for name in names) + "[[next]][[say done]]"
        for answer in (whole, streamed):
            model.reset()
            messages = [{"role": "user", "content": prompt}]
            _, calls, _, _ = answer(messages=messages, tools=tools)
            self.assertEqual([call[1:] for call in calls], [(name, f'{{"city":"{name}"}}') for name in names])
            messages.append({"role": "assistant", "tool_calls": [
                {"id": id, "type": "function", "function": {"name": name, "arguments": text}} for id, name, text in calls]})
            messages += [{"role": "tool", "tool_call_id": id, "content": name} for id, name, _ in calls]
            content, *_ = answer(messages=messages, tools=tools)
            self.assertEqual(content, "done")
            self.assertEqual(conversation(self.last()), told([("user", prompt), *(
                ("call", id, known[name] if NATIVE_EVER else name, text) for id, name, text in calls), *(("output", id, name) for id, name, _ in calls)]))


@needs("tools")
class Schemas(Turn):
    def test_what_codex_would_change_or_refuse(self):
        inner = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}}}
        # (offered, what reaches the model as parameters or None for the same, whether the description says it all)
        for offer, got, is_told in (
            ({"n": {"$ref": "#/$defs/N"}}, None, False),
            ({"n": {"oneOf": [{"type": "string"}, {"type": "integer"}], "description": "either"}}, None, False),
            ({"n": {"allOf": [{"type": "string"}]}}, None, False),
            ({"n": {"type": ["string", "null"], "enum": ["a", None]}, "m": {}}, None, False),
            ({"n": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}}}, None, False),
            ({"n": {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}}}, None, False),
            ({"n": {"const": 5, "title": "Five"}}, {"n": {"enum": [5], "type": "number"}}, False),
            ({"n": {"enum": [1, "a"]}}, {"n": {"enum": [1, "a"], "type": ["number", "string"]}}, False),
            ({"n": {"type": "array"}, "m": True}, {"n": {"type": "array", "items": {}}, "m": {}}, False),
            ({"n": {"type": "integer", "minimum": 1, "default": 3}}, {"n": {"type": "integer"}}, True),
            ({"n": {"type": "string", "pattern": "^a", "format": "date"}}, {"n": {"type": "string"}}, True),
            ({"n": {"type": "array", "items": [{"type": "string"}]}}, {"n": {"type": "array", "items": {}}}, True),
            ({"n": {"type": "any"}, "m": {"enum": "x"}, "o": {"type": "string", "required": True}}, {"n": {}, "m": {}, "o": {"type": "string"}}, True),
            ({"n": {"type": "object", "properties": [], "additionalProperties": 5}}, {"n": {"type": "object", "properties": {}}}, True),
            ({"n": None, "m": {"anyOf": {}}, "o": {"$ref": 5}, "p": {"oneOf": [1]}}, {"n": {}, "m": {}, "o": {}, "p": {"oneOf": [{}]}}, True),
        ):
            with self.subTest(offer):
                defs = {"$defs": {"N": inner}} if "$ref" in json.dumps(offer) and not is_told else {}
                schema = {"type": "object", "properties": offer, "required": ["n"], **defs}
                (tool,) = offered(self.seen(messages=[{"role": "user", "content": "hi"}], tools=[function("f", schema, description="words")]))
                plain = "number" in json.dumps(offer) and got is None
                if SCHEMAS or plain:
                    self.assertEqual(tool["parameters"], {**schema, "properties": got or offer})
                is_told = is_told or not SCHEMAS and not plain
                self.assertEqual(tool["description"], f"words\n\n{compact(schema)}" if is_told else "words")

    def test_no_schema_at_all(self):
        for tool in (function("f"), function("f", {"type": "object"})):
            (got,) = offered(self.seen(messages=[{"role": "user", "content": "hi"}], tools=[tool]))
            self.assertEqual(got["parameters"], {"type": "object", "properties": {}})


@needs("tools")
class Sizes(Turn):
    def test_128_tools_one_with_a_schema_of_128_kb(self):
        large = {"type": "object", "properties": {f"field_{n}": {"type": ["string", "null"], "enum": [f"{n}-{i}" for i in range(9)],
            "description": "Long words. " * 6} for n in range(700)}, "$defs": {"x": {"type": "array", "items": {"type": "number"}}}}
        self.assertGreater(len(json.dumps(large)), 128 * 1024)
        tools = [function("large", large), *(function(f"tool_{n}", CITY) for n in range(127))]
        body = self.seen(messages=[{"role": "user", "content": "hi"}], tools=tools)
        self.assertEqual([tool["name"] for tool in offered(body)], ["large", *(f"tool_{n}" for n in range(127))])
        # Codex leaves little of a large schema, so the whole goes along in the description.
        self.assertTrue(offered(body)[0]["description"] == compact(large))
        self.assertEqual(offered(body)[0]["parameters"]["properties"].keys(), large["properties"].keys())
        _, calls, *_ = whole(messages=[{"role": "user", "content": "[[tool tool_126 {}]] [[tool large {}]]"}], tools=tools)
        self.assertEqual([call[1] for call in calls], ["tool_126", "large"])

    def test_a_megabyte_as_result_and_as_arguments(self):
        # What goes in as one text may have 2^20 characters in all.
        text = "".join(f"{line:08} \u2028 ünïcode\n" for line in range(55_000 if NATIVE_EVER else 19_000))
        arguments = json.dumps({"text": text})
        call = {"id": "call_large", "type": "function", "function": {"name": "add", "arguments": arguments}}
        messages = [{"role": "user", "content": "[[next]] [[say ok]]"}, {"role": "assistant", "content": "", "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "call_large", "content": text}]
        self.assertGreater(len(text.encode()), 1 << 20 if NATIVE_EVER else 400_000)
        body = self.seen(messages=messages, tools=TOOLS)
        said = [("user", "[[next]] [[say ok]]"), ("call", "call_large", "add", arguments), ("output", "call_large", text)]
        self.assertTrue(conversation(body) == told(said))


if __name__ == "__main__":
    unittest.main()
