// The Vercel AI SDK as its documentation shows it. One JSON line for each question:
//   node bench/agents.mjs URL MODEL QUESTION CLIENT
// prints {"value": …} or {"error": name, "message": …}. NODE_MODULES names the folder that has the packages.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.NODE_MODULES ?? process.cwd()}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { generateObject, generateText, streamText, tool, stepCountIs, Output } = await load("ai");
const { createOpenAI } = await load("@ai-sdk/openai");
const { z } = await load("zod");

const [url, model, prompt, client] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "key" });
const schema = z.object({ name: z.string(), country: z.string() });
const tools = {
  look_up: tool({
    description: "Look up a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `${city} has nine million people.`,
  }),
};
const more = { prompt, tools, stopWhen: stepCountIs(4) };

async function streamed(of) {
  let failed;
  const result = streamText({ model: of, ...more, onError: ({ error }) => (failed = error) });
  let text = "";
  for await (const piece of result.textStream) text += piece;
  if (failed) throw failed;
  return `${text} [${await result.finishReason}]`;
}

const CLIENTS = {
  "chat, text and a tool": async () => {
    const { text, finishReason } = await generateText({ model: openai.chat(model), ...more });
    return `${text} [${finishReason}]`;
  },
  "Responses, text and a tool": async () => {
    const { text, finishReason } = await generateText({ model: openai(model), ...more });
    return `${text} [${finishReason}]`;
  },
  "chat, `generateObject`": async () => (await generateObject({ model: openai.chat(model), schema, prompt })).object,
  "Responses, `generateObject`": async () => (await generateObject({ model: openai(model), schema, prompt })).object,
  "Responses, `Output.object`": async () =>
    (await generateText({ model: openai(model), output: Output.object({ schema }), prompt })).output,
  "chat, `streamText`": () => streamed(openai.chat(model)),
  "Responses, `streamText`": () => streamed(openai(model)),
};

try {
  console.log(JSON.stringify({ value: await CLIENTS[client]() }));
} catch (error) {
  console.log(JSON.stringify({ error: error.name, message: String(error.message) }));
}
