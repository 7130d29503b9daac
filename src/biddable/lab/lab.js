"use strict";
const $ = (id) => document.getElementById(id);
const EXAMPLE = [
  ["system", "You answer in one short line."],
  ["user", "What is two plus two?"],
  ["assistant", "Four."],
];
// Where the exercise begins: a frame that does not yet end a turn.
const FRAME = { system: "System: {system}\n", user: "User: {prompt}\n", assistant: "{completion}" };
const TYPED_FRAME = "typed frame";
const TYPED_JINJA = "typed Jinja";
let about = null;
let shown = null;
let tools = [];
let requests = 0;

// All text goes in as textContent: nothing that is typed or rendered can become markup.
function make(tag, text = "", ...kinds) {
  const element = document.createElement(tag);
  element.textContent = text;
  element.classList.add(...kinds.filter(Boolean));
  return element;
}

// The rest of a message, such as its tool calls, is not edited here but sent as it is.
function addMessage(role, content, rest = {}) {
  const box = make("div", "", "message");
  const select = make("select");
  select.setAttribute("aria-label", "Role");
  for (const name of about.roles) select.append(new Option(name, name, false, name === role));
  const remove = make("button", "Remove");
  remove.type = "button";
  const area = make("textarea");
  area.value = content;
  area.maxLength = about.most_characters;
  area.setAttribute("aria-label", "Text");
  area.spellcheck = false;
  remove.addEventListener("click", () => { box.remove(); $("add").focus(); refresh(); });
  box.append(select, " ", remove, area);
  if (Object.keys(rest).length) box.append(make("div", JSON.stringify(rest), "rest"));
  box.rest = rest;
  box.addEventListener("input", later);
  $("messages").append(box);
  return area;
}

function messages() {
  return [...document.querySelectorAll(".message")].map((box) => ({
    ...box.rest,
    role: box.querySelector("select").value,
    content: box.querySelector("textarea").value,
  }));
}

async function openRow() {
  const reply = await fetch(`/api/row?number=${encodeURIComponent($("row").value)}`);
  const row = await reply.json();
  $("problem").textContent = reply.ok ? "" : row.error;
  if (!reply.ok) return;
  $("messages").replaceChildren();
  for (const { role, content, ...rest } of row.messages) addMessage(role, content, rest);
  tools = row.tools;
  $("row-place").textContent = row.place + (tools.length ? `, ${tools.length} tools` : "");
  await refresh();
}

function typed() {
  if ($("template").value === TYPED_JINJA) return $("jinja").value;
  const roles = Object.keys(FRAME);
  return Object.fromEntries(roles.map((role) => [role, $(`frame-${role}`).value]));
}

function choose(template) {
  $("template").value = template;
  $("frame").hidden = template !== TYPED_FRAME;
  $("jinja-box").hidden = template !== TYPED_JINJA;
  refresh();
}

let timer = 0;
function later() {
  clearTimeout(timer);
  timer = setTimeout(refresh, 200);
}

async function refresh() {
  const number = ++requests;
  const body = {
    messages: messages(), tools, template: $("template").value, typed: typed(),
    loss_on: $("loss_on").value,
  };
  let status = 0;
  let answer = null;
  try {
    const reply = await fetch("/api/show", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    status = reply.status;
    answer = await reply.json();
  } catch {
    answer = { error: "The lab does not answer.", fix: "Is `biddable lab` still running?" };
  }
  // A later question has overtaken this one.
  if (number !== requests) return;
  $("problem").textContent = status === 200 ? "" : `${answer.error} ${answer.fix ?? ""}`;
  if (status !== 200) return;
  shown = answer;
  $("problem").textContent = shown.problem;
  $("stored").textContent = shown.jinja;
  $("checks").replaceChildren(
    ...shown.checks.map((check) => make("li", check.text, check.ok ? "yes" : "no")),
  );
  $("render").replaceChildren(...shown.render.map((part) => make("span", part.text, part.role)));
  drawTokens();
  drawLoss();
}

function drawTokens() {
  const exercise = $("exercise").checked;
  $("check").hidden = !exercise;
  $("result").textContent = "";
  $("tokens").replaceChildren(...shown.examples.map((example) => {
    const row = make("div", "", "example");
    row.append(...example.tokens.map((token) => tokenButton(token, exercise)));
    return row;
  }));
  const first = document.querySelector("button.token");
  if (first) first.tabIndex = 0;
}

function tokenButton(token, exercise) {
  const counts = token.weight > 0;
  const kinds = [token.special && "special"];
  if (!exercise) kinds.push(counts && "trained", token.stop && "stop");
  const button = make("button", token.text, "token", ...kinds);
  button.type = "button";
  button.title = `id ${token.ids.join(" ")}` + (exercise ? "" : `, weight ${token.weight}`);
  button.dataset.counts = counts;
  button.disabled = !exercise;
  // One stop for Tab; the arrow keys go from token to token.
  button.tabIndex = -1;
  button.setAttribute("aria-pressed", !exercise && counts);
  button.addEventListener("click", () => {
    const on = button.classList.toggle("trained");
    button.classList.remove("wrong", "missed");
    button.setAttribute("aria-pressed", on);
  });
  return button;
}

$("tokens").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const all = [...document.querySelectorAll("button.token")];
  const next = all[all.indexOf(document.activeElement) + (step ?? 0)];
  if (!step || !next) return;
  event.preventDefault();
  document.activeElement.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

function check() {
  let right = 0;
  let wrong = 0;
  let missed = 0;
  for (const button of document.querySelectorAll("button.token")) {
    const marked = button.getAttribute("aria-pressed") === "true";
    const counts = button.dataset.counts === "true";
    right += marked && counts;
    wrong += marked && !counts;
    missed += !marked && counts;
    button.classList.toggle("wrong", marked && !counts);
    button.classList.toggle("missed", !marked && counts);
  }
  $("result").textContent = wrong + missed === 0
    ? `All right: these ${right} tokens count, the rest is context.`
    : `${right} right, ${wrong} marked that do not count, ${missed} missed.`;
}

function drawLoss() {
  const parts = shown.examples.map(({ loss }) => {
    if (!loss) {
      return make("p", about.weights
        ? "The example is too long to work out here."
        : "No weights are loaded: start with `biddable lab BASE --weights`.");
    }
    const table = make("table");
    const head = table.createTHead().insertRow();
    for (const name of ["predicted token", "weight w", "loss CE", "w × CE"]) {
      head.append(make("th", name));
    }
    const body = table.createTBody();
    for (const row of loss.rows) {
      const line = body.insertRow();
      const numbers = [row.weight, row.loss, row.weight * row.loss].map((n) => n.toFixed(4));
      for (const text of [row.text, ...numbers]) line.append(make("td", text));
    }
    const sums = `${loss.sum.toFixed(4)} / ${loss.weights.toFixed(4)}`;
    const box = make("div");
    box.append(
      make("p", `sum(w × CE) / sum(w) = ${sums} = ${loss.mean.toFixed(4)}`, "formula"), table,
    );
    return box;
  });
  $("loss").replaceChildren(...parts);
}

async function start() {
  about = await (await fetch("/api/about")).json();
  $("base").textContent = `${about.base}, ${about.weights ? "weights loaded" : "tokenizer only"}`;
  for (const name of about.templates) {
    $("template").append(new Option(name === "own" ? "the base's own" : name, name));
  }
  for (const [role, text] of Object.entries(FRAME)) $(`frame-${role}`).value = text;
  for (const id of ["frame", "jinja"]) $(id).addEventListener("input", later);
  if (about.rows) {
    $("row-box").hidden = false;
    $("row").max = about.rows;
    $("row").addEventListener("change", openRow);
  }
  for (const name of about.loss_on) $("loss_on").append(new Option(name, name));
  for (const [role, content] of EXAMPLE) addMessage(role, content);
  $("template").addEventListener("change", () => choose($("template").value));
  $("write").addEventListener("click", () => { choose(TYPED_FRAME); $("frame-user").focus(); });
  $("copy").addEventListener("click", () => {
    if (shown) $("jinja").value = shown.jinja;
    choose(TYPED_JINJA);
    $("jinja").focus();
  });
  $("loss_on").addEventListener("change", refresh);
  $("exercise").addEventListener("change", drawTokens);
  $("check").addEventListener("click", check);
  $("add").addEventListener("click", () => {
    const last = messages().at(-1);
    addMessage(last && last.role === "user" ? "assistant" : "user", "").focus();
  });
  if (!about.rows) return refresh();
  $("row").value = 1;
  await openRow();
}
start();
