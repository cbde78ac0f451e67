"""`stop`, `max_tokens`, `n` and the permits, on chat and on the older text completions."""

import json
import unittest

import openai

import harness
from harness import ask, conversation, eventually
from versions import LISTED, NEWEST, needs, told


def setUpModule():
    global model, proxy, client
    model = harness.Model()
    proxy = harness.Proxy(model)
    client = proxy.client()


def tearDownModule():
    client.close()
    proxy.close()
    model.kill()


def whole(body, using=None):
    """What each choice said and why it ended, in the order of their indexes."""
    answer = (using or client).chat.completions.create(**body)
    assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    return [(choice.message.content, choice.finish_reason) for choice in answer.choices], answer.usage


def streamed(body, using=None):
    texts, ends, usage = {}, {}, None
    for chunk in (using or client).chat.completions.create(**body, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert choice.index not in ends, "a chunk after the end"
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    return [(texts[index], ends[index]) for index in sorted(texts)], usage


class Turn(unittest.TestCase):
    def setUp(self):
        model.reset()

    def both(self, **body):
        results = [answer(body)[0] for answer in (whole, streamed)]
        self.assertEqual(results[0], results[1])
        said = told([("user", body["messages"][0]["content"])])
        self.assertEqual([conversation(turn) for turn in model.turns()[-2 * len(results[0]):]], [said] * 2 * len(results[0]))
        return results[0]


class Cut(Turn):
    def test_stop(self):
        for said, stop, kept in (
            # The model sends a delta for each word, its space included.
            ("one two three", "two", "one "), ("one two three", ["e two t", "x"], "on"), ("one two three", ["three", "o th"], "one tw"),
            ("one two STOP three", ["STOP"], "one two "), ("a ab abc abcd", ["abcd", "b a"], "a a"), ("one", "one", ""),
            ("ends with the beginning of a sto", ["stop"], "ends with the beginning of a sto"), ("héé ☂ héé", ["☂ h"], "héé "),
            ("never", ["x", "y", "z", "w"], "never"), ("a\n\nb\n\nc", "\n\n", "a"),
        ):
            with self.subTest(said, stop=stop):
                self.assertEqual(self.both(**ask(f"[[say {said}]]", stop=stop)), [(kept, "stop")])

    def test_the_model_is_stopped(self):
        # The turn ends long before the model would.
        self.both(**ask("[[words 2000]] [[gap 20]]", stop=["w4 "]))
        self.both(**ask("[[words 2000]] [[gap 20]]", max_tokens=3))
        eventually("the model is let go", lambda: len(model.connections()["finished"]) == 4)
        self.assertTrue(all(finished["early"] and finished["events"] < 200 for finished in model.connections()["finished"]))

    def test_max_tokens(self):
        for limits, kept in (({"max_tokens": 2}, "w0 w1 w2"), ({"max_completion_tokens": 2}, "w0 w1 w2"), ({"max_tokens": 9, "max_completion_tokens": 2}, "w0 w1 w2")):
            # As close as can be counted: four bytes are a token.
            self.assertEqual(self.both(**ask("[[words 50]]", **limits)), [(kept[:8], "length")])
        self.assertEqual(self.both(**ask("[[words 3]]", max_tokens=10 ** 12)), [("w0 w1 w2 ", "stop")])
        self.assertEqual(self.both(**ask("[[say ☂☂☂☂☂]]", max_tokens=1)), [("☂", "length")])

    def test_a_count_where_codex_gives_none(self):
        for answer in (whole, streamed):
            _, usage = answer(ask("[[words 50]]", max_tokens=2))
            self.assertEqual(usage.completion_tokens, 2)
            self.assertTrue(usage.prompt_tokens)


class Choices(Turn):
    def at_once(self):
        """How many answers of the model ran at the same time, at most. Codex lets the model go some milliseconds after it
        has ended an interrupted turn."""
        finished = model.connections()["finished"]
        ends = {answer["request"]: answer["closed_ms"] - (60 if answer["early"] else 0) for answer in finished}
        return max(sum(other["opened_ms"] <= answer["opened_ms"] < ends[other["request"]] for other in finished) for answer in finished)

    def test_n_answers(self):
        for answer in (whole, streamed):
            model.reset()
            choices, usage = answer(ask("hello [[usage 31 21 11 7]]", n=3))
            self.assertEqual(choices, [("hello", "stop")] * 3)
            self.assertEqual((usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details.cached_tokens), (31, 33, 21))
            self.assertEqual([conversation(turn) for turn in model.turns()], [told([("user", "hello [[usage 31 21 11 7]]")])] * 3)

    def test_n_answers_that_stop(self):
        self.assertEqual(self.both(**ask("[[words 9]]", n=3, stop="w2")), [("w0 w1 ", "stop")] * 3)

    def test_n_answers_under_few_permits(self):
        for permits in (1, 2) if NEWEST else (2,):
            limited = harness.Proxy(model, {"PROXY_SSE_MAX_CONCURRENCY": str(permits)})
            self.addCleanup(limited.close)
            for answer in (whole, streamed):
                # Whether the model ends each of them or the proxy cuts it short (after which older ones keep its connection).
                for more, said in (({}, "w0 w1 w2 w3 "), ({"stop": ["w3"]}, "w0 w1 w2 "))[:2 if NEWEST else 1]:
                    with self.subTest(permits, answer=answer.__name__, **more), limited.client() as using:
                        model.reset()
                        self.assertEqual(answer(ask("[[words 4]] [[gap 40]]", n=3, **more), using)[0], [(said, "stop")] * 3)
                        eventually("all have ended", lambda: len(model.connections()["finished"]) == 3)
                        self.assertEqual(self.at_once(), permits)

    def test_n_answers_take_no_permit_that_another_holds(self):
        limited = harness.Proxy(model, {"PROXY_SSE_MAX_CONCURRENCY": "2"})
        self.addCleanup(limited.close)
        with limited.client() as using:
            with using.chat.completions.create(**ask("[[say x y]] [[gate never]]"), stream=True) as busy:
                next(iter(busy))
                self.assertEqual(whole(ask("[[words 4]] [[gap 25]]", n=3), using)[0], [("w0 w1 w2 w3 ", "stop")] * 3)
                self.assertEqual(self.at_once(), 1)


class Text(Turn):
    def create(self, prompt, **more):
        answer = client.completions.create(model=LISTED, prompt=prompt, **more)
        if not more.get("stream"):
            self.assertEqual((answer.object, answer.model), ("text_completion", LISTED))
            return [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices], answer.usage
        texts, ends, usage = {}, {}, None
        for chunk in answer:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
                ends[choice.index] = choice.finish_reason
        return [(index, texts[index], ends[index]) for index in sorted(texts)], usage

    def both(self, prompt, **more):
        one, usage = self.create(prompt, **more)
        two, again = self.create(prompt, **more, stream=True, stream_options={"include_usage": True})
        self.assertEqual((one, usage.to_dict()), (two, again.to_dict()))
        return one, usage

    def test_prompts(self):
        self.assertEqual(self.both("hello")[0], [(0, "hello", "stop")])
        self.assertEqual(conversation(model.turns()[0]), told([("user", "hello")]))
        model.reset()
        choices, usage = self.both(["one [[usage 10 5 3 1]]", "two [[usage 20 5 4 1]]"], n=2)
        self.assertEqual(choices, [(0, "one", "stop"), (1, "one", "stop"), (2, "two", "stop"), (3, "two", "stop")])
        self.assertEqual((usage.prompt_tokens, usage.completion_tokens), (30, 14))
        self.assertEqual(sorted(conversation(turn)[0][1].removeprefix("[user] ")[:3] for turn in model.turns()), ["one"] * 4 + ["two"] * 4)

    def test_echo_stop_and_limits(self):
        self.assertEqual(self.both("[[say answer]]", echo=True)[0], [(0, "[[say answer]]answer", "stop")])
        self.assertEqual(self.both("[[words 9]]", stop=["w1"])[0], [(0, "w0 ", "stop")])
        self.assertEqual(self.both("[[words 9]]", max_tokens=1)[0], [(0, "w0 w", "length")])

    @needs("cuts")
    def test_a_cut_answer(self):
        self.assertEqual(self.both("[[words 9]] [[incomplete]]")[0][0][2], "length")

    def test_what_cannot_be_served(self):
        for param, value in (("suffix", "end"), ("logprobs", 2), ("best_of", 3)):
            with self.subTest(param), self.assertRaises(openai.BadRequestError) as raised:
                client.completions.create(model=LISTED, prompt="x", **{param: value})
            self.assertEqual((raised.exception.param, raised.exception.code), (param, "unsupported_parameter"))
        for prompt, param in (([], "prompt"), ([[1, 2]], "prompt[0]"), ([1, 2], "prompt[0]")):
            with self.subTest(prompt), self.assertRaises(openai.BadRequestError) as raised:
                client.completions.create(model=LISTED, prompt=prompt)
            self.assertEqual(raised.exception.param, param)
        self.assertEqual(model.turns(), [])

    def test_the_wire(self):
        status, _, text = proxy.post({"model": LISTED, "prompt": "a b", "stream": True}, "/v1/completions")
        self.assertEqual(status, 200)
        *chunks, done = harness.events(text)
        chunks = [json.loads(chunk) for chunk in chunks]
        self.assertEqual((done, {chunk["object"] for chunk in chunks}, len({chunk["id"] for chunk in chunks})), ("[DONE]", {"text_completion"}, 1))
        self.assertTrue(all("usage" not in chunk for chunk in chunks))


if __name__ == "__main__":
    unittest.main()
