import { describe, expect, it } from "vitest";
import { createDatagrams } from "../../../../src/host/systemd/datagram-queue.ts";

/** A socket that is full while `full` is true, and rejects datagrams while `broken` is true. */
function fakeSocket(): {
  sent: string[];
  full: boolean;
  broken: boolean;
  write: (fd: number, bytes: Uint8Array) => number;
} {
  const socket = {
    sent: [] as string[],
    full: false,
    broken: false,
    write(_fd: number, bytes: Uint8Array): number {
      const code = socket.full ? "EAGAIN" : socket.broken ? "EMSGSIZE" : undefined;
      if (code !== undefined) throw Object.assign(new Error(code), { code });
      socket.sent.push(Buffer.from(bytes).toString());
      return bytes.length;
    },
  };
  return socket;
}

const never = (): void => {
  throw new Error("nothing failed");
};

describe("the datagram queue", () => {
  it("sends each datagram at once, one per write", () => {
    const socket = fakeSocket();
    const datagrams = createDatagrams(7, socket.write);
    for (const text of ["a", "b"]) datagrams.send(Buffer.from(text), never);
    expect(socket.sent).toEqual(["a", "b"]);
  });

  it("keeps datagrams in order until a full socket accepts them", async () => {
    const socket = fakeSocket();
    const datagrams = createDatagrams(7, socket.write);
    socket.full = true;
    for (const text of ["a", "b", "c"]) datagrams.send(Buffer.from(text), never);
    expect(socket.sent).toEqual([]);
    socket.full = false;
    datagrams.send(Buffer.from("d"), never);
    await expect.poll(() => socket.sent).toEqual(["a", "b", "c", "d"]);
  });

  it("returns a datagram that the socket rejects, and sends the next one", () => {
    const socket = fakeSocket();
    const datagrams = createDatagrams(7, socket.write);
    const failed: string[] = [];
    socket.broken = true;
    datagrams.send(Buffer.from("a"), () => failed.push("a"));
    socket.broken = false;
    datagrams.send(Buffer.from("b"), never);
    expect({ failed, sent: socket.sent }).toEqual({ failed: ["a"], sent: ["b"] });
  });

  it("returns the queued datagrams on flush when the socket stays full", () => {
    const socket = fakeSocket();
    const datagrams = createDatagrams(7, socket.write);
    const failed: string[] = [];
    socket.full = true;
    for (const text of ["a", "b"]) datagrams.send(Buffer.from(text), () => failed.push(text));
    datagrams.flush();
    expect(failed).toEqual(["a", "b"]);
  });

  it("throws an error that is not the socket's", () => {
    const datagrams = createDatagrams(7, () => {
      throw new TypeError("a bug");
    });
    expect(() => datagrams.send(Buffer.from("a"), never)).toThrow("a bug");
  });
});
