// The clients of Node before a gateway: `node --input-type=module - GROUP URL < clients.mjs`, in the
// folder that has them. Prints what every scenario of the group gives, or its error, as JSON.

const [group, url] = process.argv.slice(2);
const PROMPT = "What is two and two?";
const SCHEMA = {
  type: "object",
  properties: { sum: { type: "number" } },
  required: ["sum"],
  additionalProperties: false,
};
const NUMBERS = {
  type: "object",
  properties: { a: { type: "number" }, b: { type: "number" } },
  required: ["a", "b"],
  additionalProperties: false,
};

async function openai() {
  const { default: OpenAI } = await import("openai");
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "k1", maxRetries: 0 });
  const messages = [{ role: "user", content: PROMPT }];
  const add = { type: "function", name: "add", parameters: NUMBERS, strict: true };
  const nested = { type: "function", function: { name: "add", parameters: NUMBERS } };
  return {
    async chat() {
      const reply = await client.chat.completions.create({ model: "auto", messages });
      return [reply.choices[0].message.content, reply.model, reply.usage.completion_tokens];
    },
    async chat_stream() {
      const stream = client.chat.completions.stream({
        model: "auto",
        messages,
        stream_options: { include_usage: true },
      });
      let text = "";
      for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
      const final = await stream.finalChatCompletion();
      return [text, final.choices[0].message.content, final.usage.completion_tokens];
    },
    async chat_tools() {
      const reply = await client.chat.completions.create({
        model: "auto",
        messages,
        tools: [nested],
      });
      const { message, finish_reason } = reply.choices[0];
      const [call] = message.tool_calls;
      const result = { role: "tool", tool_call_id: call.id, content: "4" };
      const last = await client.chat.completions.create({
        model: "auto",
        messages: [...messages, message, result],
        tools: [nested],
      });
      return [finish_reason, JSON.parse(call.function.arguments), last.choices[0].message.content];
    },
    async chat_tools_stream() {
      const runner = client.chat.completions.runTools({
        model: "auto",
        messages,
        stream: true,
        tools: [
          {
            type: "function",
            function: {
              name: "add",
              parameters: NUMBERS,
              parse: JSON.parse,
              function: ({ a, b }) => String(a + b),
            },
          },
        ],
      });
      return runner.finalContent();
    },
    async responses() {
      const reply = await client.responses.create({ model: "auto", input: PROMPT });
      return [reply.output_text, reply.model, reply.usage.output_tokens];
    },
    async responses_stream() {
      const stream = client.responses.stream({ model: "auto", input: PROMPT });
      let text = "";
      for await (const event of stream)
        if (event.type === "response.output_text.delta") text += event.delta;
      return [text, (await stream.finalResponse()).output_text];
    },
    async responses_tools() {
      const first = await client.responses.create({ model: "auto", input: PROMPT, tools: [add] });
      const [call] = first.output.filter((item) => item.type === "function_call");
      const last = await client.responses.create({
        model: "auto",
        previous_response_id: first.id,
        input: [{ type: "function_call_output", call_id: call.call_id, output: "4" }],
        tools: [add],
      });
      return [JSON.parse(call.arguments), last.output_text];
    },
    async embeddings() {
      const reply = await client.embeddings.create({ model: "auto", input: ["two", "three"] });
      return reply.data.map((row) => [...row.embedding]);
    },
    async models() {
      const names = [];
      for await (const model of client.models.list()) names.push(model.id);
      return names;
    },
    async error() {
      const reply = await client.chat.completions
        .create({ model: "nobody", messages })
        .catch((error) => error);
      return [reply.constructor.name, reply.status, reply.code];
    },
  };
}

async function vercel() {
  const { generateText, streamText, embedMany, Output, isStepCount, jsonSchema, tool } =
    await import("ai");
  const { createOpenAI } = await import("@ai-sdk/openai");
  const { createAnthropic } = await import("@ai-sdk/anthropic");
  const gateway = createOpenAI({ baseURL: `${url}/v1`, apiKey: "k1" });
  const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey: "k1" });
  const options = { prompt: PROMPT, maxRetries: 0 };
  const tools = {
    add: tool({
      description: "Adds two numbers.",
      inputSchema: jsonSchema(NUMBERS),
      execute: async ({ a, b }) => a + b,
    }),
  };
  const loop = { ...options, tools, stopWhen: isStepCount(4) };
  const output = Output.object({ schema: jsonSchema(SCHEMA) });
  const of = (name, model, more = {}) => ({
    async [name]() {
      const reply = await generateText({ model, ...options, ...more });
      return [reply.text, reply.finishReason, reply.usage.outputTokens, reply.response.modelId];
    },
    async [`${name}_stream`]() {
      const reply = streamText({
        model,
        ...options,
        ...more,
        onError: ({ error }) => {
          throw error;
        },
      });
      let text = "";
      for await (const piece of reply.textStream) text += piece;
      return [text, await reply.finishReason, (await reply.usage).outputTokens];
    },
    async [`${name}_tools`]() {
      const reply = await generateText({ model, ...loop, ...more });
      return [reply.text, reply.steps.length, reply.steps[0].toolResults[0].output];
    },
    async [`${name}_tools_stream`]() {
      const reply = streamText({ model, ...loop, ...more });
      return [await reply.text, (await reply.steps).length];
    },
    async [`${name}_object`]() {
      return (await generateText({ model, ...options, ...more, output })).output;
    },
  });
  const limits = { providerOptions: { openai: { metadata: { max_cost: "0.0000000001" } } } };
  return {
    ...of("responses", gateway("auto")),
    ...of("unstored", gateway("auto"), { providerOptions: { openai: { store: false } } }),
    ...of("chat", gateway.chat("auto")),
    ...of("messages", anthropic("auto")),
    async embeddings() {
      const model = gateway.embedding("auto");
      return (await embedMany({ model, values: ["two", "three"] })).embeddings;
    },
    async limits() {
      const reply = await generateText({ model: gateway("auto"), ...options, ...limits }).catch(
        (error) => error,
      );
      return [reply.name, reply.statusCode];
    },
  };
}

const scenarios = await { openai, vercel }[group]();
const results = {};
for (const [name, scenario] of Object.entries(scenarios)) {
  results[name] = await scenario().catch((error) => ({ error: String(error.stack ?? error) }));
}
console.log(JSON.stringify(results));
