"""What a template's training text must be, found by brute force: the tests' own second opinion.

It shares no code with the package. Texts are rendered by transformers, contents are found by
searching for their words (which occur nowhere else), the end of turn is looked up in a table that
was written by hand, and the place where an answer begins is found by trying every place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from biddable import Conversation
from real_templates import SPECIAL, TAGS, byte_level_source

# Template names (regular expressions), end of turn of a text, and of a tool call where it differs.
ENDS = [
    (r"aya|cohere|command", "<|END_OF_TURN_TOKEN|>", ""),
    (r"deepseek_?(v3|r1)", "<\uff5cend▁of▁sentence\uff5c>", ""),
    (r"exaone", "[|endofturn|]", ""),
    (r"gemma4_v2", "<turn|>", ""),
    (r"gemma4|diffusion_gemma", "<turn|>", "<|tool_response>"),
    (r"gemma", "<end_of_turn>", ""),
    (r"jamba", "<|eom|>", ""),
    (r"llama4|muse_glimmer", "<|eot|>", ""),
    (r"llama3", "<|eot_id|>", ""),
    (r"phi_?3", "<|end|>", ""),
    (r"idefics3|smolvlm", "<end_of_utterance>", ""),
    (r"gptoss", "<|return|>", "<|call|>"),
    (r"glm4moe", "<|user|>", "<|observation|>"),
    (r"alpaca|deepseek_v2|metharme|mistral|pixtral|llava_next", "</s>", ""),
    (r"/llava\Z", "", ""),
    (r"", "<|im_end|>", ""),
]

# Templates that print a content only where it is a list of typed parts.
READS_PARTS = r"idefics3|llava_next|smolvlm"

Dicts = list[dict[str, Any]]


@dataclass(frozen=True)
class Expected:
    """A turn: index of the answer, prompt as served, and the text to learn."""

    turn: int
    prompt: str
    answer: str


def hf_render(
    tokenizer: PreTrainedTokenizerFast, messages: Dicts, tools: Any, *, prompt: bool
) -> str | None:
    """What transformers renders; None where the template raises."""
    if re.search(READS_PARTS, str(tokenizer.init_kwargs.get("name_or_path"))):
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tools=list(tools) or None, add_generation_prompt=prompt, tokenize=False
            )
        )
    except Exception:
        return None


def end_of(name: str, message: dict[str, Any]) -> str:
    text, call = next(
        (text, call) for pattern, text, call in ENDS if re.search(pattern, name, re.IGNORECASE)
    )
    return call or text if message.get("tool_calls") else text


def parts(message: dict[str, Any], *, answer: bool) -> list[str]:
    """The texts of a message that must come back; thinking of an old answer may go."""
    content = message["content"]
    thinking = re.match(r"\s*<think>(.*?)</think>(.*)\Z", content, re.DOTALL)
    required = (
        [thinking[1], thinking[2]] if thinking and message["role"] == "assistant" else [content]
    )
    if thinking and message["role"] == "assistant" and not answer:
        required = [thinking[2]]
    if answer and message.get("reasoning_content"):
        required.insert(0, message["reasoning_content"])
    for call in message.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        texts = [arguments] if isinstance(arguments, str) else list(arguments.values())
        required += [call["function"]["name"], *texts]
    return [text.strip() for text in required if text.strip()]


def as_text(messages: Dicts) -> Dicts:
    """Tool call arguments as JSON text."""
    rewritten = json.loads(json.dumps(messages))
    for message in rewritten:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return list(rewritten)


def expected(
    name: str, conversation: Conversation, tokenizer: PreTrainedTokenizerFast
) -> list[Expected] | None:
    """The turns of a conversation; None where the template cannot express it."""
    given = [message.as_dict() for message in conversation.messages]
    turns = []
    for k, message in enumerate(given):
        if message["role"] != "assistant":
            continue
        turn = None
        for messages in (given, as_text(given)):
            turn = turn or expected_turn(name, messages, k, conversation.tools, tokenizer)
        if turn is None:
            return None
        turns.append(turn)
    return turns


def expected_turn(
    name: str, messages: Dicts, k: int, tools: Any, tokenizer: PreTrainedTokenizerFast
) -> Expected | None:
    prompt = hf_render(tokenizer, messages[:k], tools, prompt=True)
    if prompt is None:
        return None
    for message in messages[:k]:
        # Tool names and arguments may also stand in the tools' own description.
        need = [message["content"]] if message.get("tool_calls") else parts(message, answer=False)
        if any(prompt.count(text) != 1 for text in need if text.strip()):
            return None
        if any(text not in prompt for text in parts(message, answer=False)):
            return None
    answer = messages[k]
    forms = [answer]
    if thinking := re.match(
        r"\s*<think>\n?(.*?)\n?</think>\s*(.*)\Z", answer["content"], re.DOTALL
    ):
        forms.append({**answer, "reasoning_content": thinking[1], "content": thinking[2]})
    for form in forms:
        text = expected_answer(
            name, prompt, [*messages[:k], form], messages[k + 1 :], tools, tokenizer
        )
        if text is not None:
            return Expected(k, prompt, text)
    return None


def expected_answer(
    name: str,
    prompt: str,
    messages: Dicts,
    after: Dicts,
    tools: Any,
    tokenizer: PreTrainedTokenizerFast,
) -> str | None:
    answer, before = messages[-1], messages[-2]["content"].strip()
    end = end_of(name, answer)
    need = parts(answer, answer=True)
    whole = hf_render(tokenizer, messages, tools, prompt=False) or ""
    if "glm4moe" in name:
        whole = with_next(whole, need[-1], messages, after, tools, tokenizer)
    last = whole.rfind(need[-1]) + len(need[-1])
    stop = whole.find(end, last) + len(end)
    if need[-1] not in whole or not end or end not in whole[last:]:
        return None
    start = best_start(prompt, whole, before, need)
    if start is not None and all(text in whole[start:stop] for text in need):
        return whole[start:stop]
    # The prompt opens a thinking block that the template drops from a finished conversation.
    opened, content = "<think>\n", str(answer["content"])
    past = prompt.removesuffix(opened)
    if past != prompt and content.startswith(opened) and best_start(past, whole, before, []):
        return content[len(opened) :].rstrip() + whole[last:stop]
    return None


def with_next(
    whole: str,
    word: str,
    messages: Dicts,
    after: Dicts,
    tools: Any,
    tokenizer: PreTrainedTokenizerFast,
) -> str:
    """The render through the answer's last word, then what the message after it begins with."""
    probe = {"role": "tool" if messages[-1].get("tool_calls") else "user", "content": "Zzz"}
    longer = hf_render(tokenizer, [*messages, *(after[:1] or [probe])], tools, prompt=False) or ""
    if word not in whole or word not in longer:
        return ""
    return whole[: whole.rindex(word)] + longer[longer.rindex(word) :]


def best_start(prompt: str, whole: str, before: str, need: Sequence[str]) -> int | None:
    """Where in the whole the answer begins: every place is tried for the longest common past.

    The past in common must reach back over the message before. White space at the end of the
    prompt and an empty thinking block need not be in the finished conversation.
    """
    if whole.startswith(prompt):
        return len(prompt)
    closed = re.sub(r"(<think>\s*</think>|<\|channel>thought\n<channel\|>)\s*\Z", "", prompt)
    for past in (closed, prompt.rstrip()):
        scores = [(common_suffix(past, whole[:place]), place) for place in range(len(whole) + 1)]
        score, place = max(scores)
        if before and before not in past[len(past) - score :]:
            continue
        rest = whole[place:]
        if past is closed and re.match(r"\s*(<think>|<\|channel>)", rest):
            continue
        if past is not closed or closed == prompt:
            # Only white space may have been left out.
            if prompt[len(past) :].strip() or (need and not rest.lstrip().startswith(need[0])):
                continue
            place += len(rest) - len(rest.lstrip()) if prompt != past else 0
        return place
    return None


def common_suffix(one: str, other: str) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def expected_ids(
    tokenizer: PreTrainedTokenizerFast, text: str, contents: Sequence[str]
) -> list[int]:
    """Ids of a text in which control tokens count only outside of the contents."""
    inside = [False] * len(text)
    for content in contents:
        for match in re.finditer(re.escape(content), text):
            inside[match.start() : match.end()] = [True] * len(content)
    plain = Tokenizer.from_str(byte_level_source())
    plain.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    control = sorted(tokenizer.all_special_tokens + SPECIAL.findall(text), key=len, reverse=True)
    control = [t for t in control if tokenizer.convert_tokens_to_ids(t) is not None]
    ids: list[int] = []
    at = start = 0

    def flush(end: int) -> None:
        for token in plain.encode(text[start:end], add_special_tokens=False).tokens:
            ids.append(tokenizer.convert_tokens_to_ids(token))

    while at < len(text):
        token = next((t for t in control if text.startswith(t, at)), None)
        if token and not any(inside[at : at + len(token)]):
            flush(at)
            ids.append(tokenizer.convert_tokens_to_ids(token))
            at = start = at + len(token)
        else:
            at += 1
    flush(at)
    return ids
