"""Built-in frames, for a base model that has no chat template of its own.

Each is a Jinja text like any other chat template, so that there is one way to render. They print no
BOS: `Template.bound` puts it in front where the tokenizer itself would, so there is one at most.
"""

from __future__ import annotations

UNKNOWN_ROLE = (
    "{{ raise_exception('this frame knows system, user and assistant messages, not '"
    " ~ message.role) }}"
)

PLAIN = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{{ 'System: ' + message.content + '\\n' }}"
    "{%- elif message.role == 'user' -%}{{ 'User: ' + message.content + '\\n' }}"
    "{%- elif message.role == 'assistant' -%}"
    "{{ 'Assistant: ' + message.content + '\\n' + (eos_token or '') }}"
    "{%- else -%}" + UNKNOWN_ROLE + "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant: ' }}{%- endif -%}"
)

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)

# The system text stands inside the first user turn, in the frame that Llama 2 was trained with.
LLAMA2 = (
    "{%- set kept = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}"
    "{%- set kept.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' -%}"
    "{%- elif message.role == 'user' -%}"
    "{{ '[INST] ' + kept.system + message.content + ' [/INST]' }}{%- set kept.system = '' -%}"
    "{%- elif message.role == 'assistant' -%}"
    "{{ ' ' + message.content + ' ' + (eos_token or '') }}"
    "{%- else -%}" + UNKNOWN_ROLE + "{%- endif -%}"
    "{%- endfor -%}"
)

LLAMA3 = (
    "{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n'"
    " + message.content + '<|eot_id|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif -%}"
)

FRAMES = {"plain": PLAIN, "chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3}
