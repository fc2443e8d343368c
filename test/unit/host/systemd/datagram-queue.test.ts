import { describe, expect, it } from "vitest";
import { createDatagrams } from "../../../../src/host/systemd/datagram-queue.ts";

/** A socket that is full while `full` says so, or that fails. */
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

describe("datagrams", () => {
  it("go out at once, each by itself", () => {
    const socket = fakeSocket();
    const datagrams = createDatagrams(7, socket.write);
    for (const text of ["a", "b"]) datagrams.send(Buffer.from(text), never);
    expect(socket.sent).toEqual(["a", "b"]);
  });

  it("that find the socket full wait, and keep their order", async () => {
    const socket = fakeSocket();
    const datagrams = createDatagrams(7, socket.write);
    socket.full = true;
    for (const text of ["a", "b", "c"]) datagrams.send(Buffer.from(text), never);
    expect(socket.sent).toEqual([]);
    socket.full = false;
    datagrams.send(Buffer.from("d"), never);
    await expect.poll(() => socket.sent).toEqual(["a", "b", "c", "d"]);
  });

  it("that cannot be sent are given back, and hold up no others", () => {
    const socket = fakeSocket();
    const datagrams = createDatagrams(7, socket.write);
    const failed: string[] = [];
    socket.broken = true;
    datagrams.send(Buffer.from("a"), () => failed.push("a"));
    socket.broken = false;
    datagrams.send(Buffer.from("b"), never);
    expect({ failed, sent: socket.sent }).toEqual({ failed: ["a"], sent: ["b"] });
  });

  it("are given back at the end, when the socket stays full", () => {
    const socket = fakeSocket();
    const datagrams = createDatagrams(7, socket.write);
    const failed: string[] = [];
    socket.full = true;
    for (const text of ["a", "b"]) datagrams.send(Buffer.from(text), () => failed.push(text));
    datagrams.flush();
    expect(failed).toEqual(["a", "b"]);
  });

  it("throws what is no fault of the socket", () => {
    const datagrams = createDatagrams(7, () => {
      throw new TypeError("a bug");
    });
    expect(() => datagrams.send(Buffer.from("a"), never)).toThrow("a bug");
  });
});
