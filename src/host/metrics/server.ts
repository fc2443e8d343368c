import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { formatEndpoint } from "../../config/values/endpoint.ts";
import type { Endpoint } from "../../config/values/endpoint.ts";
import { errnoOf } from "../../errors.ts";

const PATH = "/metrics";
/** Prometheus asks over one connection; whoever else connects gets these, and no more of our memory. */
const MAX_CONNECTIONS = 32;
const LIMITS = {
  maxHeaderSize: 8192,
  /** Whoever connects must have asked by then. */
  headersTimeout: 5000,
  requestTimeout: 5000,
  connectionsCheckingInterval: 1000,
};
/** Whoever has asked must go on reading the answer. */
const IDLE_MS = 10_000;
const RETRY_MS = 2000;

export interface Page {
  readonly contentType: string;
  readonly text: string;
}

export interface MetricsServer {
  /** Listens there from now on, and nowhere else; undefined: nowhere. What fails is tried again until it works. */
  listenAt(endpoint: Endpoint | undefined): void;
  /** Ends it. */
  stop(): Promise<void>;
}

/** Where it listens now, or why it does not. */
export type Listening = { readonly at: Endpoint } | { readonly problem: string } | undefined;

/**
 * Serves one page over HTTP to whoever asks for it.
 * @param makePage called for each request
 * @param onState called when it begins to listen, when it ends, and each time that it cannot
 */
export function createMetricsServer(
  makePage: () => Promise<Page>,
  onState: (state: Listening) => void,
): MetricsServer {
  let wanted: Endpoint | undefined;
  let server: Server | undefined;
  let retry: NodeJS.Timeout | undefined;
  let turn: Promise<void> = Promise.resolve();

  function listenAt(endpoint: Endpoint | undefined): void {
    if (endpoint?.host === wanted?.host && endpoint?.port === wanted?.port) return;
    wanted = endpoint;
    clearTimeout(retry);
    again();
  }

  function again(): void {
    turn = turn.then(change);
  }

  async function change(): Promise<void> {
    if (server !== undefined) await close(server);
    server = undefined;
    const at = wanted;
    if (at === undefined) return onState(undefined);
    try {
      server = await open(at, makePage);
      server.on("error", (error) => fail(at, error));
      onState({ at });
    } catch (error) {
      fail(at, error);
    }
  }

  function fail(at: Endpoint, error: unknown): void {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    onState({ problem: explain(at, code) });
    clearTimeout(retry);
    retry = setTimeout(again, RETRY_MS).unref();
  }

  return {
    listenAt,
    stop: async () => {
      listenAt(undefined);
      await turn;
    },
  };
}

async function open({ host, port }: Endpoint, makePage: () => Promise<Page>): Promise<Server> {
  // It takes 80 ms and 16 MB to load: only where it is wanted.
  const { createServer } = await import("node:http");
  const server = createServer(LIMITS, (request, response) => void serve(request, response, makePage));
  server.maxConnections = MAX_CONNECTIONS;
  server.setTimeout(IDLE_MS);
  await new Promise<void>((done, failed) => {
    server.once("error", failed);
    server.listen({ host, port }, done);
  });
  server.removeAllListeners("error");
  return server;
}

async function close(server: Server): Promise<void> {
  const closed = new Promise((done) => server.close(done));
  server.closeAllConnections();
  await closed;
}

async function serve(
  { method, url }: IncomingMessage,
  response: ServerResponse,
  makePage: () => Promise<Page>,
): Promise<void> {
  // One request a connection: who asks every 15 s needs no open one, who asks all the time shall not keep it.
  response.setHeader("Connection", "close");
  if (url?.split("?")[0] !== PATH) return answer(response, 404, `only ${PATH} is here\n`);
  if (method !== "GET") {
    response.setHeader("Allow", "GET");
    return answer(response, 405, "only GET works here\n");
  }
  const { contentType, text } = await makePage();
  return answer(response, 200, text, contentType);
}

function answer(
  response: ServerResponse,
  status: number,
  text: string,
  contentType = "text/plain; charset=utf-8",
): void {
  response.writeHead(status, { "Content-Type": contentType, "Content-Length": Buffer.byteLength(text) });
  response.end(text);
}

function explain(at: Endpoint, code: string): string {
  const where = `metrics cannot be served at ${formatEndpoint(at)}`;
  return `${where}: ${(FAULTS[code] ?? (() => code))(at.port)}; forwards work; kvmnatd retries every 2 s`;
}

const FAULTS: Readonly<Record<string, (port: number) => string>> = {
  EADDRINUSE: (port) =>
    `another program listens there (\`ss -ltnp sport = :${port}\` names it); stop it, or set another port at metrics in the config`,
  EADDRNOTAVAIL: () =>
    "the address is not on this host (yet); add it, or set another at metrics in the config",
  EACCES: () => "permission denied; set a port above 1023 at metrics in the config",
};
