"use strict";
const $ = (id) => document.getElementById(id);
const SIDES = [0, 1];
// What each side has been asked and has answered.
let talks = [[], []];
let running = null;
let models = [];

// All text goes in as textContent: nothing that a model writes can become markup.
function add(side, text, ...kinds) {
  const element = document.createElement("p");
  element.textContent = text;
  element.classList.add(...kinds);
  const log = $(`log-${side}`);
  log.append(element);
  log.scrollTop = log.scrollHeight;
  return element;
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function problem(reply) {
  if (reply.status === 401) {
    $("key-field").hidden = false;
    document.querySelector("details").open = true;
    $("key").focus();
  }
  const body = await reply.json().catch(() => null);
  return body?.error?.message ?? `the server answered ${reply.status}`;
}

function bodyFor(side) {
  const system = $("system").value;
  const start = system ? [{ role: "system", content: system }] : [];
  return {
    model: $(`model-${side}`).value, messages: [...start, ...talks[side]], stream: true,
    stream_options: { include_usage: true }, temperature: Number($("temperature").value),
    max_tokens: Number($("limit").value), biddable_system: false,
  };
}

// The JSON of each event of a stream; an event ends with an empty line.
async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function answer(side, signal) {
  const log = $(`log-${side}`);
  const talk = talks[side];
  const box = add(side, "", "turn", "busy");
  let text = "";
  let finish = "";
  let tokens = 0;
  let first = 0;
  // What is drawn goes in once a frame, however fast the events come.
  let waiting = false;
  const draw = () => {
    waiting = false;
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    box.textContent = text;
    if (follows) log.scrollTop = log.scrollHeight;
  };
  log.setAttribute("aria-busy", "true");
  try {
    const reply = await fetch("/v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(bodyFor(side)), signal,
    });
    if (!reply.ok) throw new Error(await problem(reply));
    for await (const event of events(reply)) {
      if (event.error) throw new Error(event.error.message);
      first ||= performance.now();
      text += event.choices[0]?.delta.content ?? "";
      finish = event.choices[0]?.finish_reason ?? finish;
      tokens = event.usage?.completion_tokens ?? tokens;
      if (!waiting) { waiting = true; requestAnimationFrame(draw); }
    }
  } catch (error) {
    if (error.name === "AbortError") {
      finish = "stopped by you";
    } else {
      const lost = error instanceof TypeError;
      if (talk === talks[side]) add(side, lost ? "The server does not answer. Is it still running?" : error.message, "bad");
    }
  }
  // A new conversation was begun meanwhile.
  if (talk !== talks[side]) return;
  draw();
  box.classList.remove("busy");
  log.setAttribute("aria-busy", "false");
  if (finish) {
    const rate = tokens / ((performance.now() - first) / 1000);
    const count = tokens ? `${tokens} tokens, ${rate.toFixed(0)} a second` : "";
    const why = { stop: "", length: "cut at the longest answer" }[finish] ?? finish;
    add(side, [why, count].filter(Boolean).join("; "), "note");
    talk.push({ role: "assistant", content: text });
  } else {
    box.remove();
    // A question without an answer is no part of what is sent next.
    talk.pop();
  }
}

async function send() {
  const text = $("prompt").value;
  if (!text.trim() || running) return;
  running = new AbortController();
  $("prompt").value = "";
  $("send").disabled = true;
  $("stop").disabled = false;
  $("status").textContent = "answering";
  for (const side of SIDES) {
    talks[side].push({ role: "user", content: text });
    add(side, text, "turn", "user");
  }
  await Promise.all(SIDES.map((side) => answer(side, running.signal)));
  running = null;
  $("send").disabled = false;
  $("stop").disabled = true;
  $("status").textContent = "both have answered";
  $("prompt").focus();
}

function forget() {
  running?.abort();
  talks = [[], []];
  for (const side of SIDES) $(`log-${side}`).replaceChildren();
  $("status").textContent = "";
  $("prompt").focus();
}

function chooseSystem() {
  const chosen = SIDES.map((side) => models.find((m) => m.id === $(`model-${side}`).value));
  $("system").value = chosen.map((m) => m?.system_prompt).filter((s) => s).at(-1) ?? "";
}

async function start() {
  let reply;
  try {
    reply = await fetch("/v1/models", { headers: headers() });
  } catch {
    $("problem").textContent = "The server does not answer. Is it still running?";
    return;
  }
  $("problem").textContent = reply.ok ? "" : await problem(reply);
  if (!reply.ok) return;
  models = (await reply.json()).data;
  for (const side of SIDES) {
    $(`model-${side}`).replaceChildren(...models.map((m) => new Option(m.id, m.id)));
  }
  // The runs come first, then their bases: base on the left, tuned on the right.
  $("model-0").value = models.at(-1).id;
  $("model-1").value = models[0].id;
  chooseSystem();
  $("prompt").focus();
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", forget);
$("key").addEventListener("change", start);
for (const side of SIDES) {
  $(`model-${side}`).addEventListener("change", () => { forget(); chooseSystem(); });
}
start();
