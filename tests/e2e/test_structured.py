"""Structured output parsed into types, JSON objects, and images."""

import base64
import enum
import json
import struct
import unittest
import zlib
from typing import Literal, Optional, Union

import openai
import pydantic

import harness
from harness import ask, conversation
from versions import LISTED, needs, told


class Kind(enum.Enum):
    BIRD = "bird"
    CAT = "cat ☂"


class Place(pydantic.BaseModel):
    street: str
    next: Optional["Place"] = pydantic.Field(default=None, description="Where it goes on.")


class Animal(pydantic.BaseModel):
    """An animal."""
    name: str = pydantic.Field(description="What it is called.", min_length=1)
    kind: Kind
    legs: Optional[int] = None
    tags: list[str]
    home: Union[Place, Literal["none"]]


ANIMAL = '{"name":"Zoë \\u2602","kind":"cat ☂","legs":null,"tags":["a","b [[c"],"home":{"street":"x","next":{"street":"y","next":null}}}'
WANTED = Animal(name="Zoë ☂", kind=Kind.CAT, tags=["a", "b [[c"], home=Place(street="x", next=Place(street="y")))


def png(width, height, seed):
    rows = b"".join(b"\0" + bytes((x * seed + y) % 256 for x in range(3 * width)) for y in range(height))

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")).decode()


def setUpModule():
    global model, proxy, client
    model = harness.Model()
    proxy = harness.Proxy(model)
    client = proxy.client()


def tearDownModule():
    client.close()
    proxy.close()
    model.kill()


class Turn(unittest.TestCase):
    def setUp(self):
        model.reset()

    def asked(self):
        """The format that the model was asked for."""
        return (model.turns()[-1].get("text") or {}).get("format")


@needs("schemas")
class Schemas(Turn):
    prompt = f"[[say {ANIMAL}]]"

    def test_chat_parse(self):
        answer = client.chat.completions.parse(**ask(self.prompt), response_format=Animal)
        self.assertEqual(answer.choices[0].message.parsed, WANTED)
        asked = self.asked()
        self.assertEqual((asked["type"], asked["strict"]), ("json_schema", True))
        schema = asked["schema"]
        self.assertEqual(set(schema["required"]), set(Animal.model_fields))
        self.assertEqual(schema["additionalProperties"], False)
        self.assertEqual(schema["properties"]["name"]["description"], "What it is called.")
        self.assertEqual(schema["$defs"]["Place"]["required"], ["street", "next"])
        self.assertEqual(conversation(model.turns()[0]), told([("user", self.prompt)]))

    def test_chat_stream(self):
        with client.chat.completions.stream(**ask(self.prompt), response_format=Animal) as stream:
            kinds = [event.type for event in stream]
            self.assertEqual(stream.get_final_completion().choices[0].message.parsed, WANTED)
        self.assertIn("content.delta", kinds)

    def test_responses_parse_and_stream(self):
        answer = client.responses.parse(model=LISTED, input=self.prompt, text_format=Animal)
        self.assertEqual(answer.output_parsed, WANTED)
        self.assertEqual((self.asked()["type"], conversation(model.turns()[0])), ("json_schema", told([("user", self.prompt)])))
        with client.responses.stream(model=LISTED, input=self.prompt, text_format=Animal) as stream:
            list(stream)
            self.assertEqual(stream.get_final_response().output_parsed, WANTED)

    def test_a_schema_that_is_not_strict_yet(self):
        # As frameworks send it that do not use the helpers.
        form = {"type": "json_schema", "json_schema": {"name": "Animal", "description": "One animal", "schema": Animal.model_json_schema()}}
        answer = client.chat.completions.create(**ask(self.prompt), response_format=form)
        self.assertEqual(Animal.model_validate_json(answer.choices[0].message.content), WANTED)
        self.assertEqual(set(self.asked()["schema"]["required"]), set(Animal.model_fields))

    def test_a_schema_that_cannot_be_strict(self):
        free = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": free}}
        with self.assertRaises(openai.BadRequestError) as raised:
            client.chat.completions.create(**ask("x"), response_format=form)
        self.assertTrue(raised.exception.param.startswith("response_format.json_schema.schema"), raised.exception.param)

    @needs("cuts")
    def test_an_answer_that_was_cut_is_not_parsed(self):
        with self.assertRaises(openai.LengthFinishReasonError):
            client.chat.completions.parse(**ask(self.prompt + "[[incomplete]]"), response_format=Animal)

    @needs("tools")
    def test_tools_parsed_by_their_model(self):
        answer = client.chat.completions.parse(**ask(f"[[tool Animal {ANIMAL}]]"), tools=[openai.pydantic_function_tool(Animal)])
        self.assertEqual(answer.choices[0].message.tool_calls[0].function.parsed_arguments, WANTED)

    @needs("tools")
    def test_with_history_and_tools_at_once(self):
        messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "one"}, {"role": "assistant", "content": "{}"},
                    {"role": "user", "content": self.prompt}]
        answer = client.chat.completions.parse(model=LISTED, messages=messages, response_format=Animal,
                                               tools=[openai.pydantic_function_tool(Place)])
        self.assertEqual(answer.choices[0].message.parsed, WANTED)
        self.assertEqual(conversation(model.turns()[0]),
                         told([("system", "S"), ("user", "one"), ("assistant", "{}"), ("user", self.prompt)]))


class Objects(Turn):
    def test_json_object(self):
        line = ("developer", "Answer with one JSON object and nothing else.")
        prompt = '[[say {"a": 1}]]'
        answer = client.chat.completions.create(**ask(prompt), response_format={"type": "json_object"})
        self.assertEqual(json.loads(answer.choices[0].message.content), {"a": 1})
        self.assertEqual(conversation(model.turns()[-1]), told([("user", prompt), line]))
        self.assertIsNone(self.asked())
        answer = client.responses.create(model=LISTED, input=prompt, text={"format": {"type": "json_object"}})
        self.assertEqual(json.loads(answer.output_text), {"a": 1})
        self.assertEqual(conversation(model.turns()[-1]), told([("user", prompt), line]))

    def test_text(self):
        client.chat.completions.create(**ask("hi"), response_format={"type": "text"})
        self.assertEqual((conversation(model.turns()[-1]), self.asked()), (told([("user", "hi")]), None))


class Images(Turn):
    def part(self, url, **more):
        return {"type": "image_url", "image_url": {"url": url, **more}}

    def test_in_any_message_of_the_user(self):
        urls = [f"data:image/png;base64,{png(3, 2, seed)}" for seed in range(1, 5)]
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "one"}, self.part(urls[0], detail="high"), {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "seen"},
            {"role": "user", "content": [self.part(urls[1]), self.part(urls[2], detail="low")]},
            {"role": "user", "content": [self.part(urls[3], detail="auto"), {"type": "text", "text": "three"}]},
        ]
        client.chat.completions.create(model=LISTED, messages=messages)
        # Of low detail codex would leave a sentence.
        expected = [("user", "one", (urls[0], "high"), "two"), ("assistant", "seen"),
                    ("user", (urls[1], None), (urls[2], "auto")), ("user", (urls[3], "auto"), "three")]
        self.assertEqual(conversation(model.turns()[0]), told(expected))

        items = [{"role": message["role"], "content": message["content"] if message["role"] == "assistant" else [
            {"type": "input_text", "text": part["text"]} if "text" in part else
            {"type": "input_image", "image_url": part["image_url"]["url"], **({"detail": part["image_url"]["detail"]} if "detail" in part["image_url"] else {})}
            for part in message["content"]]} for message in messages]
        client.responses.create(model=LISTED, input=items)
        self.assertEqual(conversation(model.turns()[1]), told(expected))

    def test_what_cannot_be_sent(self):
        for url, word in (
            ("https://example.com/cat.png", "data:image/png;base64"), ("http://example.com/cat.png", "data:image/png;base64"),
            ("file:///etc/passwd", "data URL"), ("data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=", "PNG"), ("data:image/png;base64,iVBORw0KGgo", "base64"),
        ):
            with self.subTest(url), self.assertRaises(openai.BadRequestError) as raised:
                client.chat.completions.create(**ask([{"type": "text", "text": "what?"}, self.part(url)]))
            self.assertEqual(raised.exception.param, "messages[0].content[1].image_url.url")
            self.assertIn(word, str(raised.exception))
            with self.assertRaises(openai.BadRequestError) as raised:
                client.responses.create(model=LISTED, input=[{"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}])
            self.assertEqual(raised.exception.param, "input[0].content[0].image_url")
        self.assertEqual(model.turns(), [])


if __name__ == "__main__":
    unittest.main()
