import { chmod, rm } from "node:fs/promises";
import { createConnection, createServer } from "node:net";
import type { Socket } from "node:net";
import { join } from "node:path";
import { errnoOf, KvmnatdError } from "../errors.ts";

const NAME = "control";
/** Maximum length of a request. */
const MAX_REQUEST = 200;
/** Timeout for the request of a client that has connected. */
const IDLE_MS = 10_000;

/** Requests that the daemon accepts. */
export type Request = "reload" | "handover";

export interface Answer {
  readonly exitCode: number;
  /** Text for people, of any number of lines. */
  readonly text: string;
}

/**
 * Listens on a socket in the runtime folder that only the daemon's own user and root may write.
 * This process must hold the folder's lock (lock.ts): an existing socket is a leftover of an earlier daemon.
 * @returns a function that ends it
 * @throws KvmnatdError when the folder cannot be written
 */
export async function serveControl(
  folder: string,
  answer: (request: Request) => Promise<Answer>,
): Promise<() => Promise<void>> {
  const path = join(folder, NAME);
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    serve(socket, answer);
  });
  try {
    await rm(path, { force: true });
    await new Promise<void>((done, fail) => {
      server.once("error", fail);
      server.listen(path, done);
    });
    // A later error (no open file is left for a client) does not prevent later connections.
    server.removeAllListeners("error").on("error", () => undefined);
    await chmod(path, 0o600);
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    const message = `${path} cannot be made (${code}): \`kvmnatd reload\` does not work; SIGHUP does`;
    throw new KvmnatdError("control-socket-failed", message, { cause: error });
  }
  return async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((done) => server.close(done));
  };
}

function serve(socket: Socket, answer: (request: Request) => Promise<Answer>): void {
  let received = "";
  socket.setEncoding("utf8");
  socket.setTimeout(IDLE_MS, () => socket.destroy());
  // The client has gone.
  socket.on("error", () => socket.destroy());
  socket.on("data", (chunk: string) => {
    received += chunk;
    if (received.length > MAX_REQUEST) socket.destroy();
    if (!received.includes("\n")) return;
    socket.removeAllListeners("data");
    socket.setTimeout(0);
    const request = received.slice(0, received.indexOf("\n"));
    if (request === "reload" || request === "handover")
      void answer(request).then((given) => socket.end(`${JSON.stringify(given)}\n`));
    else socket.end(`${JSON.stringify({ exitCode: 64, text: "unknown request" })}\n`);
  });
}

/** @returns the daemon's answer; undefined when none runs. @throws KvmnatdError without permission, or when the daemon ends meanwhile */
export async function askDaemon(folder: string, request: Request): Promise<Answer | undefined> {
  const path = join(folder, NAME);
  const socket = createConnection(path);
  let received = "";
  socket.setEncoding("utf8");
  socket.on("data", (chunk: string) => (received += chunk));
  try {
    await new Promise<void>((done, fail) => {
      socket.once("error", fail);
      socket.once("end", done);
      socket.write(`${request}\n`);
    });
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    if (code === "ENOENT" || code === "ECONNREFUSED") return undefined;
    const why = code === "EACCES" ? "permission denied; run as root" : code;
    throw new KvmnatdError("control-socket-failed", `${path}: ${why}`, { cause: error });
  }
  if (!received.endsWith("\n"))
    throw new KvmnatdError("control-socket-failed", "kvmnatd ended before it answered; see its log");
  return JSON.parse(received) as Answer;
}
