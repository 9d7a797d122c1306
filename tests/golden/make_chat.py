#!/usr/bin/env python3
"""Writes tests/golden/chat.json: what Hugging Face transformers' apply_chat_template makes of conversations.

Run from the repository root with transformers and jinja2 installed. The templates are short ones of each family, with the
lines that decide what is written: default system messages, dates, trimming, spaces around markers. The tokenizer is the demo
model's with the families' markers added.
"""
import json
import pathlib

import tokenizers
import transformers

DEMO = pathlib.Path("examples/models/austen-2.7m/tokenizer.json")
OUT = pathlib.Path("tests/golden/chat.json")
MARKERS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]",
           "<s>", "</s>"]

GENERATE = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
LLAMA3 = ("{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
          " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
          "{% endif %}{{ content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}")
LLAMA31 = r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
CHATML_TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
CHATML = "{% for message in messages %}" + CHATML_TURN + "{% endfor %}" + GENERATE
CHATML_DEFAULT = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
                  "{{ '<|im_start|>system\nYou know the novels of Jane Austen.<|im_end|>\n' }}{% endif %}" + CHATML_TURN +
                  "{% endfor %}" + GENERATE)
QWEN25 = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a reader. You are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant") %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
""" + GENERATE
QWEN3 = r"""{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
""" + GENERATE
TRIMMED = CHATML.replace("message['content']", "message['content'] | trim")
THINKING = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'")
MISTRAL_LAST = r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL_FIRST = r"""{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL_PLAIN = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
                 "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}"
                 "{% endfor %}")
# name: (template, bos)
TEMPLATES = {
    "llama3": (LLAMA3, "<|begin_of_text|>"), "llama31": (LLAMA31, "<|begin_of_text|>"), "chatml": (CHATML, None),
    "chatml default": (CHATML_DEFAULT, None), "qwen2.5": (QWEN25, None), "qwen3": (QWEN3, None),
    "chatml trimmed": (TRIMMED, None), "thinking": (THINKING, None),
    "mistral last": (MISTRAL_LAST, "<s>"), "mistral first": (MISTRAL_FIRST, "<s>"), "mistral plain": (MISTRAL_PLAIN, "<s>"),
}


def turns(*contents, system=None):
    out = [] if system is None else [{"role": "system", "content": system}]
    for i, content in enumerate(contents):
        out.append({"role": "assistant" if i % 2 else "user", "content": content})
    return out


CONVERSATIONS = [
    turns("Who wrote Emma?"),
    turns("Who wrote Emma?", system="Answer in one sentence."),
    turns("Who?", "<think>\nAusten, or Bront\u00eb?\n</think>\n\nJane Austen.", "When?", system="Be brief."),
    turns("  \n\u00a0two lines\nand spaces \t\n", "\n\n yes \n", "\n\nand more\n", system=" \n kind \n"),
    turns("caf\u00e9 \u2014 \U0001f642\n'don't' 12345", "", "ok"),
]


def main():
    words = tokenizers.Tokenizer.from_file(str(DEMO))
    words.add_special_tokens(MARKERS)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    families = []
    for name, (template, bos) in TEMPLATES.items():
        tokenizer.bos_token = bos or "<|begin_of_text|>"
        cases = []
        for messages in CONVERSATIONS:
            if name == "mistral plain" and messages[0]["role"] == "system":
                continue
            options = {"chat_template": template, "add_generation_prompt": True, "date_string": "26 Jul 2024"}
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
            ids = tokenizer(text, add_special_tokens=False).input_ids
            cases.append({"messages": messages, "text": text, "ids": ids})
        families.append({"name": name, "template": template, "cases": cases})
    added = [{"id": words.token_to_id(m), "content": m, "special": True} for m in MARKERS]
    header = f"transformers {transformers.__version__} by make_chat.py"
    with open(OUT, "w", encoding="utf-8") as file:
        json.dump({"header": header, "added_tokens": added, "families": families}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
