// The official Node SDK against a running blazr, whose address is in BLAZR_URL.
import assert from "node:assert/strict";
import OpenAI from "openai";

const url = process.env.BLAZR_URL;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is 27 plus 45?" }];
const question = { model: "nano", messages, temperature: 0 };
const answer = "27 plus 45 is 72.";

async function whole() {
  const completion = await client.chat.completions.create(question);
  assert.equal(completion.choices[0].message.content, answer);
}

async function streamed() {
  const stream = client.chat.completions.stream(question);
  let text = "";
  stream.on("content", (delta) => (text += delta));
  assert.equal(await stream.finalContent(), answer);
  assert.equal(text, answer);
}

// A reader that goes away frees the loop: the next question is answered at once.
async function aborted() {
  const endless = { model: "nano", prompt: "Once", max_tokens: 4000, ignore_eos: true, stream: true };
  const stream = await client.completions.create(endless);
  for await (const chunk of stream) {
    assert.equal(chunk.object, "text_completion");
    stream.controller.abort();
    break;
  }
  const began = performance.now();
  await whole();
  assert.ok(performance.now() - began < 2000);
}

async function refused() {
  await assert.rejects(client.chat.completions.create({ ...question, temperature: 9 }), OpenAI.BadRequestError);
  await assert.rejects(client.chat.completions.create({ ...question, model: "other" }), OpenAI.NotFoundError);
}

const steps = [whole, streamed, aborted, refused];
for (const step of steps) {
  await step();
  console.log(`${step.name} ... ok`);
}
console.log(`${steps.length} passed, 0 failed`);
