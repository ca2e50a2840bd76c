// The official Node SDK against a running blazr, whose address is in SERVER_URL; BLAZR is the program.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import OpenAI from "openai";

const messages = [{ role: "user", content: "What is 27 plus 45?" }];
const question = { model: "nano", messages, temperature: 0 };
const answer = "27 plus 45 is 72.";
const long = { model: "nano", prompt: "Once", max_tokens: 4000, ignore_eos: true };
const client = clientOf(process.env.SERVER_URL);

function clientOf(url, options) {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, ...options });
}

// Calls `use` with the address of another blazr that has loaded its model, and that must end cleanly.
async function serve(flags, use) {
  const server = spawn(process.env.BLAZR, ["serve", "--port", "0", ...flags], { stdio: ["ignore", "ignore", "pipe"] });
  const exit = once(server, "exit");
  const log = createInterface({ input: server.stderr });
  let url;
  try {
    for await (const line of log) {
      url ??= line.match(/listening on (http:\S+),/)?.[1];
      if (line.includes("serving nano")) break;
    }
    await use(url);
  } finally {
    server.kill("SIGTERM");
  }
  assert.deepEqual(await exit, [0, null]);
}

// Sends a long request, which ends when the signal says so, and waits until the gauge counts it.
async function occupy(url, gauge, signal) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ ...long, n: 4, stream: true });
  fetch(`${url}/v1/completions`, { method: "POST", headers, body, signal }).catch(() => {});
  for (;;) {
    const metrics = await (await fetch(`${url}/metrics`, { signal: AbortSignal.timeout(10_000) })).text();
    if (metrics.includes(`\n${gauge} 1\n`)) return;
    await setTimeout(20);
  }
}

async function whole(asked = client) {
  const completion = await asked.chat.completions.create(question);
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
  const stream = await client.completions.create({ ...long, stream: true });
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

async function keyAskedFor() {
  await serve(["--api-key", "sk-acceptance"], async (url) => {
    await assert.rejects(whole(clientOf(url)), OpenAI.AuthenticationError);
    await whole(clientOf(url, { apiKey: "sk-acceptance" }));
  });
}

// Told to come back later, the SDK comes back by itself; there is a place by then.
async function queueFull() {
  await serve(["--max-queue", "1"], async (url) => {
    const leaving = new AbortController();
    await occupy(url, "blazr_running_requests", leaving.signal);
    await occupy(url, "blazr_queue_requests", leaving.signal);
    await assert.rejects(whole(clientOf(url)), OpenAI.RateLimitError);
    const again = whole(clientOf(url, { maxRetries: 5 }));
    await setTimeout(300);
    leaving.abort();
    await again;
  });
}

async function broken() {
  await serve(["--request-timeout", "1"], async (url) => {
    await assert.rejects(clientOf(url).completions.create(long), OpenAI.InternalServerError);
    const stream = await clientOf(url).completions.create({ ...long, stream: true });
    let pieces = 0;
    const read = async () => {
      for await (const _ of stream) pieces += 1;
    };
    await assert.rejects(read(), OpenAI.APIError);
    assert.ok(pieces > 0);
  });
}

async function unreachable() {
  await assert.rejects(client.completions.create(long, { timeout: 200 }), OpenAI.APIConnectionTimeoutError);
  let gone;
  await serve([], async (url) => (gone = url));
  await assert.rejects(whole(clientOf(gone)), OpenAI.APIConnectionError);
}

const steps = [whole, streamed, aborted, refused, keyAskedFor, queueFull, broken, unreachable];
for (const step of steps) {
  await step();
  console.log(`${step.name} ... ok`);
}
console.log(`${steps.length} passed, 0 failed`);
