// A second reader of GGUF files: node_reader.mjs MODULES FILE reads a list of {messages, ids, limit}
// from standard input and prints of each {ids, answer}: the ids that node-llama-cpp gives the
// messages by the file's own chat template, and its greedy answer to the ids that came with them.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, file] = process.argv.slice(2);
const entry = createRequire(`${modules}/`).resolve("node-llama-cpp");
const { getLlama, resolveChatWrapper } = await import(pathToFileURL(entry));

const llama = await getLlama({ gpu: false, build: "never", skipDownload: true });
const model = await llama.loadModel({ modelPath: file });
const wrapper = resolveChatWrapper(model, { type: "jinjaTemplate" });
const context = await model.createContext({
    contextSize: 512,
    flashAttention: false,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
});
const sequence = context.getSequence();
const itemOf = ({ role, content }) =>
    role === "assistant" ? { type: "model", response: [content] } : { type: role, text: content };

const results = [];
for (const { messages, ids, limit } of JSON.parse(readFileSync(0, "utf8"))) {
    const chatHistory = [...messages.map(itemOf), { type: "model", response: [] }];
    const { contextText } = wrapper.generateContextState({ chatHistory });
    await sequence.clearHistory();
    const answer = [];
    for await (const token of sequence.evaluate(ids, { temperature: 0 })) {
        answer.push(token);
        if (answer.length === limit) break;
    }
    results.push({ ids: contextText.tokenize(model.tokenizer), answer });
}
console.log(JSON.stringify(results));
process.exit(0);
