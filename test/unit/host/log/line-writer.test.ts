import { describe, expect, it } from "vitest";
import { createLineWriter } from "../../../../src/host/log/line-writer.ts";
import type { LineWriter } from "../../../../src/host/log/line-writer.ts";

/** A file that takes so many bytes, or fails. */
function fakeFile(): {
  text: string;
  room: number;
  error: string;
  lost: number[];
  errors: (string | undefined)[];
  writer: LineWriter;
} {
  const file = {
    text: "",
    room: Number.POSITIVE_INFINITY,
    error: "EAGAIN",
    lost: [] as number[],
    errors: [] as (string | undefined)[],
    writer: createLineWriter(7, {
      onLost: (lines) => {
        file.lost.push(lines);
        file.writer.write(`lost ${lines}\n`);
      },
      onError: () => file.errors.push(file.writer.error()),
      write: (_fd, bytes, done) =>
        setImmediate(() => {
          const count = Math.min(bytes.length, file.room);
          if (count === 0) return done(Object.assign(new Error(file.error), { code: file.error }), 0);
          file.room -= count;
          file.text += Buffer.from(bytes.subarray(0, count)).toString("latin1");
          done(null, count);
        }),
    }),
  };
  return file;
}

describe("lines", () => {
  it("come out whole and in their order, however little is taken at once", async () => {
    const file = fakeFile();
    file.room = 5;
    for (const line of ["one\n", "two\n", "three\n"]) file.writer.write(line);
    await expect.poll(() => file.text).toBe("one\nt");
    file.writer.write("four\n");
    file.room = Number.POSITIVE_INFINITY;
    await expect.poll(() => file.text).toBe("one\ntwo\nthree\nfour\n");
    expect(file.errors).toEqual([]);
  });

  it("wait while there is an error, which is told once, and once more when it is over", async () => {
    const file = fakeFile();
    file.room = 0;
    file.error = "ENOSPC";
    file.writer.write("one\n");
    await expect.poll(() => file.errors).toEqual(["ENOSPC"]);
    file.room = Number.POSITIVE_INFINITY;
    await expect.poll(() => file.text).toBe("one\n");
    expect(file.errors).toEqual(["ENOSPC", undefined]);
  });

  it("that are more than memory may hold are dropped and counted, and told where they are missing", async () => {
    const file = fakeFile();
    file.room = 0;
    const line = `${"x".repeat(999_999)}\n`;
    for (let count = 0; count < 14; count += 1) file.writer.write(line);
    file.room = Number.POSITIVE_INFINITY;
    await expect.poll(() => file.text.endsWith("lost 3\n")).toBe(true);
    file.writer.write("after\n");
    await expect.poll(() => file.text.endsWith("lost 3\nafter\n")).toBe(true);
    expect(file.text.length).toBe(11_000_000 + "lost 3\nafter\n".length);
    expect(file.lost).toEqual([3]);
  });

  it("are waited for at the end, but not for ever", async () => {
    const file = fakeFile();
    file.writer.write("one\n");
    await file.writer.flush(5000);
    expect(file.text).toBe("one\n");
    file.room = 0;
    file.writer.write("two\n");
    await file.writer.flush(20);
    expect(file.text).toBe("one\n");
  });

  it("a bug is thrown", () => {
    const writer = createLineWriter(7, {
      onLost: () => undefined,
      onError: () => undefined,
      write: (_fd, _bytes, done) => done(new TypeError("a bug"), 0),
    });
    expect(() => writer.write("one\n")).toThrow("a bug");
  });
});
