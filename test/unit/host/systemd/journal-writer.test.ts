import { describe, expect, it } from "vitest";
import { createJournal } from "../../../../src/host/systemd/journal-writer.ts";

function encode(fields: Readonly<Record<string, string>>): string {
  let sent = Buffer.of();
  const journal = createJournal(7, {
    send: (datagram) => (sent = Buffer.from(datagram)),
    flush: () => undefined,
  });
  journal.write(fields, () => undefined);
  return sent.toString("latin1");
}

describe("an entry of the journal", () => {
  it("has one line per field", () => {
    expect(encode({ MESSAGE: "a=b", PRIORITY: "6" })).toBe("MESSAGE=a=b\nPRIORITY=6\n");
  });

  it("states the length in bytes of a value with several lines", () => {
    expect(encode({ MESSAGE: "ä\nb" })).toBe("MESSAGE\n\x04\0\0\0\0\0\0\0\u00c3\u00a4\nb\n");
  });
});
