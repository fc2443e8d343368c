import { execFileSync } from "node:child_process";
import { closeSync, constants, openSync, readSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { createLineWriter } from "../../../../src/host/log/line-writer.ts";
import type { LineWriter } from "../../../../src/host/log/line-writer.ts";

const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;
/** Bytes that a pipe holds. */
const PIPE = 65_536;
let folder: string;
let reader: number;
let written: number;
let writer: LineWriter;
let dropped: number[];
let errors: (string | undefined)[];

/** A real pipe; it is read only when a test asks for it. */
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "kvmnatd-log-"));
  execFileSync("mkfifo", [join(folder, "pipe")]);
  reader = openReader();
  written = openSync(join(folder, "pipe"), O_WRONLY | O_NONBLOCK);
  dropped = [];
  errors = [];
  writer = createLineWriter(written, {
    onDropped: (lines) => {
      dropped.push(lines);
      writer.write(`dropped ${lines}\n`);
    },
    onError: () => errors.push(writer.error()),
    maxBuffered: 500_000,
  });
});
afterEach(async () => {
  let isEmpty = false;
  void writer.flush(5000).then(() => (isEmpty = true));
  await expect
    .poll(() => {
      read();
      return isEmpty;
    })
    .toBe(true);
  closeSync(reader);
  closeSync(written);
  await rm(folder, { recursive: true });
});

function openReader(): number {
  return openSync(join(folder, "pipe"), O_RDONLY | O_NONBLOCK);
}

/** What is in the pipe now. */
function read(): string {
  const chunks: string[] = [];
  const buffer = Buffer.alloc(PIPE);
  try {
    for (;;) {
      const length = readSync(reader, buffer);
      if (length === 0) break;
      chunks.push(buffer.toString("latin1", 0, length));
    }
  } catch (error) {
    expect(error).toMatchObject({ code: "EAGAIN" });
  }
  return chunks.join("");
}

/** Reads until the text ends so. */
async function readUntil(end: string): Promise<string> {
  let text = "";
  await expect.poll(() => (text += read()).endsWith(end), { timeout: 20_000, interval: 5 }).toBe(true);
  return text;
}

it("writes every line of a slow reader, in order", async () => {
  const lines = Array.from({ length: 10_000 }, (_, index) => `line ${index}\n`);
  for (const line of lines) writer.write(line);
  expect(await readUntil("line 9999\n")).toBe(lines.join(""));
  expect([dropped, errors]).toEqual([[], []]);
});

it("drops and counts lines beyond its buffer, and reports them where they are missing", async () => {
  const line = `${"x".repeat(49_999)}\n`;
  for (let count = 0; count < 14; count += 1) writer.write(line);
  const text = await readUntil("dropped 4\n");
  writer.write("after\n");
  expect(await readUntil("after\n")).toBe("after\n");
  expect(text.length).toBe(500_000 + "dropped 4\n".length);
  expect(dropped).toEqual([4]);
});

it("keeps lines while there is an error, which is reported once, and once more when it is over", async () => {
  closeSync(reader);
  writer.write("one\n");
  await expect.poll(() => errors).toEqual(["EPIPE"]);
  reader = openReader();
  expect(await readUntil("one\n")).toBe("one\n");
  await expect.poll(() => errors).toEqual(["EPIPE", undefined]);
});

it("waits for its lines to be written, but not longer than it may", async () => {
  writer.write("one\n");
  await writer.flush(5000);
  expect(read()).toBe("one\n");
  writer.write(`${"x".repeat(2 * PIPE)}\n`);
  await writer.flush(20);
  expect(read().length).toBeLessThanOrEqual(PIPE);
});

it("throws what is not an error of the file", () => {
  const broken = createLineWriter(2 ** 40, { onDropped: () => undefined, onError: () => undefined });
  expect(() => broken.write("one\n")).toThrow(RangeError);
});
