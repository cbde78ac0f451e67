"""`/v1/responses` through the official SDK: items in, typed events out, and answers that are kept by id."""

import json
import unittest

import openai

import harness
from harness import conversation, events, offered
from versions import LISTED, UNCOUNTED, needs, since, told

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
TOOLS = [{"type": "function", "name": "get_weather", "description": "Looks.", "parameters": CITY, "strict": True},
         {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}]
CALLS = '[[tool get_weather {"city" : "Zürich"}]] [[tool add {}]]'


def setUpModule():
    global model, proxy, client, other
    model = harness.Model()
    proxy = harness.Proxy(model, {"PROXY_API_KEY": "one,two"})
    client, other = proxy.client(api_key="one"), proxy.client(api_key="two")


def tearDownModule():
    client.close()
    other.close()
    proxy.close()
    model.kill()


class Turn(unittest.TestCase):
    def setUp(self):
        model.reset()

    def create(self, input, using=None, **more):
        return (using or client).responses.create(model=LISTED, input=input, **more)

    def seen(self):
        return conversation(model.turns()[-1])

    def stream(self, input, **more):
        """The events of a stream, under the rules for all of them; the last is the end."""
        found = list(self.create(input, stream=True, **more))
        self.assertEqual([event.sequence_number for event in found], list(range(len(found))))
        self.assertEqual([event.type for event in found[:2]], ["response.created", "response.in_progress"])
        return found

    def refused(self, param, code=None, **body):
        with self.assertRaises(openai.BadRequestError) as raised:
            client.responses.create(**{"model": LISTED, "input": "x", **body})
        self.assertEqual((raised.exception.param, raised.exception.code), (param, code))


class Create(Turn):
    def test_text_usage_and_what_is_repeated(self):
        answer = self.create("hello [[usage 31 21 11 7]]", metadata={"a": "b"}, temperature=0.5, user="u", instructions="Be brief.")
        self.assertEqual((answer.status, answer.output_text, answer.model, answer.object), ("completed", "hello", LISTED, "response"))
        self.assertTrue(answer.id.startswith("resp_"), answer.id)
        usage = answer.usage
        self.assertEqual((usage.input_tokens, usage.output_tokens, usage.total_tokens), (31, 11, 42))
        self.assertEqual((usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens), (21, 7))
        self.assertEqual((answer.metadata, answer.temperature, answer.user, answer.instructions), ({"a": "b"}, 0.5, "u", "Be brief."))
        self.assertEqual((answer.error, answer.incomplete_details, answer.tools, answer.store), (None, None, [], True))
        self.assertEqual(self.seen(), told([("developer", "Be brief."), ("user", "hello [[usage 31 21 11 7]]")]))

    @needs("tools")
    def test_items(self):
        items = [
            {"role": "system", "content": "S"}, {"role": "developer", "content": [{"type": "input_text", "text": "D"}]},
            {"role": "user", "content": "one"},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "thought"}], "encrypted_content": "SEALED"},
            {"type": "reasoning", "id": "rs_2", "summary": []},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "yo", "annotations": []}, {"type": "refusal", "refusal": "no"}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": "{ }", "status": "completed"},
            {"type": "function_call", "call_id": "c2", "name": "never_offered", "arguments": "no json"},
            {"type": "function_call_output", "call_id": "c2", "output": "two"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "o"}, {"type": "input_text", "text": "ne"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "more"}, {"type": "input_text", "text": "[[say ok]]"}]},
        ]
        answer = self.create(items, tools=TOOLS)
        self.assertEqual(answer.output_text, "ok")
        self.assertEqual(self.seen(), told([
            ("system", "S"), ("developer", "D"), ("user", "one"), ("reasoning", "SEALED", "thought"), ("assistant", "yo", "no"),
            ("call", "c1", "add", "{ }"), ("call", "c2", "never_offered", "no json"), ("output", "c2", "two"), ("output", "c1", "one"),
            ("user", "more", "[[say ok]]")]))
        self.assertEqual([tool["name"] for tool in offered(model.turns()[-1])], ["get_weather", "add"])

    def test_reasoning(self):
        answer = self.create("hi [[reason First.]] [[reason Second.]]", reasoning={"effort": "high", "summary": "detailed"})
        self.assertEqual([item.type for item in answer.output], ["reasoning", "message"])
        self.assertEqual("\n\n".join(part.text for part in answer.output[0].summary), "First.\n\nSecond.")
        self.assertEqual({key: model.turns()[-1]["reasoning"][key] for key in ("effort", "summary")}, {"effort": "high", "summary": "detailed"})

    @needs("seals")
    def test_sealed_reasoning(self):
        prompt, more = "[[reason First.]] [[reason Second.]] [[sealed S1]] [[say hi]]", {"include": ["reasoning.encrypted_content"]}
        answer = self.create(prompt, **more)
        self.assertEqual(model.turns()[0]["include"], ["reasoning.encrypted_content"])
        if not since(92):
            return self.assertIsNone(answer.output[0].encrypted_content, "codex does not tell it")
        reasoning, message = answer.output
        self.assertTrue(reasoning.id.startswith("rs_"), reasoning.id)
        self.assertEqual((reasoning.encrypted_content, reasoning.summary[0].text), ("S1", "First.\n\nSecond."))
        self.assertEqual((message.type, answer.output_text), ("message", "hi"))
        self.assertEqual(client.responses.retrieve(answer.id).to_dict(), answer.to_dict())
        found = self.stream(prompt, **more)
        items = [event.item for event in found if event.type in ("response.output_item.added", "response.output_item.done")]
        self.assertEqual([getattr(item, "encrypted_content", None) for item in items], [None, "S1", None, None])
        self.assertEqual(found[-1].response.output[0], items[1])
        # Without a summary, and not asked for.
        self.assertEqual(self.create("[[sealed S1]] [[say hi]]", **more).output[0].model_dump(exclude_none=True, exclude={"id"}),
                         {"type": "reasoning", "summary": [], "encrypted_content": "S1"})
        self.assertIsNone(self.create(prompt).output[0].encrypted_content)
        # A second try seals again what was told already.
        for fault in ("[[fail-mid rate_limit_exceeded]]", "[[cut]]"):
            answer = self.create(f"{prompt} {fault} [[once]]", **more)
            self.assertEqual([item.type for item in answer.output], ["reasoning", "message"])

    @needs("tools")
    def test_tools(self):
        answer = self.create(f"[[say I look.]] {CALLS}", tools=TOOLS)
        self.assertEqual([item.type for item in answer.output], ["message", "function_call", "function_call"])
        calls = [(item.name, item.arguments) for item in answer.output[1:]]
        self.assertEqual(calls, [("get_weather", '{"city" : "Zürich"}'), ("add", "{}")])
        self.assertEqual((answer.status, answer.output_text), ("completed", "I look."))
        single = self.create(CALLS, tools=TOOLS, parallel_tool_calls=False)
        self.assertEqual([item.name for item in single.output], ["get_weather"])

    @needs("tools")
    def test_choices(self):
        any_line, add_line = "Answer by calling at least one of the tools.", "Answer by calling the tool add."
        add, both = ["add"], ["get_weather", "add"]
        allowed = {"type": "allowed_tools", "tools": [{"type": "function", "name": "add"}]}
        for choice, names, line in (
            ("none", [], None), ("auto", both, None), ("required", both, any_line), ({"type": "function", "name": "add"}, add, add_line),
            ({**allowed, "mode": "auto"}, add, None), ({**allowed, "mode": "required"}, add, any_line),
        ):
            with self.subTest(choice):
                self.create("hi", tools=TOOLS, tool_choice=choice)
                self.assertEqual([tool["name"] for tool in offered(model.turns()[-1])], names)
                self.assertEqual(self.seen(), told([("user", "hi")] + ([("developer", line)] if line else [])))

    @needs("cuts")
    def test_cut_short(self):
        for more, prompt, reason in (({"max_output_tokens": 16}, "[[words 60]]", "max_output_tokens"),
                                     ({}, "one two [[incomplete max_output_tokens]]", "max_output_tokens"),
                                     ({}, "one two [[incomplete content_filter]]", "content_filter")):
            with self.subTest(prompt):
                answer = self.create(prompt, **more)
                self.assertEqual((answer.status, answer.incomplete_details.reason), ("incomplete", reason))
                self.assertTrue(answer.output_text and answer.usage.output_tokens)
                last = self.stream(prompt, **more)[-1]
                self.assertEqual((last.type, last.response.incomplete_details.reason), ("response.incomplete", reason))
                self.assertEqual(last.response.output_text, answer.output_text)

    @needs("tools")
    def test_what_cannot_be_served(self):
        self.refused("tools[0].type", "unsupported_parameter", tools=[{"type": "web_search"}])
        self.refused("tools[0].type", "unsupported_parameter", tools=[{"type": "mcp", "server_label": "x", "server_url": "https://x"}])
        self.refused("input[0].type", "unsupported_parameter", input=[{"type": "web_search_call", "id": "x"}])
        self.refused("input[0].id", input=[{"type": "item_reference", "id": "x"}])
        self.refused("background", "unsupported_parameter", background=True)
        self.refused("conversation", "unsupported_parameter", conversation="conv_1")
        self.refused("prompt", "unsupported_parameter", prompt={"id": "pmpt_1"})
        self.refused("include[0]", "unsupported_parameter", include=["message.output_text.logprobs"])
        self.refused("input", input=[])
        self.refused("input[0].call_id", input=[{"type": "function_call_output", "call_id": "c", "output": "x"}])
        self.refused("input[0]", input=[{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}])
        self.refused("max_output_tokens", max_output_tokens=0)


class Stream(Turn):
    @needs("tools")
    def test_every_event_in_its_place(self):
        found = self.stream(f"[[reason Because it is.]] [[say I look.]] {CALLS} [[usage 31 21 11 7]]", tools=TOOLS)
        kinds = [event.type.removeprefix("response.") for event in found]
        once = [kind for at, kind in enumerate(kinds) if kinds[at - 1] != kind]
        call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
        self.assertEqual(once, [
            "created", "in_progress",
            "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done",
            "reasoning_summary_part.done", "output_item.done",
            "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
            *call, *call, "completed"])
        final = found[-1].response
        text = {kind: "".join(event.delta for event in found if event.type == kind) for kind in (
            "response.reasoning_summary_text.delta", "response.output_text.delta", "response.function_call_arguments.delta")}
        self.assertEqual(list(text.values()), ["Because it is.", "I look.", '{"city" : "Zürich"}{}'])
        self.assertEqual([item.type for item in final.output], ["reasoning", "message", "function_call", "function_call"])
        done = [event.item for event in found if event.type == "response.output_item.done"]
        self.assertEqual([item.model_dump() for item in done], [item.model_dump() for item in final.output])
        for event in found:
            if hasattr(event, "item_id"):
                self.assertEqual(event.item_id, final.output[event.output_index].id)
        # Before 0.146 codex does not tell what a response cost whose calls wait for their results.
        self.assertTrue(final.usage.total_tokens == 42 or UNCOUNTED)

    @needs("tools")
    def test_the_helper_of_the_sdk(self):
        with client.responses.stream(model=LISTED, input=f"hello {CALLS}", tools=TOOLS) as stream:
            for event in stream:
                pass
            final = stream.get_final_response()
        self.assertEqual([item.type for item in final.output], ["function_call", "function_call"])
        self.assertEqual(final.output[0].parsed_arguments, {"city": "Zürich"})

    def test_the_wire(self):
        with proxy.request({"model": LISTED, "input": "hi", "stream": True}, "/v1/responses", {"authorization": "Bearer one"}) as answer:
            text = answer.read().decode()
        self.assertEqual(answer.getheader("content-type").split(";")[0], "text/event-stream")
        for block in text.removesuffix("\n\n").split("\n\n"):
            name, data = block.split("\n")
            self.assertEqual(name, f"event: {json.loads(data.removeprefix('data: '))['type']}")

    def test_failures_in_the_middle(self):
        with proxy.request({"model": LISTED, "input": "[[words 6]] [[gap 60]] [[fail-mid insufficient_quota]]", "stream": True},
                           "/v1/responses", {"authorization": "Bearer one"}) as answer:
            *_, failed, error = [event for event in events(answer.read().decode().replace("\ndata:", "\n\ndata:")) if event != "[DONE]"]
        failed, error = json.loads(failed), json.loads(error)
        self.assertEqual((failed["type"], failed["response"]["status"], failed["response"]["error"]["code"]),
                         ("response.failed", "failed", "rate_limit_exceeded"))
        self.assertTrue(failed["response"]["usage"]["output_tokens"])
        self.assertEqual((error["type"], error["code"]), ("error", "insufficient_quota"))
        with self.assertRaises(openai.APIError):
            list(self.create("[[words 6]] [[gap 60]] [[fail-mid insufficient_quota]]", stream=True))


class Stored(Turn):
    def test_a_conversation_by_ids(self):
        first = self.create("one [[say first]]", instructions="Only now.")
        second = self.create("two [[say second]]", previous_response_id=first.id)
        third = self.stream("three [[say third]]", previous_response_id=second.id, instructions="New.")[-1].response
        self.assertEqual(third.previous_response_id, second.id)
        self.assertEqual(self.seen(), told([("developer", "New."), ("user", "one [[say first]]"), ("assistant", "first"),
                                       ("user", "two [[say second]]"), ("assistant", "second"), ("user", "three [[say third]]")]))
        # Streamed answers are kept, too, and a conversation can go on from any of them.
        self.create("other [[say x]]", previous_response_id=first.id)
        self.assertEqual(self.seen(), told([("user", "one [[say first]]"), ("assistant", "first"), ("user", "other [[say x]]")]))
        self.assertEqual(client.responses.retrieve(third.id).output_text, "third")

    @needs("tools")
    def test_three_rounds_of_tools_by_ids(self):
        prompt = f"go {CALLS} [[next]] [[tool add {{}}]] [[next]] [[tool nope no json]] [[next]] [[say done]]"
        expected, input, previous = [("user", prompt)], prompt, None
        for number, names in enumerate((["get_weather", "add"], ["add"], ["nope"], [])):
            if number % 2:
                answer = self.stream(input, tools=TOOLS, previous_response_id=previous)[-1].response
            else:
                answer = self.create(input, tools=TOOLS, previous_response_id=previous)
            self.assertIn(told(expected), [conversation(turn) for turn in model.turns()])
            calls = [item for item in answer.output if item.type == "function_call"]
            self.assertEqual([call.name for call in calls], names)
            input = [{"type": "function_call_output", "call_id": call.call_id, "output": f"r-{call.call_id}"} for call in calls]
            expected += [("call", call.call_id, call.name, call.arguments) for call in calls]
            expected += [("output", call.call_id, f"r-{call.call_id}") for call in calls]
            previous = answer.id
        self.assertEqual(answer.output_text, "done")

    @needs("tools")
    def test_sealed_reasoning_stays_in_the_conversation(self):
        prompt = ("go [[reason First.]] [[sealed S1]] [[tool add {}]] [[next]] [[sealed S2]] [[say I look.]] [[tool add {}]] [[next]]"
                  "[[reason Last.]] [[sealed S3]] [[say done]]")
        sealed = [("reasoning", "S1", "First."), ("reasoning", "S2"), ("reasoning", "S3", "Last.")]
        # Held by the proxy, or by the client, who sends back what it got, or only its ids (as Vercel's AI SDK does).
        for way in ("previous", "whole", "ids"):
            model.reset()
            expected, items, previous = [("user", prompt)], [{"role": "user", "content": prompt}], None
            more = {"tools": TOOLS, **({"store": False, "include": ["reasoning.encrypted_content"]} if way == "whole" else {})}
            for number, thought in enumerate(sealed):
                if number % 2:
                    answer = self.stream(items, previous_response_id=previous, **more)[-1].response
                else:
                    answer = self.create(items, previous_response_id=previous, **more)
                self.assertIn(told(expected), [conversation(turn) for turn in model.turns()])
                self.assertEqual(answer.output[0].type, "reasoning")
                self.assertEqual(answer.output[0].encrypted_content, thought[1] if way == "whole" else None)
                calls = [item for item in answer.output if item.type == "function_call"]
                results = [{"type": "function_call_output", "call_id": call.call_id, "output": "r"} for call in calls]
                expected += [thought, *([("assistant", answer.output_text)] if answer.output_text else []),
                             *(("call", call.call_id, "add", "{}") for call in calls), *(("output", call.call_id, "r") for call in calls)]
                if way == "previous":
                    items, previous = results, answer.id
                else:
                    ids = [{"type": "item_reference", "id": item.id} for item in answer.output]
                    items += [*(answer.output if way == "whole" else ids), *results]
            self.assertEqual(answer.output_text, "done")

    @needs("tools")
    def test_results_that_are_missing(self):
        answer = self.create(CALLS, tools=TOOLS)
        with self.assertRaises(openai.BadRequestError) as raised:
            self.create("never mind", previous_response_id=answer.id)
        self.assertIn(answer.output[0].call_id, str(raised.exception))

    def test_by_id(self):
        answer = self.create("hello")
        self.assertEqual(client.responses.retrieve(answer.id).to_dict(), answer.to_dict())
        client.responses.delete(answer.id)
        for gone in (answer.id, "resp_never"):
            with self.assertRaises(openai.NotFoundError) as raised:
                client.responses.retrieve(gone)
            self.assertEqual(raised.exception.code, "response_not_found")
            with self.assertRaises(openai.NotFoundError):
                client.responses.delete(gone)
            self.refused("previous_response_id", "previous_response_not_found", previous_response_id=gone)

    def test_no_other_key_sees_it(self):
        answer = self.create("hello")
        for ask in (other.responses.retrieve, other.responses.delete):
            with self.assertRaises(openai.NotFoundError):
                ask(answer.id)
        with self.assertRaises(openai.BadRequestError):
            self.create("more", using=other, previous_response_id=answer.id)
        self.assertEqual(client.responses.retrieve(answer.id).output_text, "hello")

    def test_not_stored(self):
        answer = self.create("hello", store=False)
        self.assertEqual(answer.store, False)
        with self.assertRaises(openai.NotFoundError):
            client.responses.retrieve(answer.id)


if __name__ == "__main__":
    unittest.main()
