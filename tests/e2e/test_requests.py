"""What reaches the model: the client's words, in order and unchanged, and next to nothing else."""

import json
import unittest

import openai

import harness
from harness import ask, conversation, offered
from test_structured import png
from versions import DEGRADED, DETAIL, LISTED, MEASURED, NATIVE, NATIVE_EVER, OWN_TOOLS, by_version, has, since, told

# Most bytes of anything that is not the client's, as the README tells them.
LIMIT = by_version(v44=1300, v50=3900, v58=4800, v66=3500, v80=3900, v81=5200, v104=2700, v107=4100, v121=3800, v125=2200, v142=800, v146=100, v169=200)


def setUpModule():
    global model, proxy, client
    model = harness.Model()
    proxy = harness.Proxy(model)
    client = proxy.client()


def tearDownModule():
    client.close()
    proxy.close()
    model.kill()


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def texts(item):
    return [part.get("text") for part in item.get("content") or []]


def foreign(body, said):
    """Bytes of instructions, tools and those items of the input that hold none of the client's words."""
    words = {part for item in told(said) for part in item}
    others = [item for item in body["input"] if not set(texts(item)) <= words]
    return sum(len(compact(part)) for part in (body.get("instructions") or "", body.get("tools") or [], *others))


class Sent(unittest.TestCase):
    def sent(self, body):
        model.reset()
        status, _, text = proxy.post(body)
        self.assertEqual(status, 200, text)
        (body,) = model.turns()
        return body

    def test_the_clients_messages_in_order_and_little_else(self):
        said = [
            ("system", "Be brief.\nAlways."), ("user", "  first question\u2028 "), ("assistant", "first answer"),
            ("developer", "A new rule."), ("user", "second question"),
        ]
        body = self.sent({"model": LISTED, "messages": [{"role": role, "content": text} for role, text in said]})
        self.assertEqual(conversation(body), told(said))
        self.assertEqual((body["model"], offered(body)), (LISTED, []))
        MEASURED["bytes"] = foreign(body, said)
        self.assertLess(foreign(body, said), LIMIT, compact(body))
        if not NATIVE:
            DEGRADED[self.id()] = "joined"
            self.assertIn("prompt mode joined", proxy.get("/readyz")[1])

    def test_a_conversation_that_ends_otherwise(self):
        said = [("user", "one"), ("assistant", "two"), ("developer", "three")]
        body = self.sent({"model": LISTED, "messages": [{"role": role, "content": text} for role, text in said]})
        self.assertEqual(conversation(body), told(said))
        if not NATIVE_EVER:
            DEGRADED[self.id()] = "joined"
            self.assertIn("as one text", proxy.get("/readyz")[1])

    def test_one_text_by_setting(self):
        other = harness.Proxy(model, {"PROXY_PROMPT_MODE": "joined"})
        self.addCleanup(other.close)
        self.assertEqual(json.loads(other.get("/readyz")[1])["codex"]["prompt"], "joined")
        image = f"data:image/png;base64,{png(3, 2, 1)}"
        call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        messages = [
            {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "A rule."},
            {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "I look.", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "content": "2\n3"},
            {"role": "user", "content": "Hi"},
        ]
        model.reset()
        status, _, text = other.post({"model": LISTED, "messages": messages})
        self.assertEqual(status, 200, text)
        (body,) = model.turns()
        lines = ("[system] Be brief.", "[developer] A rule.", "[user] one two", "[assistant] I look.", '[tool_call call_1] add {"a": 1}',
                 "[tool call_1] 2\n3", "[user] Hi")
        self.assertEqual(conversation(body), [("user", "\n".join(lines), (image, DETAIL))])

    def test_parts_of_a_message(self):
        parts = [{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}]
        body = self.sent({"model": LISTED, "messages": [{"role": "user", "content": parts}]})
        self.assertEqual(conversation(body), told([("user", "part one", "part two")]))

    def test_effort_and_verbosity_as_asked(self):
        body = self.sent(ask("hello", reasoning_effort="high", verbosity="high"))
        self.assertEqual(body["reasoning"]["effort"], "high")
        self.assertEqual(body["text"]["verbosity"], "high")
        # Until it can be left out, the service's own is asked for.
        default = by_version(v44="medium", v125=None)
        self.assertEqual((self.sent(ask("hello")).get("text") or {}).get("verbosity"), default)

    def test_the_effort_in_the_models_name(self):
        body = self.sent(ask("hello", model=f"{LISTED}-low"))
        # Where no model is listed, a name passes whole.
        expected = (LISTED, "low") if since(50) else (f"{LISTED}-low", None)
        self.assertEqual((body["model"], (body.get("reasoning") or {}).get("effort")), expected)

    def test_with_the_providers_own_key(self):
        self.sent(ask("hello"))
        (request,) = model.requests()
        self.assertEqual(request["headers"]["authorization"], f"Bearer {harness.MOCK_KEY}")

    def test_what_is_missing_is_said(self):
        degraded = json.loads(proxy.get("/readyz")[1])["codex"]["degraded"]
        self.assertEqual(any("adds to each request" in line for line in degraded), bool(OWN_TOOLS), degraded)

    def test_what_settings_change(self):
        other = harness.Proxy(model, {"PROXY_REASONING": "off", "PROXY_BASE_INSTRUCTIONS": "Be terse.", "PROXY_RESPONSE_STORE_MB": "0",
                                      "PROXY_MODEL_ALIASES": f"mine={LISTED}"})
        self.addCleanup(other.close)
        model.reset()
        prompt = "[[reason Secret.]] [[sealed S]] [[say hi]]"
        with other.client() as using:
            answer = using.chat.completions.create(**ask(prompt, model="mine"))
            self.assertEqual((answer.model, answer.choices[0].message.content), ("mine", "hi"))
            self.assertNotIn("Secret", answer.to_json())
            answer = using.responses.create(model="mine", input=prompt, include=["reasoning.encrypted_content"])
            self.assertEqual((answer.output_text, answer.store), ("hi", False))
            seals = [(item.summary, item.encrypted_content) for item in answer.output if item.type == "reasoning"]
            self.assertEqual(seals, [([], "S")] if has("seals") else [])
            with self.assertRaises(openai.NotFoundError):
                using.responses.retrieve(answer.id)
        for body in model.turns():
            # Older ones are always asked for a summary, which is then left out.
            self.assertEqual((body["model"], body["reasoning"].get("summary")), (LISTED, by_version(v44="auto", v77=None)))
            self.assertEqual(body.get("instructions") or texts(body["input"][0])[0], "Be terse.")

    def test_models_are_those_of_codex(self):
        names = [listed.id for listed in client.models.list()]
        if not since(50):
            return self.assertEqual(names, ["codex-5"])
        self.assertIn(LISTED, names)
        self.assertEqual(client.models.retrieve(LISTED).id, LISTED)


if __name__ == "__main__":
    unittest.main()
