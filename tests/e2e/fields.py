"""Every field of the API and what becomes of it: what the README says and what test_fields.py tries out.

`python3 tests/e2e/fields.py` prints the table of the README.
"""

import dataclasses
import typing

HONOURED, IDLE, REFUSED = "honoured", "accepted without effect", "refused with a 400 that names it"
CHAT, RESPONSES, COMPLETIONS = "/v1/chat/completions", "/v1/responses", "/v1/completions"


@dataclasses.dataclass
class Field:
    """`body` is an example; `sees(asked, answer)` tells by what the model was asked, or by the answer, that it counts;
    `param` is what the error names where that is not the field itself."""
    route: str
    verdict: str
    name: str
    body: dict
    sees: typing.Callable = None
    note: str = ""
    param: str = None


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg=="
NESTED, FLAT = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}, {"type": "function", "name": "f", "parameters": SCHEMA}
USER = [{"role": "user", "content": "hi"}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def says(*texts):
    """The conversation that the model got holds these items, in short."""
    return lambda asked, _: all(text in asked["conversation"] for text in texts)


def asks(**values):
    """The request that the model got has these members, however deep."""
    def check(asked, _):
        return all(asked.get(name) == value for name, value in values.items())
    return check


def answers(check):
    return lambda _, answer: check(answer)


def user(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


def text(answer):
    return answer["choices"][0]["message"]["content"]


def effort(value):
    return lambda asked, _: asked["reasoning"]["effort"] == value


def summary(value):
    return lambda asked, _: asked["reasoning"].get("summary") == value


def form(asked, _):
    return asked["text"]["format"]["schema"] == SCHEMA


def tools(*names):
    return lambda asked, _: asked["tools"] == list(names)


def chat(verdict, name, body, sees=None, note="", param=None):
    return Field(CHAT, verdict, name, body, sees, note, param)


def responses(verdict, name, body, sees=None, note="", param=None):
    return Field(RESPONSES, verdict, name, body, sees, note, param)


def completions(verdict, name, body, sees=None, note="", param=None):
    return Field(COMPLETIONS, verdict, name, body, sees, note, param)


ANY, ONE, JSON = ("developer", "Answer by calling at least one of the tools."), ("developer", "Answer by calling the tool f."), (
    "developer", "Answer with one JSON object and nothing else.")

FIELDS = [
    chat(HONOURED, "messages", {"messages": [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, *USER]},
         says(("developer", "s"), ("developer", "d"), ("user", "hi")), "all roles"),
    chat(HONOURED, "content", user({"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}), says(("user", "a", "b")), "text or parts"),
    chat(HONOURED, "image_url", user({"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}), says(("user", (PNG, "high"))),
         "`data:` URLs; `detail`, of which `low` counts as `auto`"),
    chat(HONOURED, "tool_calls", {"messages": [*USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c", "content": "r"}]},
         says(("call", "c", "f", "{}"), ("output", "c", "r"))),
    chat(HONOURED, "tool_call_id", {"messages": [*USER, {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "d"}]},
         {"role": "tool", "tool_call_id": "d", "content": "2"}, {"role": "tool", "tool_call_id": "c", "content": "1"}]}, says(("output", "d", "2"), ("output", "c", "1"))),
    chat(HONOURED, "refusal", {"messages": [*USER, {"role": "assistant", "refusal": "no"}, *USER]}, says(("assistant", "no"))),
    chat(HONOURED, "model", {"model": "codex-5-low"}, effort("low"), "with `-minimal`, `-low`, `-medium`, `-high` or `-xhigh` behind it"),
    chat(HONOURED, "stream", {"stream": True}, lambda *_: True),
    chat(HONOURED, "stream_options.include_usage", {"stream": True, "stream_options": {"include_usage": True}}, lambda *_: True),
    chat(HONOURED, "n", {"n": 2}, answers(lambda answer: len(answer["choices"]) == 2), "1 – 8"),
    chat(HONOURED, "stop", {"stop": ["i"]}, answers(lambda answer: text(answer) == "h"), "up to 4"),
    chat(HONOURED, "max_tokens", {"max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}, answers(lambda answer: text(answer) == "hell")),
    chat(HONOURED, "max_completion_tokens", {"max_completion_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}, answers(lambda answer: text(answer) == "hell")),
    chat(HONOURED, "reasoning_effort", {"reasoning_effort": "high"}, effort("high")),
    chat(HONOURED, "reasoning.effort", {"reasoning": {"effort": "high"}}, effort("high")),
    chat(HONOURED, "reasoning.summary", {"reasoning": {"summary": "detailed"}}, summary("detailed")),
    chat(HONOURED, "verbosity", {"verbosity": "high"}, lambda asked, _: asked["text"]["verbosity"] == "high"),
    chat(HONOURED, "response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, form),
    chat(HONOURED, "response_format", {"response_format": {"type": "json_object"}}, says(JSON)),
    chat(HONOURED, "response_format", {"response_format": {"type": "text"}}, lambda asked, _: "format" not in asked["text"]),
    chat(HONOURED, "tools", {"tools": [NESTED]}, tools("f")),
    chat(HONOURED, "tool_choice", {"tools": [NESTED], "tool_choice": "none"}, tools()),
    chat(HONOURED, "tool_choice", {"tools": [NESTED], "tool_choice": "auto"}, tools("f")),
    chat(HONOURED, "tool_choice", {"tools": [NESTED], "tool_choice": "required"}, says(ANY)),
    chat(HONOURED, "tool_choice", {"tools": [NESTED], "tool_choice": {"type": "function", "function": {"name": "f"}}}, says(ONE)),
    chat(HONOURED, "tool_choice", {"tools": [NESTED], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}}}, says(ANY)),
    chat(HONOURED, "parallel_tool_calls", {"tools": [NESTED], "parallel_tool_calls": False, "messages": [{"role": "user", "content": "[[tool f {}]] [[tool f {}]]"}]},
         answers(lambda answer: len(answer["choices"][0]["message"]["tool_calls"]) == 1)),
    chat(HONOURED, "functions", {"functions": [NESTED["function"]]}, tools("f")),
    chat(HONOURED, "function_call", {"functions": [NESTED["function"]], "function_call": {"name": "f"}}, says(ONE)),
    chat(IDLE, "temperature", {"temperature": 0.3}),
    chat(IDLE, "top_p", {"top_p": 0.9}),
    chat(IDLE, "presence_penalty", {"presence_penalty": 1}),
    chat(IDLE, "frequency_penalty", {"frequency_penalty": -1.5}),
    chat(IDLE, "seed", {"seed": 7}),
    chat(IDLE, "logit_bias", {"logit_bias": {"50256": -100}}),
    chat(IDLE, "logprobs", {"logprobs": False, "top_logprobs": 0}, note="`false`"),
    chat(IDLE, "modalities", {"modalities": ["text"]}, note="`text` alone"),
    chat(IDLE, "user", {"user": "u"}),
    chat(IDLE, "metadata", {"metadata": {"a": "b"}}),
    chat(IDLE, "store", {"store": True}),
    chat(IDLE, "service_tier", {"service_tier": "flex"}),
    chat(IDLE, "prompt_cache_key", {"prompt_cache_key": "k"}),
    chat(IDLE, "safety_identifier", {"safety_identifier": "k"}),
    chat(IDLE, "prediction", {"prediction": {"type": "content", "content": "hi"}}),
    chat(IDLE, "messages[].name", {"messages": [{"role": "user", "content": "hi", "name": "bob"}]}),
    chat(IDLE, "stream_options", {"stream": True, "stream_options": {"include_obfuscation": False}}, note="others"),
    chat(IDLE, "any field that is not known", {"top_k": 40, "chat_template_kwargs": {"x": [1]}}),
    chat(REFUSED, "messages", {"messages": [{"role": "wizard", "content": "x"}]}, param="messages[0].role", note="unknown roles and types of parts"),
    chat(REFUSED, "audio", {"audio": {"voice": "x", "format": "wav"}}),
    chat(REFUSED, "modalities", {"modalities": ["text", "audio"]}, param="modalities[1]", note="others"),
    chat(REFUSED, "input_audio", user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}), param="messages[0].content[0].type"),
    chat(REFUSED, "file", user({"type": "file", "file": {"file_id": "x"}}), param="messages[0].content[0].type"),
    chat(REFUSED, "image_url", user({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}), param="messages[0].content[0].image_url.url",
         note="URLs that are not `data:` URLs, pictures that are not PNG, JPEG, GIF or WebP"),
    chat(REFUSED, "logprobs", {"logprobs": True}),
    chat(REFUSED, "top_logprobs", {"logprobs": None, "top_logprobs": 2}, note="above 0"),
    chat(REFUSED, "n", {"n": 9}, note="above 8"),
    chat(REFUSED, "suffix", {"suffix": "x"}),
    chat(REFUSED, "web_search_options", {"web_search_options": {}}),
    chat(REFUSED, "moderation", {"moderation": {"model": "x"}}),
    chat(REFUSED, "tools", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}, param="tools[0].type", note="of other types than `function`"),
    chat(REFUSED, "response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"]}}}}, param="response_format.json_schema.schema.properties.a",
         note="schemas that cannot be made strict without changing what they mean"),
    chat(REFUSED, "reasoning_effort", {"reasoning_effort": "enormous"}, note="that the model does not list"),

    responses(HONOURED, "input", {"input": "hello"}, says(("user", "hello")), "text, or items: messages, `function_call`, `function_call_output`, `reasoning` with `encrypted_content`, `item_reference`"),
    responses(HONOURED, "input", {"input": [*USER, {"type": "reasoning", "summary": [], "encrypted_content": "S"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, {"type": "function_call_output", "call_id": "c", "output": "r"}]},
        says(("user", "hi"), ("reasoning", "S"), ("call", "c", "f", "{}"), ("output", "c", "r"))),
    responses(HONOURED, "input_image", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}]}, says(("user", (PNG, None))), "as `image_url` of chat"),
    responses(HONOURED, "instructions", {"instructions": "s"}, says(("developer", "s"))),
    responses(HONOURED, "model", {"model": "codex-5-low"}, effort("low")),
    responses(HONOURED, "stream", {"stream": True}, lambda *_: True),
    responses(HONOURED, "tools", {"tools": [FLAT]}, tools("f")),
    responses(HONOURED, "tool_choice", {"tools": [FLAT], "tool_choice": {"type": "function", "name": "f"}}, says(ONE)),
    responses(HONOURED, "tool_choice", {"tools": [FLAT], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}}, says(ANY)),
    responses(HONOURED, "parallel_tool_calls", {"tools": [FLAT], "parallel_tool_calls": False, "input": "[[tool f {}]] [[tool f {}]]"}, answers(lambda answer: len(answer["output"]) == 1)),
    responses(HONOURED, "text.format", {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}, form),
    responses(HONOURED, "text.format", {"text": {"format": {"type": "json_object"}}}, says(JSON)),
    responses(HONOURED, "text.verbosity", {"text": {"verbosity": "high"}}, lambda asked, _: asked["text"]["verbosity"] == "high"),
    responses(HONOURED, "reasoning.effort", {"reasoning": {"effort": "high"}}, effort("high")),
    responses(HONOURED, "reasoning.summary", {"reasoning": {"summary": "concise"}}, summary("concise")),
    responses(HONOURED, "reasoning.generate_summary", {"reasoning": {"generate_summary": "concise"}}, summary("concise")),
    responses(HONOURED, "max_output_tokens", {"input": "hello", "max_output_tokens": 1}, answers(lambda answer: answer["incomplete_details"] == {"reason": "max_output_tokens"})),
    responses(HONOURED, "previous_response_id", {"previous_response_id": "STORED", "input": "more"}, says(("user", "stored"), ("assistant", "stored"), ("user", "more"))),
    responses(HONOURED, "include", {"input": "[[sealed S]] [[say hi]]", "include": ["reasoning.encrypted_content"]}, answers(lambda answer: answer["output"][0]["encrypted_content"] == "S"), "`reasoning.encrypted_content`"),
    responses(HONOURED, "store", {"store": False}, answers(lambda answer: answer["store"] is False)),
    responses(IDLE, "temperature", {"temperature": 0.3}),
    responses(IDLE, "top_p", {"top_p": 0.9}),
    responses(IDLE, "user", {"user": "u"}),
    responses(IDLE, "metadata", {"metadata": {"a": "b"}}),
    responses(IDLE, "service_tier", {"service_tier": "flex"}),
    responses(IDLE, "prompt_cache_key", {"prompt_cache_key": "k"}),
    responses(IDLE, "safety_identifier", {"safety_identifier": "k"}),
    responses(IDLE, "truncation", {"truncation": "auto"}),
    responses(IDLE, "max_tool_calls", {"max_tool_calls": 3}),
    responses(IDLE, "include", {"include": ["message.input_image.image_url"]}, note="`message.input_image.image_url`"),
    responses(IDLE, "stream_options", {"stream": True, "stream_options": {"include_obfuscation": False}}),
    responses(IDLE, "background", {"background": False}, note="`false`"),
    responses(IDLE, "top_logprobs", {"top_logprobs": 0}, note="0"),
    responses(IDLE, "any field that is not known", {"future": {"x": [1]}}),
    responses(REFUSED, "input", {"input": [{"type": "web_search_call", "id": "x"}]}, param="input[0].type", note="items of other types, `item_reference` to what is not kept for this key"),
    responses(REFUSED, "input", {"input": [{"type": "item_reference", "id": "x"}]}, param="input[0].id"),
    responses(REFUSED, "input_file", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, param="input[0].content[0].type"),
    responses(REFUSED, "tools", {"tools": [{"type": "web_search"}]}, param="tools[0].type", note="of other types than `function`"),
    responses(REFUSED, "background", {"background": True}),
    responses(REFUSED, "conversation", {"conversation": "c"}),
    responses(REFUSED, "prompt", {"prompt": {"id": "p"}}),
    responses(REFUSED, "context_management", {"context_management": [{"type": "compaction"}]}),
    responses(REFUSED, "moderation", {"moderation": {"model": "x"}}),
    responses(REFUSED, "include", {"include": ["message.output_text.logprobs"]}, param="include[0]", note="others"),
    responses(REFUSED, "top_logprobs", {"top_logprobs": 2}, note="above 0"),
    responses(REFUSED, "previous_response_id", {"previous_response_id": "resp_x"}, note="that is not kept for this key"),

    completions(HONOURED, "prompt", {"prompt": ["a", "b"]}, answers(lambda answer: [choice["text"] for choice in answer["choices"]] == ["a", "b"]), "text or several texts"),
    completions(HONOURED, "model", {"model": "codex-5-low"}, effort("low")),
    completions(HONOURED, "stream", {"stream": True}, lambda *_: True),
    completions(HONOURED, "stream_options.include_usage", {"stream": True, "stream_options": {"include_usage": True}}, lambda *_: True),
    completions(HONOURED, "n", {"n": 2}, answers(lambda answer: len(answer["choices"]) == 2), "1 – 8"),
    completions(HONOURED, "best_of", {"n": 2, "best_of": 2}, answers(lambda answer: len(answer["choices"]) == 2), "equal to `n`"),
    completions(HONOURED, "stop", {"stop": "i"}, answers(lambda answer: answer["choices"][0]["text"] == "h")),
    completions(HONOURED, "max_tokens", {"prompt": "hello", "max_tokens": 1}, answers(lambda answer: answer["choices"][0]["text"] == "hell")),
    completions(HONOURED, "echo", {"echo": True}, answers(lambda answer: answer["choices"][0]["text"] == "hihi")),
    completions(IDLE, "temperature", {"temperature": 0.3}),
    completions(IDLE, "top_p", {"top_p": 0.9}),
    completions(IDLE, "presence_penalty", {"presence_penalty": 1}),
    completions(IDLE, "frequency_penalty", {"frequency_penalty": 1}),
    completions(IDLE, "seed", {"seed": 7}),
    completions(IDLE, "logit_bias", {"logit_bias": {"1": 1}}),
    completions(IDLE, "user", {"user": "u"}),
    completions(IDLE, "any field that is not known", {"future": {"x": [1]}}),
    completions(REFUSED, "prompt", {"prompt": [1, 2]}, param="prompt[0]", note="of token numbers"),
    completions(REFUSED, "suffix", {"suffix": "x"}),
    completions(REFUSED, "logprobs", {"logprobs": 2}),
    completions(REFUSED, "best_of", {"best_of": 3}, note="other than `n`"),
]


def table():
    """The table of the README."""
    lines = ["| | " + " | ".join(f"`{route}`" for route in (CHAT, RESPONSES, COMPLETIONS)) + " |", "|---|---|---|---|"]
    for verdict in (HONOURED, IDLE, REFUSED):
        cells = []
        for route in (CHAT, RESPONSES, COMPLETIONS):
            notes = {}
            for field in FIELDS:
                if (field.route, field.verdict) == (route, verdict):
                    notes[field.name] = notes.get(field.name) or field.note
            names = (name if " " in name else f"`{name}`" for name in notes)
            cells.append(", ".join(name + (f" ({note})" if note else "") for name, note in zip(names, notes.values())))
        lines.append(f"| {verdict} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
