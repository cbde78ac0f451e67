"""What reaches the model: the client's words, in order and unchanged, and next to nothing else."""

import json
import unittest

import openai

import harness
from harness import LISTED, NEWEST, VERSION, ask

# Bytes of anything that is not the client's.
LIMIT = 400 if NEWEST else 1024


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


def foreign(body, words):
    """Bytes of instructions, tools and those items of the input that hold none of the client's words."""
    others = [item for item in body["input"] if not set(texts(item)) <= set(words)]
    return sum(len(compact(part)) for part in (body.get("instructions") or "", body.get("tools") or [], *others))


class Sent(unittest.TestCase):
    def sent(self, body):
        model.reset()
        status, _, text = proxy.post(body)
        self.assertEqual(status, 200, text)
        (body,) = model.turns()
        return body

    def test_the_clients_messages_in_order_and_little_else(self):
        messages = [
            ("system", "Be brief.\nAlways."), ("user", "  first question\u2028 "), ("assistant", "first answer"),
            ("developer", "A new rule."), ("user", "second question"),
        ]
        words = [text for _, text in messages]
        body = self.sent({"model": LISTED, "messages": [{"role": role, "content": text} for role, text in messages]})
        own = [item for item in body["input"] if set(texts(item)) <= set(words)]
        roles = ["developer" if role == "system" else role for role, _ in messages]
        self.assertEqual([(item["role"], *texts(item)) for item in own], list(zip(roles, words)))
        self.assertEqual(body["model"], LISTED)
        self.assertLess(foreign(body, words), LIMIT, compact(body))
        tools = [tool.get("name") for tool in body.get("tools") or []]
        self.assertEqual(tools, ["update_plan"] if VERSION == "0.142.5" else [])

    def test_parts_of_a_message(self):
        parts = [{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}]
        body = self.sent({"model": LISTED, "messages": [{"role": "user", "content": parts}]})
        self.assertEqual(texts(body["input"][-1]), ["part one", "part two"])

    def test_effort_and_verbosity_as_asked(self):
        body = self.sent(ask("hello", reasoning_effort="high", verbosity="medium"))
        self.assertEqual(body["reasoning"]["effort"], "high")
        self.assertEqual(body["text"]["verbosity"], "medium")
        self.assertNotIn("verbosity", self.sent(ask("hello")).get("text") or {})

    def test_the_effort_in_the_models_name(self):
        body = self.sent(ask("hello", model=f"{LISTED}-low"))
        self.assertEqual((body["model"], body["reasoning"]["effort"]), (LISTED, "low"))

    def test_with_the_providers_own_key(self):
        self.sent(ask("hello"))
        (request,) = model.requests()
        self.assertEqual(request["headers"]["authorization"], f"Bearer {harness.MOCK_KEY}")

    def test_what_is_missing_is_said(self):
        degraded = json.loads(proxy.get("/readyz")[1])["codex"]["degraded"]
        self.assertEqual(any("update_plan" in line for line in degraded), VERSION == "0.142.5", degraded)

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
            self.assertEqual((answer.output[0].summary, answer.output[0].encrypted_content, answer.store), ([], "S", False))
            with self.assertRaises(openai.NotFoundError):
                using.responses.retrieve(answer.id)
        for body in model.turns():
            self.assertEqual((body["model"], body["reasoning"].get("summary")), (LISTED, None))
            self.assertEqual(body.get("instructions") or texts(body["input"][0])[0], "Be terse.")

    def test_models_are_those_of_codex(self):
        names = [listed.id for listed in client.models.list()]
        self.assertIn(LISTED, names)
        self.assertEqual(client.models.retrieve(LISTED).id, LISTED)


if __name__ == "__main__":
    unittest.main()
